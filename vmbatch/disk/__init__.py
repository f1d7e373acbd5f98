"""A job's disks: copies and overlays of images, and what must be known of an image before it is used."""
