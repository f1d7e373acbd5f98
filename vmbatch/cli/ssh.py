"""`vmbatch ssh`: into the guest of a job."""

from __future__ import annotations

import click

from . import complete


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("job", shell_complete=complete.jobs)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(job: str, command: tuple[str, ...]) -> None:
    """Log in to the guest of a job, as the job's user; or run COMMAND there, with its exit status.

    Users can do this with their own jobs. What the guest writes goes to the terminal as it is, as with every ssh.

    \b
    Example: vmbatch ssh 42 -- ps aux
    """
    import os
    import sys

    from .. import sshargs
    from ..errors import NodeError
    from ..handover import decode
    from ..job import slug
    from .job import find

    known = find(job)
    if not known.running:
        raise NodeError(f"the guest of job {known.job} is not ready: phase {known.phase}", "try again when vmbatch ps shows run",
                        code="VB920")
    place = os.path.join(sshargs.HANDOVER, slug(known.job))
    try:
        with open(os.path.join(place, "record"), "rb") as opened:
            record = decode(opened.read())
    except (OSError, ValueError) as error:
        raise NodeError(f"job {known.job} is over: {error}", code="VB920") from None
    if record.token != known.token:
        raise NodeError(f"job {known.job} has been started again", "try again", code="VB920")
    if not record.address:
        raise NodeError(f"the guest of job {known.job} has no network: its job came through a console",
                        "root can see that by vmbatch console", code="VB920")
    terminal = ["-t"] if not command and sys.stdin.isatty() else []
    words = [*sshargs.client(place, record.alias, _own_key(known.unique)), *terminal,
             *sshargs.target(record.user, record.address, record.port), *command]
    os.execve(words[0], words, {name: value for name, value in os.environ.items() if name in ("PATH", "TERM", "LANG", "LC_ALL")})  # noqa: S606


def _own_key(unique: str) -> str:
    """Root's own copy of the job's key, as that in the hand-over directory is the user's; '' for others."""
    import os

    from ..hooked import load_config
    from ..host.ssh import key_files

    if os.geteuid() != 0:
        return ""
    return key_files(os.path.join(load_config().spool_directory, unique, "keys"))[0]
