"""`vmbatch bench`: how long a template's guests take to start here, one by one and several at once."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ..errors import INTERRUPTED
from . import complete

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..config import Config
    from ..host.distant import Question
    from ..report import Row
    from ..report.figure import Figure

_LONGEST_SECONDS = 86400.0
"""A start has deadlines of its own."""
_OF_GUEST = ("start", "boot", "login", "ready")
"""Phases in which VmBatch does nothing but wait for libvirt and the guest."""
_READY, _GONE = "until ready", "until gone again"


@click.command()
@click.argument("template", shell_complete=complete.templates)
@click.option("--user", help="in whose name the guests are made  [default: who called sudo]")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="how often each number of guests is started")
@click.option("--at-once", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N",
              help="so many guests at the same time, and on the way there 1, 2, 4, 8...")
@click.option("--output", metavar="DIR", type=click.Path(file_okay=False), help="write report, picture and figures there")
@click.option("--json", "as_json", is_flag=True, help="one JSON object, when all is done")
def bench(template: str, user: str | None, rounds: int, at_once: int, output: str | None, as_json: bool) -> None:
    """Measure how long guests of TEMPLATE take to be ready on this node, by phase, and what several at once cost.

    Each guest is made as for a job, and removed again. TEMPLATE is a path, or a name in [templates] directory.

    \b
    Example: vmbatch bench debian.xml --user alice --rounds 10 --at-once 4 --output bench
    """
    from ..command import choose_template
    from ..hooked import load_config
    from .job import require_root

    require_root("vmbatch bench", "jobs' own times are in vmbatch report")
    user = user or os.environ.get("SUDO_USER")
    if not user:
        raise click.UsageError("say with --user in whose name the guests are made")
    config = load_config()
    path = choose_template(template, config)
    numbers = _numbers(at_once)
    found: dict[int, list[list[Trial]]] = {number: [] for number in numbers}
    for number, trials in _measured(path, user, config, numbers, rounds):
        found[number].append(trials)
        click.echo(f"vmbatch: {number} at once, round {len(found[number])} of {rounds}: "
                   f"ready after {max(dict(trial)[_READY] for trial in trials):.2f} s", err=True)
    _tell(path, found, output, as_json=as_json)


Trial = list[tuple[str, float]]
"""Seconds of each phase of one guest, in their order, and at last of all until it was ready, and until it was gone again."""


def _numbers(most: int) -> list[int]:
    """1, 2, 4... and the last."""
    return sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most})


def _measured(template: str, user: str, config: Config, numbers: Sequence[int], rounds: int) -> Iterator[tuple[int, list[Trial]]]:
    """In turns, so that what else the node does hits all numbers alike. VmBatchError."""
    for _ in range(rounds):
        for number in numbers:
            yield number, _at_once(template, user, config, number)


def _at_once(template: str, user: str, config: Config, number: int) -> list[Trial]:
    """So many guests, each of a process of its own. Ends the program if a signal does, once the guests are removed."""
    import signal

    from ..errors import VmBatchError
    from ..host.distant import Question
    from ..units import Deadline

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    open_: list[Question] = []
    noted: list[int] = []

    def pass_on(caught: int, _frame: object) -> None:
        noted.append(caught)
        for question in open_:
            question.signal(caught)

    def task() -> Trial | None:
        for each in signals:
            signal.signal(each, signal.default_int_handler)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            return _once(template, user, config)
        except KeyboardInterrupt:
            return None

    before = {each: signal.signal(each, pass_on) for each in signals}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    trials: list[Trial] = []
    failed: VmBatchError | None = None
    try:
        open_ += [Question(template, task) for _ in range(number)]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        while open_:
            try:
                trial = open_[0].answer(Trial | None, Deadline(_LONGEST_SECONDS))
                trials += [] if trial is None else [trial]
            except VmBatchError as error:
                failed = failed or error
            open_.pop(0)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if noted or (failed is None and len(trials) < number):
        click.echo("vmbatch: interrupted; the guests are removed", err=True)
        sys.exit(INTERRUPTED)
    if failed is not None:
        raise failed
    return trials


def _once(template: str, user: str, config: Config) -> Trial:
    """One guest, in a process of its own: made, ready, removed. VmBatchError."""
    import grp
    import pwd
    import time

    from .. import alone
    from ..batch import local
    from ..errors import NodeError

    try:
        group = grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        raise NodeError(f"this node knows no user {user}", code="VB908") from None
    phases: Trial = []
    begin = time.monotonic()
    call = local.call(local.Order(kind="bench", user=user, group=group, name="bench"))
    with alone.guest(call, template, config, "bench", lambda name, seconds: None if seconds is None else
                     phases.append((name, seconds))):
        ready = time.monotonic() - begin
    return [*phases, (_READY, ready), (_GONE, time.monotonic() - begin)]


def _figures(found: Mapping[int, list[list[Trial]]], name: str) -> list[Figure]:
    """What VmBatch adds to the guest's own start, and what several at once cost."""
    import statistics

    from ..report import figure

    def ready(trials: list[Trial]) -> list[float]:
        return [dict(trial)[_READY] for trial in trials]

    alone = [round_[0] for round_ in found[1]]
    guests = [sum(seconds for phase, seconds in trial if phase in _OF_GUEST) for trial in alone]
    group = f"A start of {name}"
    figures = [figure.beside(group, _READY, ready(alone), guests, "its phases of libvirt and the guest alone"),
               figure.alone(group, "what VmBatch adds", [ours - own for ours, own in zip(ready(alone), guests, strict=True)])]
    for number in list(found)[1:]:
        several = f"{number} at once"
        figures += [
            figure.beside(f"Several of {name} at once", f"{several}: {_READY}, median",
                          [statistics.median(ready(each)) for each in found[number]], ready(alone), "one by one"),
            figure.beside(f"Several of {name} at once", f"{several}: the node's seconds for each",
                          [max(ready(each)) / number for each in found[number]], ready(alone), "one by one"),
        ]
    return figures


