"""Batch systems: what their hooks are given, and what they make of an exit status."""
