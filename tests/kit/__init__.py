"""The guest kit, each script under every shell that a guest may have as its /bin/sh."""
