"""Hypervisors: what each takes, and the domain as a thing a job owns."""
