"""`vmbatch install`, `vmbatch uninstall`: VmBatch onto a node and off it; `vmbatch completion`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..installation.record import Chosen

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.option("--torque", is_flag=True, help="for Torque: hooks in mom_priv, and mom_priv/config")
@click.option("--openpbs", is_flag=True, help="for OpenPBS: hooks in mom_priv, and what qmgr is to be told")
@click.option("--slurm", is_flag=True, help="for Slurm: the plugin, and plugstack.conf")
@click.option("--mom-priv", "mom_privs", metavar="DIR", multiple=True,
              help="pbs_mom's directory, if it is not where it usually is; may be repeated")
@click.option("--slurm-conf", metavar="DIR", help="the directory of slurm.conf  [default: /etc/slurm]")
@click.option("--health", is_flag=True, help="for Torque: pbs_mom asks VmBatch whether the node is sound")
@click.option("--qmgr", is_flag=True, help="for OpenPBS: tell the server, too")
@click.option("--dry-run", is_flag=True, help="only show what would be done")
@click.option("--yes", is_flag=True, help="do not ask")
def install(torque: bool, openpbs: bool, slurm: bool, mom_privs: tuple[str, ...], slurm_conf: str | None, health: bool,
            qmgr: bool, dry_run: bool, yes: bool) -> None:
    """Put VmBatch onto this node: hooks, configuration, directories, units of systemd's. Shows what it will do, and asks.

    Without a batch system it repeats what was done last, for instance after a new version of VmBatch.

    \b
    Example: vmbatch install --torque --mom-priv /var/spool/torque/mom_priv
    """
    from ..errors import SiteError
    from ..installation import course, record

    _root()
    chosen = _chosen(torque, openpbs, slurm, mom_privs, slurm_conf, health, qmgr)
    with record.alone():
        if not (torque or openpbs or slurm) and record.load() is None:
            raise SiteError("for which batch system?", "give --torque, --openpbs or --slurm", code="VB918")
        prepared = course.prepare(chosen, _completions())
        for note in prepared.plan.notes:
            click.echo(f"note: {note}")
        lines = prepared.lines()
        _show(lines)
        if lines and not dry_run:
            _ask(yes)
            left = course.install(prepared)
            for line in left:
                click.echo(line)
            click.echo("VmBatch is installed on this node, and all of it is as it must be")
    if not dry_run:
        click.echo("\n".join(["Left to do, where it is not done yet:", *(f"  - {line}" for line in prepared.plan.remaining)]))


@click.command()
@click.option("--dry-run", is_flag=True, help="only show what would be done")
@click.option("--yes", is_flag=True, help="do not ask")
def uninstall(dry_run: bool, yes: bool) -> None:
    """Take VmBatch off this node: all that `vmbatch install` made goes, and the site's own is as it was.

    \b
    Example: vmbatch uninstall --dry-run
    """
    from ..installation import course, record

    _root()
    with record.alone():
        own, lines = course.foresee()
        _show(lines)
        if dry_run:
            return
        _ask(yes)
        for line in course.uninstall(own):
            click.echo(line)
    click.echo("VmBatch is off this node")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what has SHELL complete the words of `vmbatch`; `vmbatch install` puts it where shells look for it.

    \b
    Example: vmbatch completion bash
    """
    click.echo(_completions()[shell].decode(), nl=False)


def _completions() -> dict[str, bytes]:
    from click.shell_completion import ShellComplete, get_completion_class

    from . import main

    found = {}
    for shell in _SHELLS:
        kind = get_completion_class(shell)
        if kind is not None:  # bash's own method would ask which bash is here
            text = ShellComplete.source(kind(main, {}, "vmbatch", "_VMBATCH_COMPLETE"))
            found[shell] = f"{text.rstrip()}\n".encode()
    return found


def _chosen(torque: bool, openpbs: bool, slurm: bool, mom_privs: tuple[str, ...], slurm_conf: str | None, health: bool,
            qmgr: bool) -> Chosen:
    """The options as a value. UsageError for those that do not go together."""
    import os

    from ..installation import course
    from ..installation import openpbs as pbs
    from ..installation import slurm as slurms
    from ..installation import torque as torques
    from ..installation.record import Chosen

    if mom_privs and torque == openpbs:
        raise click.UsageError("--mom-priv goes with either --torque or --openpbs")
    if slurm_conf is not None and not slurm:
        raise click.UsageError("--slurm-conf goes with --slurm")
    if health and not torque:
        raise click.UsageError("--health goes with --torque; with Slurm it is a line of slurm.conf")
    if qmgr and not openpbs:
        raise click.UsageError("--qmgr goes with --openpbs")
    named = tuple(dict.fromkeys(os.path.abspath(place) for place in mom_privs))
    etc = next((place for place in slurms.PLACES if os.path.isdir(place)), slurms.PLACES[0])
    return Chosen(
        torque=(named or course.mom_privs(torques.PLACES, "Torque")) if torque else (),
        openpbs=(named or course.mom_privs(pbs.places(), "OpenPBS")) if openpbs else (),
        slurm=(os.path.abspath(slurm_conf or etc),) if slurm else (),
        health=health, qmgr=qmgr,
    )


def _root() -> None:
    import os

    from ..errors import SiteError

    if os.geteuid() != 0:
        raise SiteError("only root can do that", "run it with sudo", code="VB921")


def _show(lines: list[str]) -> None:
    click.echo("\n".join(lines) if lines else "nothing to do")


def _ask(yes: bool) -> None:
    import sys

    from ..errors import SiteError

    if yes:
        return
    if not sys.stdin.isatty():
        raise SiteError("nobody is there to be asked", "look at this with --dry-run, then give --yes", code="VB918")
    click.confirm("Go on?", abort=True)
