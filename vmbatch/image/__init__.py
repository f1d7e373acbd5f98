"""Images: where they come from, whether they are what they should be, and the node's store of them."""
