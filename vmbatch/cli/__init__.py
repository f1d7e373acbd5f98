"""`vmbatch`: the operator's tool."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .. import __version__
from ..errors import INTERRUPTED, VmBatchError
from . import complete
from .bench import bench
from .check import check
from .console import console
from .doctor import doctor
from .drain import drain, undrain
from .explain import explain
from .image import image
from .install import completion, install, uninstall
from .job import kill, log, ps, show
from .metrics import metrics
from .pool import pool
from .report import report
from .run import run
from .save import save
from .ssh import ssh
from .trace import described, trace

if TYPE_CHECKING:
    from ..config import Config


_SECTIONS = {
    "Jobs and their guests": {
        "ps": "List the jobs with guests on this node",
        "show": "Show a job: its guest, its phases and their seconds",
        "log": "Print a job's log",
        "console": "Print what a job's guest writes to its console",
        "ssh": "Log in to a job's guest, or run a command there",
        "kill": "End a job's guest",
        "keep": "End a job's guest, and keep its disks",
        "kept": "Show what is kept of failed jobs",
        "run": "Run a command in a fresh guest, without a batch system",
    },
    "This node": {
        "doctor": "Check all that guests need here, and say what to do",
        "drain": "Have this node take no new jobs with guests",
        "undrain": "Have this node take jobs with guests again",
        "sweep": "Remove what dead jobs left",
        "image": "List, fetch, verify and prune the images of the store",
        "save": "Save guests of templates, for jobs to go on from",
        "pool": "List, refill and drain the guests that wait for jobs",
        "report": "Show how long phases take, and why starts fail",
        "metrics": "Print this node's figures for Prometheus",
        "trace": "Find out which guest was whose",
        "explain": "Say what an error's code means, and what to do",
    },
    "Templates": {
        "check": "Check a template, and the files that it names",
        "plan": "Show what a job with a template would do",
        "bench": "Measure how long guests of a template take to start",
    },
    "Installation": {
        "install": "Put VmBatch onto this node, and into its batch system",
        "uninstall": "Take VmBatch off this node",
        "hooks": "Write the hooks into a directory",
        "completion": "Print what has a shell complete words of vmbatch",
    },
}
"""What `vmbatch --help` says of each command."""


class _Group(click.Group):
    """Commands by what they are for. Shows our errors as they are meant to be read; exit status 1, or 130 for an interruption."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self.commands))
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), text) for name, text in commands.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except VmBatchError as error:
            first, *rest = error.lines()
            for line in (error.coded(first), *rest):
                click.echo(f"vmbatch: {line}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("vmbatch: interrupted", err=True)
            sys.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmbatch")
def main() -> None:
    """Every batch job in its own fresh virtual machine.

    \b
    Example: vmbatch ps
    """


@main.command()
@click.argument("template", type=click.Path(exists=True, dir_okay=False))
@click.option("--job", "job_id", default="1.example", show_default=True, help="the job's id")
@click.option("--user", required=True, help="the submitting user")
@click.option("--group", help="the submitting group  [default: the user's own]")
@click.option("--cores", type=click.IntRange(1), help="the cores that the job has on this node")
@click.option("--memory", help="the memory that the job has on this node, such as 8G")
@click.option("--wish", "wishes", multiple=True, help="what the submitter asks for, such as vbmemory=8G; may be repeated")
@click.option("--xml/--no-xml", default=True, help="show the domain's XML")
def plan(template: str, job_id: str, user: str, group: str | None, cores: int | None, memory: str | None,
         wishes: tuple[str, ...], xml: bool) -> None:
    """Show what a job with TEMPLATE would do: every step and the exact libvirt XML. Does nothing.

    \b
    Example: vmbatch plan /etc/vmbatch/domains/debian.xml --job 42.server --user alice
    """
    import grp
    import os
    import pwd

    from msgspec import structs

    from .. import facts, resume
    from .. import plan as plans
    from .. import template as templates
    from ..batch.system import Call
    from ..batch.torque import Torque
    from ..batch.wishes import parse_other
    from ..grant import grant
    from ..host import clock
    from ..units import parse_size

    config = _config()
    with open(template, "rb") as file:
        form = templates.parse(file.read(), os.path.abspath(template))
    try:
        size = None if memory is None else parse_size(memory)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--memory") from None
    try:
        own_group = grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        raise click.BadParameter(f"this node knows no user {user}", param_hint="--user") from None
    argv = ["prologue", job_id, user, group or own_group, "plan", "", "plan", ""]
    job = Torque().parse(Call(argv, {}, ""), clock.new_token(), form.job_directory)
    job = structs.replace(job, cores=cores, memory=size, wishes=parse_other(";".join(wishes)))
    for own in facts.choose(form, job.wishes, config).values():
        click.echo(f"note: shown with the template's image, not {' '.join(own.places)}, which is judged when the job starts")
    known = resume.look(facts.look(form, job.token, config), form, grant(job, form, config), config)
    chosen = plans.plan(job, form, config, known)
    click.echo("\n".join(plans.preview(chosen)))
    if xml:
        click.echo(chosen.xml.decode())


@main.command()
@click.option("--dry-run", is_flag=True, help="only say what would be removed")
@click.option("--release", metavar="JOB", help="remove what is kept of this failed job, and nothing else")
def sweep(dry_run: bool, release: str | None) -> None:
    """Remove what dead jobs left on this node. Prints a line for each thing, and nothing if there is nothing.

    \b
    Example: vmbatch sweep --dry-run
    """
    from ..host.log import Log
    from ..release import release_kept
    from ..sweep import LOG
    from ..sweep import sweep as run

    config = _config_of_caller()
    if release is not None:
        if dry_run:
            raise click.UsageError("--release does what it says; leave out --dry-run")
        found = release_kept(release, config, Log(config.log_directory, LOG, "sweep"))
        click.echo("\n".join(found) or f"nothing is kept of job {release}; see vmbatch kept")
        return
    log = Log(None if dry_run else config.log_directory, LOG, "sweep")
    for line in run(config, log, dry_run=dry_run):
        click.echo(line)


@main.command()
@click.argument("job", shell_complete=complete.jobs)
@click.option("--for", "duration", default="7d", show_default=True, metavar="DURATION", help="how long, such as 12h")
@click.option("--why", default="an admin wished so", show_default=True, help="a note on why")
def keep(job: str, duration: str, why: str) -> None:
    """End the guest of the running job JOB, and keep its disks and console for investigation.

    \b
    Example: vmbatch keep 42.server --for 12h --why "mines coins"
    """
    from ..host.log import Log
    from ..release import end_and_keep
    from ..units import parse_duration

    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from None
    if not why.isprintable():
        raise click.BadParameter("must be one line of text", param_hint="--why")
    config = _config()
    click.echo(end_and_keep(job, seconds, why, config, Log(config.log_directory, job, "keep")))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def kept(as_json: bool) -> None:
    """Show what is kept of failed jobs on this node: job, user, until when, where, why, and which images are below the disks.

    \b
    Example: vmbatch kept
    """
    import os

    import msgspec

    from .. import journal
    from .. import trace as traces
    from ..host import clock
    from ..spool.directory import Directory

    config = _config_of_caller()
    found = journal.kept()
    images = {guest.begin.token: guest.begin.images for guest in traces.guests(config.log_trace)} if found else {}
    for _, start, resources, left in found:
        places = [owned.path for owned in resources if isinstance(owned, Directory) and os.path.isdir(owned.path)]
        below = images.get(start.token, ())
        if as_json:
            said = {"job": start.job, "token": start.token, "user": start.user, "queue": start.queue, "until": left.until,
                    "why": left.why, "places": places, "images": below}
            click.echo(msgspec.json.encode(said).decode())
            continue
        click.echo(f"{start.job} of {start.user} until {clock.for_people(left.until)} in {' '.join(places)}: {left.why}")
        for each in below:
            click.echo(f"  {described(each)}")


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@click.option("--openpbs", is_flag=True, help="those for OpenPBS, with openpbs and vmbatch_hook.py")
@click.option("--prefix", metavar="DIR", help="for the VmBatch that will be there  [default: this one]")
def hooks(directory: str, openpbs: bool, prefix: str | None) -> None:
    """Write the hooks of Torque and Slurm, or OpenPBS, remoteshell and pygrub-vmbatch, into DIRECTORY, for this Python.

    \b
    Example: vmbatch hooks /var/spool/torque/mom_priv
    """
    import os
    import sys

    from ..installation.hookfile import write_hooks

    paths, why = write_hooks(directory, openpbs=openpbs, prefix=os.path.abspath(prefix or sys.prefix))
    for path in paths:
        click.echo(path)
    if why:
        click.echo(f"vmbatch: remoteshell is a script, into which users' jobs can bring LD_PRELOAD and the like: {why}", err=True)


for command in (bench, check, completion, console, doctor, drain, explain, image, install, kill, log, metrics, pool, ps, report,
                run, save, show, ssh, trace, undrain, uninstall):
    main.add_command(command)
for listed in _SECTIONS.values():
    for called, said in listed.items():
        main.commands[called].short_help = said  # shells show it where they complete words


def _config() -> Config:
    from ..hooked import load_config

    return load_config()


def _config_of_caller() -> Config:
    """The node's for root; for others their own, of the guests that they run themselves."""
    import os

    if os.geteuid() == 0:
        return _config()
    from .. import session

    return session.settle(session.places())

