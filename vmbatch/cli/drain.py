"""`vmbatch drain`, `vmbatch undrain`: whether this node takes jobs with guests."""

from __future__ import annotations

import click


@click.command()
@click.option("--why", default="no reason given", show_default=True, help="a note for users, admins and the batch system")
def drain(why: str) -> None:
    """Have this node take no new jobs with guests. Those that run go on; the word lasts over boots. For root.

    A job that comes nevertheless goes back into its queue; the health check tells the batch system.

    \b
    Example: vmbatch drain --why "new disks"
    """
    import time

    from .. import drain as note
    from .. import status
    from .job import require_root

    require_root("vmbatch drain")
    if not why.isprintable() or not why.strip():
        raise click.BadParameter("must be one line of text", param_hint="--why")
    note.drain(_caller(), why.strip(), time.time())
    running = len(status.look())
    click.echo(f"this node is drained: {_jobs(running)}")


def _jobs(count: int) -> str:
    if not count:
        return "no job has a guest here"
    return "one job still has its guest here, see vmbatch ps" if count == 1 else \
        f"{count} jobs still have their guests here, see vmbatch ps"


@click.command()
def undrain() -> None:
    """Have this node take jobs with guests again. For root.

    A node that Slurm has drained, as the health check said so, comes back by scontrol update NodeName=... State=RESUME.

    \b
    Example: vmbatch undrain
    """
    from .. import drain as note
    from . import table
    from .job import require_root

    require_root("vmbatch undrain")
    was = note.undrain()
    click.echo("this node was not drained" if was is None else f"this node takes jobs again; it was {table.plain(str(was))}")


def _caller() -> str:
    """Who did it; behind sudo, by its own word."""
    import os
    import pwd

    name = os.environ.get("SUDO_USER", "")
    if name.isprintable() and 0 < len(name) <= 64:
        return name
    return pwd.getpwuid(os.getuid()).pw_name
