"""Disks of jobs, and what is written into them before the guest boots, with real tools and file systems."""
