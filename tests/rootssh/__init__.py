"""The context sent into running guests over ssh: real sshds, and servers that mean harm."""
