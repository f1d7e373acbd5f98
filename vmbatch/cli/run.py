"""`vmbatch run`: one command in a fresh guest, without a batch system."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import click

from ..errors import INTERRUPTED
from . import complete

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..command import Errand
    from ..config import Config
    from ..job import User

T = TypeVar("T")
_KEEP_SECONDS = 86400.0


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-t", "--template", default="", metavar="TEMPLATE", shell_complete=complete.templates,
              help="a template's name or path  [default: the only one there is]")
@click.option("-i", "--image", default="", metavar="IMAGE",
              help="boot this image, a path or URL, where the template lets users choose")
@click.option("--input", "inputs", multiple=True, metavar="HERE[:THERE]",
              help="copy this into the guest's home before; may be repeated")
@click.option("--output", "outputs", multiple=True, metavar="THERE[:HERE]",
              help="copy this out of it after; may be repeated")
@click.option("-c", "--cores", type=click.IntRange(1), help="the guest's cores")
@click.option("-m", "--memory", metavar="SIZE", help="the guest's memory, such as 8G")
@click.option("-e", "--env", "variables", multiple=True, metavar="NAME=VALUE", help="a variable for the command; may be repeated")
@click.option("-u", "--user", default="", help="as root: the command's user, here and in the guest  [default: who called sudo]")
@click.option("--timeout", metavar="DURATION", help="end the command after so long, such as 10min; exit status 124")
@click.option("--keep", is_flag=True, help="keep the guest's disks and console for a day when it has ended; see vmbatch kept")
@click.option("-q", "--quiet", is_flag=True, help="say nothing of what is going on, but for errors")
@click.argument("command", nargs=-1, required=True)
def run(template: str, image: str, inputs: tuple[str, ...], outputs: tuple[str, ...], cores: int | None, memory: str | None,
        variables: tuple[str, ...], user: str, timeout: str | None, keep: bool, quiet: bool, command: tuple[str, ...]) -> None:
    """Run COMMAND in a fresh guest, which is gone when it ends. Its streams, signals and exit status are the command's.

    Without root all is the caller's own: libvirt's qemu:///session, and an IMAGE is enough.

    \b
    Example: vmbatch run --image debian-12-genericcloud-amd64.qcow2 -- uname -a
    Example: vmbatch run -t debian --input data --output result.txt -- sh -c 'sort data/* > result.txt'
    """
    import os

    from ..command import FAILED, Errand, lines, parse_file
    from ..errors import VmBatchError
    from ..units import parse_duration, parse_size

    words = list(command)
    errand = Errand(
        words=words, environment=dict(_variable(text) for text in variables),
        inputs=tuple(_read("--input", lambda text: parse_file(text, inward=True), text) for text in inputs),
        outputs=tuple(_read("--output", lambda text: parse_file(text, inward=False), text) for text in outputs),
        seconds=None if timeout is None else _read("--timeout", parse_duration, timeout))
    size = None if memory is None else _read("--memory", parse_size, memory)
    progress = _Progress(quiet)
    try:
        as_root = os.geteuid() == 0
        status = (_of_node if as_root else _of_user)(template, image, user, cores, size, errand, keep, progress)
    except VmBatchError as error:
        progress.end()
        for line in lines(error):
            click.echo(f"vmbatch: {line}", err=True)
        status = FAILED
    except KeyboardInterrupt:
        progress.end()
        click.echo("vmbatch: interrupted; nothing is left of the guest", err=True)
        status = INTERRUPTED
    sys.exit(status)


def _read(option: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _variable(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not (name.isascii() and name.isidentifier()) or "\0" in value:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--env")
    return name, value


class _Progress:
    """What is going on, on stderr: one line that changes on a terminal, else a line for each phase."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._shown = False

    def heard(self, name: str, seconds: float | None) -> None:
        """A phase has begun, or ended after so many seconds."""
        if self._quiet:
            return
        if self._live:
            if seconds is None:
                sys.stderr.write(f"\r\x1b[Kvmbatch: {name} ...")
                self._shown = True
        elif seconds is not None:
            sys.stderr.write(f"vmbatch: {name} {seconds:.1f} s\n")
        sys.stderr.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.end()
        if not self._quiet:
            click.echo(f"vmbatch: {text}", err=True)

    def end(self) -> None:
        """The terminal's line is free again."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def _of_node(template: str, image: str, user: str, cores: int | None, memory: int | None, errand: Errand, keep: bool,
             progress: _Progress) -> int:
    """As root: with the node's configuration, its templates, and the rights of the command's user."""
    import os

    from ..command import choose_template
    from ..hooked import load_config

    name = user or os.environ.get("SUDO_USER", "")
    if not name:
        raise click.UsageError("root's commands do not run in guests: say whose it is with --user")
    config = load_config()
    path = choose_template(template, config)
    return _in_guest(path, _wishes(path, image), name, cores, memory, errand, keep, progress, config, other=True)


def _wishes(path: str, image: str) -> dict[str, str]:
    import os

    from .. import template as templates
    from ..errors import JobError
    from ..host import file

    if not image:
        return {}
    form = templates.parse(file.read_trusted(path), path)
    tag = next((tag.user for tag in form.disks if tag.user is not None), None)
    if tag is None:
        raise JobError(f"{path} lets nobody choose the image", "its admin allows it with <vbuserimage/>", code="VB308")
    return {tag.name: image if "://" in image else os.path.abspath(image)}


def _of_user(template: str, image: str, user: str, cores: int | None, memory: int | None, errand: Errand, keep: bool,
             progress: _Progress) -> int:
    """Without root: all of it is the caller's own."""
    import os
    import pwd

    from .. import session

    name = pwd.getpwuid(os.getuid()).pw_name
    if user not in ("", name):
        raise click.UsageError("only root runs commands for others")
    where = session.places()
    config = session.settle(where)
    if not session.has_kvm():
        progress.say("no KVM here for you (/dev/kvm): the guest is emulated, which takes some ten times as long")
    with session.template(template, image, config, where) as path:
        return _in_guest(path, {}, name, cores, memory, errand, keep, progress, config, other=False)


