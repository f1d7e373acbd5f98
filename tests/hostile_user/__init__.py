"""A hostile user's list: what is tried, on a node with the real hooks and guests that are played, and what comes of it."""
