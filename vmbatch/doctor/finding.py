"""What a check says, and what checks are."""

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from ..catalogue import CATALOGUE
from ..config import Config
from ..errors import InputError, VmBatchError
from ..template import Template

Level = Literal["ok", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "error")
"""In this order they are exit statuses, too: 0, 1 and 2, as monitoring knows them (Nagios)."""


class Finding(msgspec.Struct, frozen=True):
    """What one check has found: `found` says what is, `advice` what to do; `check` is the check's name."""

    level: Level
    found: str
    advice: str = ""
    check: str = ""


class Site(msgspec.Struct, frozen=True):
    """What checks look at: the settings, and those templates of all queues that can be read.

    `user` is '' or a submitting user's name; `whole`: images are read, and compared with their digests.
    """

    config: Config
    templates: tuple[Template, ...]
    user: str = ""
    whole: bool = False

    def of_type(self, *types: str) -> tuple[Template, ...]:
        """The templates whose domains are of these types."""
        return tuple(form for form in self.templates if form.type in types)


class Check(msgspec.Struct, frozen=True):
    """`look` says what it finds, or raises what a job would; nothing for what this site does not have.

    `about` says what is looked at; `root`: only root can tell; `settings`: it makes no sense without a configuration.
    `seconds` it may take, and `reading` if it reads whole images. `needs` names a check without which this one says nothing new.
    """

    name: str
    about: str
    look: Callable[[Site], Iterator[Finding]]
    root: bool = False
    settings: bool = True
    seconds: float = 10.0
    reading: float = 0.0
    needs: str = ""


UNNEEDED = "nothing here needs it"
"""What is said of a check that finds nothing to look at."""


def ok(found: str) -> Finding:
    """All is well."""
    return Finding("ok", found)


def warning(found: str, advice: str = "") -> Finding:
    """Jobs run, but not as they could, or not for long."""
    return Finding("warning", found, advice)


def error(found: str, advice: str = "") -> Finding:
    """Jobs fail, or are not safe."""
    return Finding("error", found, advice)


def of_error(wrong: VmBatchError) -> list[Finding]:
    """A finding for each mistake that an error names; an error without a hint has the catalogue's."""
    advice = wrong.hint or (CATALOGUE[wrong.code].remedy if wrong.code else "")
    if isinstance(wrong, InputError):
        return [error(f"{wrong.path}:{line}: {text}" if line else f"{wrong.path}: {text}", advice)
                for line, text in wrong.problems]
    return [error(wrong.what, advice)]


def worst(findings: list[Finding]) -> Level:
    """The level of all findings together."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")
