"""What passes between guests' interfaces and their network, by the real nft and real frames in a network of its own."""
