"""The lab: a private compute node with real guests, built from Debian's packages. For development; not in the wheel."""
