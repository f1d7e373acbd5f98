"""remoteshell against a real sshd, without a guest."""
