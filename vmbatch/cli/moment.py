"""Times as admins write them."""

import datetime
import re
import time

import click

from ..units import parse_duration


def parse(text: str, option: str) -> float:
    """Seconds since 1970; without a time zone it is the node's."""
    try:
        return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter("write such as 2024-02-29T13:00 or 2024-02-29T13:00:00+01:00", param_hint=option) from None


def since(text: str, option: str) -> float:
    """The same, or so long ago: `7d`."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        return parse(text, option)
