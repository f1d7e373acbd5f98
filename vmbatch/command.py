"""One command in a fresh guest without a batch system: files in, the command with our streams, files out, its exit status."""

import os
import secrets
import shutil
import stat

import msgspec

from . import staging
from .config import Config
from .errors import JobError, VmBatchError
from .handover import Handover, decode
from .host import file
from .host.log import tell_user
from .host.terminal import Apart
from .job import User
from .shell import RefusedError, run
from .shell.command import Command
from .sshargs import WITH_PARENT, client, target

FAILED = 125
"""Exit status: the command did not run, or not to its end, by no doing of its own (as docker-run(1), env(1))."""
_NOT_ALL_CAME = 74
_KEPT_FREE = 1 << 30
_ANY_SIZE = 1 << 62


class File(msgspec.Struct, frozen=True):
    """A file or directory: `here` is its absolute path on the node, `there` that in the guest, below the user's home."""

    here: str
    there: str


class Errand(msgspec.Struct, frozen=True):
    """What is to be done in the guest: `inputs` go in before, `outputs` come back after."""

    words: list[str]
    environment: dict[str, str] = {}
    inputs: tuple[File, ...] = ()
    outputs: tuple[File, ...] = ()
    seconds: float | None = None


def parse_file(text: str, *, inward: bool) -> File:
    """`HERE[:THERE]` of an input, `THERE[:HERE]` of an output. ValueError."""
    first, colon, second = text.partition(":")
    here, there = (first, second) if inward else (second, first)
    if colon and not second:
        raise ValueError(f"{text!r} has nothing behind its colon")
    here = os.path.abspath(here or os.path.basename(there.rstrip("/")))
    there = os.path.normpath(there or os.path.basename(here))
    if there.startswith(("/", "../")) or there in ("..", ".") or not there.isprintable():
        raise ValueError(f"{there!r} is not a path below the home directory in the guest")
    return File(here, there)


def perform(place: str, errand: Errand, home: str, as_user: User | None) -> int:
    """The exit status of the command, or of what went wrong. `place` is the hand-over directory, `home` the user's in the guest.

    All that has to do with the user's files, and with the guest, is done with the rights of `as_user`, or with ours.
    """
    with open(os.path.join(place, "record"), "rb") as opened:
        handover = decode(opened.read())
    signals = [number for number, name in run.forwarded().items() if name not in ("TSTP", "CONT", "ALRM")]
    return Apart(lambda terminal: _there(place, handover, errand, home, terminal=terminal), as_user, signals).wait(errand.seconds)


def _there(place: str, handover: Handover, errand: Errand, home: str, *, terminal: bool) -> int:
    """In the process apart."""
    if handover.console:
        return _through_console(place, handover, errand, home, terminal=terminal)
    session = [*WITH_PARENT, *client(place, handover.alias), *target(handover.user, handover.address, handover.port)]
    try:
        if errand.inputs:
            staging.send(session, home, [(each.here, each.there) for each in errand.inputs], _ANY_SIZE)
        call = _call(handover, errand, home, terminal=terminal)
        if terminal:
            status = run.on_terminal(place, handover, call, dict(os.environ))
        else:
            status = run.without_terminal(place, handover, lambda: call)
    except (JobError, OSError) as error:
        tell_user([f"the command did not run: {error} [VB804]"])
        return FAILED
    except RefusedError as error:
        tell_user([f"the command did not run: {error} [{error.code}]"])
        return FAILED
    missing = [each for each in errand.outputs if not _fetched(session, home, each)]
    return status or (_NOT_ALL_CAME if missing else 0)


def _call(handover: Handover, errand: Errand, home: str, *, terminal: bool) -> Command:
    return Command(handover, errand.words, errand.environment, home, terminal=terminal)


def _through_console(place: str, handover: Handover, errand: Errand, home: str, *, terminal: bool) -> int:
    """Of a guest without a network: neither files nor a terminal go that way."""
    from .consoleshell import Session
    from .shell.guest import Guest

    if errand.inputs or errand.outputs:
        tell_user(["the command did not run: its guest has no network, and files need one; "
                   "choose a template whose guests can be reached by ssh [VB804]"])
        return FAILED
    return Session(handover.console, Guest(place, handover)).run(lambda: _call(handover, errand, home, terminal=False))


def _fetched(session: list[str], home: str, wanted: File) -> bool:
    """Brings one file or directory back, and says why if that fails.

    It is made beside its place, and moved there when it is whole: a directory that is there gets it in itself, and no other is
    replaced.
    """
    name = os.path.basename(wanted.there)
    to = os.path.join(wanted.here, name) if os.path.isdir(wanted.here) else wanted.here
    fresh = os.path.join(os.path.dirname(to), f".vmbatch-{secrets.token_hex(8)}")
    try:
        os.mkdir(fresh, 0o700)
        try:
            space = os.statvfs(fresh)
            staging.fetch(session, os.path.join(home, os.path.dirname(wanted.there)), (name,),
                          max(0, space.f_bavail * space.f_frsize - _KEPT_FREE), place=fresh, what=wanted.there)
            found = os.path.join(fresh, name)
            if os.path.isdir(to) and not os.path.islink(to) and stat.S_ISDIR(os.lstat(found).st_mode):
                raise JobError(f"{to} is there already", "remove it, or name another place: --output THERE:HERE", code="VB804")
            os.rename(found, to)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except JobError as error:
        tell_user([error.coded(f"--output {wanted.there}: {error.lines()[0]}")])
        return False
    except OSError as error:
        tell_user([f"--output {wanted.there}: {error.filename or to}: {error.strerror} [VB804]"])
        return False
    return True


def choose_template(name: str, config: Config) -> str:
    """The path of an installed template by its path or name, or of the only one that the queues have. JobError, SiteError."""
    known = sorted({each for of_queue in config.queues.values() for each in of_queue})
    if not name and len(known) != 1:
        raise JobError("no template was named, and this node's queues have " + (f"{len(known)}" if known else "none"),
                       f"choose one with --template: {', '.join(each.removesuffix('.xml') for each in known)}" if known else
                       "see [queues] in vmbatch.conf", code="VB205")
    if "/" in name:
        return os.path.abspath(name)
    path = os.path.join(config.templates_directory, f"{(name or known[0]).removesuffix('.xml')}.xml")
    if not os.path.exists(path):
        raise JobError(f"there is no template {name}", f"{config.templates_directory} has none of that name", code="VB205")
    file.check_trusted(path)
    return path


def lines(error: VmBatchError) -> list[str]:
    """What the caller is told of a guest that did not come up."""
    first, *rest = error.lines()
    return [f"the command could not run: {first}", error.coded("nothing is left of its guest"), *rest]
