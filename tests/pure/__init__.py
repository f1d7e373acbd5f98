"""Tests in which no process can be started and nothing be connected to, by construction."""
