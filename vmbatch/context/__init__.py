"""What makes a guest the job's own: parameters, keys, archives, and the medium that carries them."""
