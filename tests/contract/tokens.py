"""Tokens that no test shares with another."""

import secrets


def new_token() -> str:
    return secrets.token_hex(16)
