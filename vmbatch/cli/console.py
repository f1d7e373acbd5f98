"""`vmbatch console`: what a guest has said, says, and is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import complete

if TYPE_CHECKING:
    from ..config import Config
    from ..hypervisor.domain import Domain

_LOOK_SECONDS = 1.0
_END = b"\x1d"


@click.command()
@click.argument("job", shell_complete=complete.jobs)
@click.option("-f", "--follow", is_flag=True, help="go on with what the guest says, until it is gone")
@click.option("--write", is_flag=True, help="type into the console, by Ctrl-] out of it again")
@click.option("--raw", is_flag=True, help="with the guest's escape sequences, which can do harm to a terminal")
def console(job: str, follow: bool, write: bool, raw: bool) -> None:
    """Print the end of what the guest of a job has written to its console; for root also of one that is kept.

    Users can do this with their own jobs, but for --write: behind a console there may be a shell of root's.

    \b
    Example: vmbatch console 42 -f
    """
    import os

    from ..errors import JobError, NodeError
    from ..hooked import load_config
    from ..host.console import Plain, read_tail
    from ..host.tail import Tail
    from .job import require_root

    if write:
        require_root("to type into a guest's console", "vmbatch ssh leads into the guests of your own jobs")
    config = load_config()
    name, path, live, domain = _chosen(job, config)
    show = (lambda data: data) if raw else Plain().feed
    if write:
        if domain is None:
            raise NodeError(f"job {name} has no guest now", "leave out --write for what it has said", code="VB920")
        _talk(domain, raw)
        return
    if not os.path.exists(path):
        raise NodeError(f"the guest of job {name} has said nothing: there is no {path}", code="VB920")
    if not os.access(path, os.R_OK):
        said = read_tail(path)  # what was there before the log was begun anew
        click.echo(show(said), nl=False)
        raise JobError(f"you cannot read {'more of ' if said else ''}the console of job {name}",
                       "it is for the job's user and root, until it is full and begun anew; where its file system has no access "
                       "control lists, for root alone", code="VB921")
    file = Tail(path, 0)  # before the rest is read: better twice than never
    said = read_tail(path)
    click.echo(show(said), nl=False)
    if not follow or not live:
        if said and not said.endswith(b"\n"):
            click.echo()
        return
    while True:
        over = not os.path.isdir(os.path.dirname(path))
        for piece in file.more():
            click.echo(show(piece), nl=False)
        if over:
            return
        file.wait(_LOOK_SECONDS)


def _chosen(job: str, config: Config) -> tuple[str, str, bool, Domain | None]:
    """(job id, log of the console, whether the job is still there, its guest if root asks) of a job, or one of which something
    is kept. VmBatchError.
    """
    import os

    from .. import journal, status

    root = os.geteuid() == 0
    kept = {start.job: start.unique for _, start, _, _ in journal.kept()} if root else {}
    live = {each.job: each.unique for each in status.look()}
    found = kept | live
    name = status.chosen(job, found)
    path = os.path.join(config.spool_directory, found[name], "console.log")
    return name, path, name in live, _domain(name) if root and name in live else None


def _domain(job: str) -> Domain | None:
    """The guest by its job's journal. VmBatchError."""
    from .. import journal
    from ..hypervisor.domain import Domain

    known = journal.peek(journal.path_of(job))
    return None if known is None else next((owned for owned in known[1] if isinstance(owned, Domain)), None)


def _talk(domain: Domain, raw: bool) -> None:
    """Between this terminal and the guest's console, until Ctrl-] or the guest's end. VmBatchError."""
    import os
    import select
    import sys
    import termios
    import tty

    from ..host import virt
    from ..host.console import Plain

    plain = Plain()
    typing = sys.stdin.fileno()
    before = termios.tcgetattr(typing) if os.isatty(typing) else None
    with virt.Console(domain.uri, domain.uuid) as console:
        click.echo("The guest's console; Ctrl-] ends this.", err=True)
        try:
            if before is not None:
                tty.setraw(typing)
            while not console.over:
                ready = select.select([typing, console.descriptor], [], [], _LOOK_SECONDS)[0]
                if console.descriptor in ready:
                    data = console.read()
                    click.echo(data if raw else plain.feed(data).replace(b"\n", b"\r\n"), nl=False)
                if typing in ready:
                    typed = os.read(typing, 4096)
                    if not typed or _END in typed:
                        return
                    console.write(typed)
        finally:
            if before is not None:
                termios.tcsetattr(typing, termios.TCSADRAIN, before)
    click.echo("\nvmbatch: the guest has ended", err=True)