def _phases(trials: list[Trial]) -> list[Row]:
    """A row for each phase, in the order in which the first guest had them."""
    from ..report import row

    seconds: dict[str, list[float]] = {}
    for trial in trials:
        for phase, value in trial:
            seconds.setdefault(phase, []).append(value)
    last = [(phase, seconds.pop(phase)) for phase in (_READY, _GONE)]
    return [row(phase, sorted(values)) for phase, values in [*seconds.items(), *last]]


def _tell(path: str, found: Mapping[int, list[list[Trial]]], output: str | None, *, as_json: bool) -> None:
    import time

    from ..report import short
    from ..report.picture import picture
    from ..report.written import markdown, results

    name = short(path)
    figures = _figures(found, name)
    tables = {f"{number} at once": _phases([trial for round_ in rounds for trial in round_]) for number, rounds in found.items()}
    run = {"node": os.uname().nodename, "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "template": path,
           "processors": str(os.cpu_count()), "kernel": os.uname().release, "rounds": str(len(found[1]))}
    if output is not None:
        _write(output, {"report.md": markdown(figures, run, "picture.svg", tables).encode(),
                        "picture.svg": picture(figures, f"VmBatch: {name} on {run['node']}").encode(),
                        "results.json": results(figures, run, tables)})
    if as_json:
        click.echo(results(figures, run, tables).decode(), nl=False)
    else:
        _print(figures, tables)


def _write(directory: str, files: Mapping[str, bytes]) -> None:
    from ..errors import NodeError
    from ..host import file

    try:
        os.makedirs(directory, exist_ok=True)
        for name, data in files.items():
            file.put(os.path.join(directory, name), data)
    except OSError as error:
        raise NodeError(f"{directory} cannot be written: {error.strerror}", code="VB906") from None


def _print(figures: Sequence[Figure], tables: Mapping[str, Sequence[Row]]) -> None:
    from ..report.written import judged, quantity
    from . import table

    for title, rows in tables.items():
        click.echo(table.styled(title, "bold"), color=table.coloured())
        cells = [(each.phase, str(each.jobs), *map(table.seconds, (each.p50, each.p90, each.p99, each.most))) for each in rows]
        table.show(("PHASE", "STARTS", "P50", "P90", "P99", "MOST"), cells, right=("STARTS", "P50", "P90", "P99", "MOST"))
        click.echo()
    table.show(("FIGURE", "OURS", "REFERENCE", "RATIO", "MIDDLE HALF"),
               [(each.figure, quantity(each.ours, each.unit),
                 "-" if each.reference is None else quantity(each.reference, each.unit),
                 "-" if each.ratio is None else f"{each.ratio:.2f}",
                 " to ".join(judged(each, edge) for edge in each.spread)) for each in figures],
               right=("OURS", "REFERENCE", "RATIO"), spare=("MIDDLE HALF",), elastic="FIGURE")
