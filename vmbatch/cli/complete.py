"""What shells offer while somebody types a command: jobs, templates, checks, codes. Nothing, where that cannot be known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..config import Config


def jobs(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Those that the caller may see."""
    from .. import status
    from ..errors import VmBatchError

    try:
        return [each.job for each in status.look() if each.job.startswith(begun)]
    except VmBatchError:
        return []


def templates(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """By their names in the directory of templates; paths as every shell does it."""
    import os

    from click.shell_completion import CompletionItem

    from ..errors import VmBatchError

    if "/" in begun:
        return [CompletionItem(begun, type="file")]
    try:
        names = sorted(os.listdir(_config().templates_directory))
    except (VmBatchError, OSError):
        return []
    return [CompletionItem(name.removesuffix(".xml")) for name in names if name.endswith(".xml") and name.startswith(begun)]


def _config() -> Config:
    """The node's for root, for others their own."""
    import os

    from .. import session
    from ..hooked import load_config

    return load_config() if os.geteuid() == 0 else session.settle(session.places())


def checks(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Of `vmbatch doctor`."""
    from click.shell_completion import CompletionItem

    from ..doctor.checks import CHECKS, READ

    known = READ | {check.name: check.about for check in CHECKS}
    return [CompletionItem(name, help=about) for name, about in known.items() if name.startswith(begun)]


def codes(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Of errors."""
    from click.shell_completion import CompletionItem

    from ..catalogue import CATALOGUE

    return [CompletionItem(code, help=entry.title) for code, entry in CATALOGUE.items() if code.startswith(begun.upper())]
