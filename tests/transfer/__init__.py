"""Downloads from servers that behave badly."""
