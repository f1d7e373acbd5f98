"""Putting VmBatch onto a node, and taking it off again: what is wanted, what was made, and the hooks as files."""
