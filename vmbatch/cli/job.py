"""`vmbatch ps`, `show`, `log`, `kill`: the jobs of this node, as they are now and as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import complete

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config import Config
    from ..history import Record
    from ..record import Start
    from ..status import Status

_LOOK_SECONDS = 1.0
PHASE_COLOURS = {"run": "green", "epilogue": "magenta", "dead": "red", **dict.fromkeys(
    ("admission", "image", "disks", "context", "boot", "ready"), "cyan")}


def require_root(what: str, hint: str = "") -> None:
    """JobError for others."""
    import os

    from ..errors import JobError

    if os.geteuid() != 0:
        raise JobError(f"{what} is for root alone", hint, code="VB921")


def find(text: str) -> Status:
    """The job that is meant, of those that the caller may see. VmBatchError."""
    from .. import status

    known = {each.job: each for each in status.look()}
    return known[status.chosen(text, known)]


def phase_of(known: Status) -> str:
    """Its phase; `dead` for what the sweep will remove."""
    return "dead" if known.abandoned else known.phase


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def ps(as_json: bool) -> None:
    """List the jobs that have a guest on this node, or get one: root sees all of them, others their own.

    \b
    Example: vmbatch ps
    """
    from .. import drain, status
    from . import table

    jobs = status.look()
    if as_json:
        for each in jobs:
            click.echo(_json(each))
        return
    note = drain.look()
    if note is not None:
        click.echo(table.styled(f"This node is {table.plain(str(note))}", "yellow"), err=True, color=table.coloured())
    for start in _unseen(jobs):
        click.echo(f"Job {start.job} of {start.user} has a journal, and does not say what it does", err=True)
    if not jobs:
        click.echo("no job has a guest on this node", err=True)
        return
    table.show(
        ("JOB", "USER", "PHASE", "FOR", "AGE", "CORES", "MEMORY", "ADDRESS", "GUEST"),
        [(each.job, each.user, phase_of(each), table.duration(each.since()), table.duration(each.age()), str(each.cores),
          table.size(each.memory), each.address or "-", each.guest or "-") for each in jobs],
        right=("FOR", "AGE", "CORES", "MEMORY"), spare=("GUEST", "CORES", "MEMORY"), elastic="JOB",
        colours={"PHASE": PHASE_COLOURS})


def _json(known: Status) -> str:
    import msgspec

    more = {"phase": phase_of(known), "age": round(known.age(), 3), "since": round(known.since(), 3)}
    return msgspec.json.encode({**msgspec.to_builtins(known), **more}).decode()


def _unseen(jobs: list[Status]) -> Iterator[Start]:
    """Starts with a guest that have no status: for root, who can see the journals."""
    import os

    from .. import journal
    from ..errors import VmBatchError
    from ..hypervisor.domain import Domain

    if os.geteuid() != 0:
        return
    tokens = {each.token for each in jobs} | {start.token for _path, start, _waits in journal.waiting()}
    for path in journal.paths():
        try:
            found = journal.peek(path) if path.endswith(".journal") else None
        except VmBatchError:
            continue
        if found is not None and found[0].token not in tokens and any(isinstance(owned, Domain) for owned in found[1]):
            yield found[0]


@click.command()
@click.argument("job", shell_complete=complete.jobs)
@click.option("--json", "as_json", is_flag=True, help="a JSON object")
def show(job: str, as_json: bool) -> None:
    """Show all that is known of a job: its guest, its phases and their seconds. For root also of one that is over.

    JOB is an id such as 42.server, its number, or a beginning that no other job has.

    \b
    Example: vmbatch show 42
    """
    import os

    import msgspec

    from .. import history, status
    from ..errors import VmBatchError
    from ..hooked import load_config

    live = {each.job: each for each in status.look()}
    old: dict[str, Record] = {}
    config = load_config() if os.geteuid() == 0 else None
    if config is not None:
        try:
            status.chosen(job, live)
        except VmBatchError:
            old = {each.job: each for each in history.records([config.log_history])} if config.log_history else {}
    name = status.chosen(job, [*live, *old])
    if name in live:
        if as_json:
            click.echo(_json(live[name]))
        else:
            _show_live(live[name], config)
    elif as_json:
        click.echo(msgspec.json.encode(old[name]).decode())
    else:
        _show_record(old[name])


def _lines(pairs: list[tuple[str, str]]) -> None:
    from . import table

    widest = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        if text:
            click.echo(f"{table.styled(name.ljust(widest), 'bold')}  {table.plain(text)}", color=table.coloured())


def _show_live(known: Status, config: Config | None) -> None:
    from .. import history
    from ..host.clock import for_people
    from . import table

    record = history.of(known, "", None)
    guest = known.guest
    if config is not None and guest:
        guest += _state(known)
    _lines([
        ("job", known.job), ("user", known.user), ("queue", f"{known.queue} ({known.batch})"), ("node", known.node),
        ("phase", f"{phase_of(known)}, for {table.duration(known.since())}"),
        ("guest", guest), ("address", known.address), ("size", _size(known.cores, known.memory)),
        ("template", known.template), ("started", f"{for_people(known.started)}, {table.duration(known.age())} ago"),
        ("ending", known.why), *_places(known, config),
    ])
    _show_phases(record, known.phase)


def _size(cores: int, memory: int) -> str:
    from . import table

    return f"{cores} {'core' if cores == 1 else 'cores'}, {table.size(memory)} of memory" if cores else ""


def _state(known: Status) -> str:
    """What libvirt says of the guest."""
    from .. import journal
    from ..host import virt
    from ..hypervisor.domain import Domain

    found = journal.peek(journal.path_of(known.job))
    owned = [] if found is None else [each for each in found[1] if isinstance(each, Domain)]
    return f", {virt.state(owned[0].uri, owned[0].uuid) or 'of which libvirt says nothing'}" if owned else ", not started yet"


def _places(known: Status, config: Config | None) -> list[tuple[str, str]]:
    """Where root can look."""
    import os

    from ..job import slug

    if config is None:
        return []
    return [("log", os.path.join(config.log_directory, f"{slug(known.job)}.log")),
            ("spool", os.path.join(config.spool_directory, known.unique))]


def _show_record(record: Record) -> None:
    from ..host.clock import for_people

    failure = record.failure
    whose = "" if failure is None else ", ".join(filter(None, (failure.code, f"the {failure.fault}'s fault")))
    _lines([
        ("job", record.job), ("user", record.user), ("queue", f"{record.queue} ({record.batch})"), ("node", record.node),
        ("outcome", record.outcome + (f" ({whose})" if whose else "")), ("why", record.why),
        ("status", "" if record.status is None else str(record.status)),
        ("guest", record.guest), ("address", record.address),
        ("size", _size(record.cores, record.memory)),
        ("template", record.template), ("started", for_people(record.started)), ("ended", for_people(record.ended)),
    ])
    _show_phases(record, "")


def _show_phases(record: Record, now: str) -> None:
    """Provisioning apart from running."""
    from ..phase import PHASES, QUEUE
    from . import table

    click.echo()
    rows = []
    for name in PHASES:
        if name in record.seconds:
            if name == "run":
                rows.append(("provisioning", table.seconds(record.provisioning), ""))
            steps = [f"{span.step} {table.seconds(span.seconds)}" for span in record.steps if _is_of(span.step, name)]
            rows.append((name, table.seconds(record.seconds[name]), "now" if name == now else
                         ", ".join(steps) if len(steps) > 1 else ""))
    if "run" not in record.seconds:
        rows.append(("provisioning", table.seconds(record.provisioning), ""))
    if QUEUE not in record.seconds:
        rows.insert(0, (QUEUE, "-", "the batch system does not tell"))
    table.show(("PHASE", "TIME", "STEPS"), rows, right=("TIME",), elastic="STEPS", colours={"PHASE": {"provisioning": "bold"}})


def _is_of(step: str, phase: str) -> bool:
    from ..phase import phase_of

    return phase_of(step) == phase


@click.command()
@click.argument("job", shell_complete=complete.jobs)
@click.option("-f", "--follow", is_flag=True, help="go on with what is written, until the job is over")
@click.option("-n", "--lines", "count", type=click.IntRange(0), help="only so many lines at the end")
def log(job: str, follow: bool, count: int | None) -> None:
    """Print the log of a job: root's of every job, others' of their own. Also of one that is over; users give its whole id then.

    \b
    Example: vmbatch log 42 -f
    """
    import os

    from .. import status
    from ..errors import JobError, NodeError
    from ..hooked import load_config
    from ..host import tail
    from ..job import slug

    directory = load_config().log_directory
    live = {slug(each.job): each.job for each in status.look()}
    name = status.chosen(_slug(job), [*live, *_logged(directory, _slug(job))])
    path = os.path.join(directory, f"{name}.log")
    if os.path.exists(path) and not os.access(path, os.R_OK):
        raise JobError(f"you cannot read the log of job {live.get(name, name)}",
                       "a log is for the job's user and root; where its file system has no access control lists, for root alone",
                       code="VB921")
    if not follow and not os.path.exists(path):
        raise NodeError(f"there is no {path} yet", code="VB920")
    file = tail.Tail(path, count)
    while True:
        over = not follow or all(slug(each.job) != name for each in status.look())
        for piece in file.more():
            click.echo(piece, nl=False)
        if over:
            return
        file.wait(_LOOK_SECONDS)


def _slug(job: str) -> str:
    """As `slug`, of what may be the beginning of an id."""
    return job.replace("[", "-").replace("]", "")


def _logged(directory: str, name: str) -> list[str]:
    """The jobs that have a log, as file names; for those who cannot list the directory whether this one has."""
    import os

    try:
        return sorted(each.removesuffix(".log") for each in os.listdir(directory) if each.endswith(".log"))
    except PermissionError:
        return [name] if "/" not in name and os.path.exists(os.path.join(directory, f"{name}.log")) else []
    except OSError:
        return []


@click.command()
@click.argument("job", shell_complete=complete.jobs)
@click.option("--why", default="", help="a note for the user and the log")
def kill(job: str, why: str) -> None:
    """End the guest of a job at once. The job ends as if its guest had died; its epilogue removes the rest. For root.

    \b
    Example: vmbatch kill 42 --why "mines coins"
    """
    from ..ending import kill as end
    from ..hooked import load_config
    from ..host.log import Log

    require_root("vmbatch kill", "end your own job by qdel, or with Slurm scancel")
    if not why.isprintable():
        raise click.BadParameter("must be one line of text", param_hint="--why")
    config = load_config()
    known = find(job)
    text = "an admin of the node has ended the job's guest" + (f": {why}" if why else "")
    click.echo(end(known.job, text, config, Log(config.log_directory, known.job, "kill")))
