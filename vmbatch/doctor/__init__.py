"""What a site needs, condition by condition: looked at, judged, and said with what to do."""
