"""Jobs on several nodes: a second node beside the lab's own, and guests that find each other."""
