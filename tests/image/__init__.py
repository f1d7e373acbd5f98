"""Images: the store, local ones, remote ones, and what users bring. In the lab's node."""
