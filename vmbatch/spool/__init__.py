"""Directories that a job owns: in the spool, on the share, for the hand-over."""
