"""Many hooks at once on one node."""
