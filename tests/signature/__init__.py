"""Signed images, with certificates made by openssl."""
