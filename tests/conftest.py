"""Options of the whole suite."""

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew instead of comparing with them")

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
