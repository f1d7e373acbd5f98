"""The pieces of which jobs' disks are made, on real file systems."""
