"""The DISK method: what a job's guest is given, written into its disk before it boots."""
