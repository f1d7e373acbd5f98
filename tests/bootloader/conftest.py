"""The boot loader is that of an installation which accounts without rights can read."""

import sys

import pytest

from lab import node, place


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the lab's node there is one; a clone may lie where only root can read it."""
    if node.inside():
        monkeypatch.setattr(sys, "executable", f"{place.ENVIRONMENT}/bin/python3")