def _in_guest(path: str, wishes: dict[str, str], name: str, cores: int | None, memory: int | None, errand: Errand, keep: bool,
              progress: _Progress, config: Config, *, other: bool) -> int:
    import os
    import time

    from .. import alone, sshargs
    from ..batch import local
    from ..command import perform
    from ..errors import VmBatchError
    from ..job import slug
    from ..release import end_and_keep

    _check_size(path, cores, memory)
    person = _person(name)
    order = local.Order(kind="run", user=name, group=person.group.name, name=os.path.basename(errand.words[0])[:60], cores=cores,
                        memory=memory, wishes=wishes)
    call = local.call(order)
    job_id, status, begin = call.argv[1], None, time.monotonic()
    try:
        with alone.guest(call, path, config, "run", progress.heard) as log:
            progress.say(f"the guest is ready after {time.monotonic() - begin:.1f} s")
            status = perform(os.path.join(sshargs.HANDOVER, slug(job_id)), errand, person.home, person if other else None)
            if keep:
                place = end_and_keep(job_id, _KEEP_SECONDS, "vmbatch run --keep", config, log)
                progress.say(f"the guest's disks and console are in {place}")
    except VmBatchError as error:
        if status is None:
            raise
        progress.end()
        click.echo(f"vmbatch: {error.coded(error.lines()[0])}", err=True)
    progress.end()
    return status


def _check_size(path: str, cores: int | None, memory: int | None) -> None:
    """JobError if the template does not follow what is asked for."""
    from .. import template as templates
    from ..errors import JobError
    from ..host import file

    follows = templates.parse(file.read_trusted(path), path).resources.of_job
    for name, asked in (("cores", cores), ("memory", memory)):
        if asked is not None and name not in follows:
            raise JobError(f"guests of this template have the {name} that it states", f"leave out --{name}; or its admin writes "
                           f"<vbresources {name}='job'/>", code="VB204")


def _person(name: str) -> User:
    import grp
    import pwd

    from ..batch.account import parse_user
    from ..errors import NodeError

    try:
        group = grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
    except KeyError:
        raise NodeError(f"this node knows no user {name}", code="VB908") from None
    return parse_user(name, group)
