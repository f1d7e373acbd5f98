"""How node and guest find each other: messages on the share."""
