"""How guests tell the node about themselves."""
