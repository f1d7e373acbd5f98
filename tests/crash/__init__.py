"""The crash matrix: hooks killed at every system call that touches the world, and what may be left then: nothing."""
