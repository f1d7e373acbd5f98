"""A prologue on a node that has much behind it, beside one on an empty node: played guests, which take no time."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from lab import mom, nest
from vmbatch import endmarker, history, journal, sshargs, trace
from vmbatch.endmarker import EndMarker
from vmbatch.host import clock
from vmbatch.record import Kept, Start
from vmbatch.report import figure
from vmbatch.report.figure import Figure
from vmbatch.spool.directory import Directory

from .beside import Seconds

_PAST, _TEMPLATES = 10_000, 1_000
_LIMIT = 1.1
_LOG = Path("/var/log/vmbatch")
_ETC = Path("/etc/vmbatch")
_EMPTY = "an empty node"
_KEEPING = '[requests]\nkeep = 20000\nkeep_longest = "30d"\n'


def figures(rounds: int = 15) -> Iterator[Figure]:
    """What each thing of which there is much adds to a prologue, and to an epilogue."""
    seconds: dict[str, Seconds] = nest.apart("bench.growth", str(rounds))
    for hook, limit in (("prologue", _LIMIT), ("epilogue", None)):
        floor = seconds[hook].pop(_EMPTY)
        for name, values in seconds[hook].items():
            yield figure.beside(f"{hook.capitalize()} as work grows", name, values, floor, _EMPTY, limit=limit)


def inside(scratch: Path, rounds: int) -> dict[str, Seconds]:
    """Seconds of prologues and of epilogues by what there is, in turns."""
    nest.enter(scratch, nest.CONFIG.replace("[requests]\nkeep = 2\n", _KEEPING))
    (_ETC / "domains/crash.xml").write_text(nest.TEMPLATE.replace(nest.ONCE, ""))
    house = mom.Mom()
    _play(house)  # makes the directories
    cases: dict[str, dict[Path, Path]] = {
        _EMPTY: {},
        f"{_PAST:,} jobs of the past: logs, end markers, history, trace": {
            _made(scratch / "log", _logs): _LOG, _made(scratch / "ended", _ends): Path(endmarker.DIRECTORY)},
        f"{_PAST:,} journals of failed jobs whose disks are kept": {
            _made(scratch / "jobs", _journals): Path(journal.directory())},
        f"{_TEMPLATES:,} templates, each with its queue": {_made(scratch / "etc", _templates): _ETC},
    }
    found: dict[str, Seconds] = {hook: {name: [] for name in cases} for hook in ("prologue", "epilogue")}
    for number in range(rounds + 1):
        for name, shown in cases.items():
            for source, place in shown.items():
                subprocess.run(["mount", "--bind", source, place], check=True)
            took = _play(house)
            for place in shown.values():
                subprocess.run(["umount", place], check=True)
            for hook, value in took.items():
                if number:
                    found[hook][name].append(value)
    return found


def _play(house: mom.Mom) -> dict[str, float]:
    """One job; the seconds of its hooks."""
    job = house.accept(b"#!/bin/sh\n", queue=nest.QUEUE)
    begin = time.perf_counter()
    code = house.start_prologue(job).wait()
    middle = time.perf_counter()
    code = code or house.start_epilogue(job).wait()
    end = time.perf_counter()
    house.forget(job)
    if code:
        raise RuntimeError(job.errors.decode())
    return {"prologue": middle - begin, "epilogue": end - middle}


def _made(place: Path, fill: Callable[[Path], None]) -> Path:
    place.mkdir(mode=0o711)
    place.chmod(0o711)
    fill(place)
    return place


def _start(number: int) -> Start:
    return Start(f"{number}.past", secrets.token_hex(16), "alice", nest.QUEUE, None, clock.this_process(), time.time() - 60.0,
                 keep=86400.0)


def _logs(place: Path) -> None:
    """Logs of jobs, and the node's history and trace."""
    lines: dict[str, list[bytes]] = {history.NAME: [], trace.NAME: []}
    for number in range(_PAST):
        start = _start(number)
        (place / f"{start.job}.log").write_text(f"2026-01-01T00:00:00.000Z prologue: guest of {start.job} is ready\n" * 20)
        lines[history.NAME].append(msgspec.json.encode(history.Record(
            job=start.job, token=start.token, user=start.user, queue=start.queue, batch="torque", node=os.uname().nodename,
            started=start.time, ended=start.time + 30, outcome=history.RAN, provisioning=5.0)))
        lines[trace.NAME].append(msgspec.json.encode(trace.End(start.time, start.token, start.job, start.user, "it ended")))
    for name, directory in ((history.NAME, "history"), (trace.NAME, "trace")):
        (place / directory).mkdir(mode=0o700)
        (place / directory / name).write_bytes(b"".join(line + b"\n" for line in lines[name]))
        (place / directory / name).chmod(0o600)


def _ends(place: Path) -> None:
    place.chmod(0o700)
    for number in range(_PAST):
        (place / f"{number}.past").write_bytes(msgspec.json.encode(EndMarker(clock.this_process())))


def _journals(place: Path) -> None:
    place.chmod(0o700)
    for number in range(_PAST):
        start = _start(number)
        name = f"{start.job}.{start.token}"
        places = (str(nest.SPOOL / name), f"{sshargs.HANDOVER}/{start.job}")
        lines = [start, *(Directory(where, start.token, 0o711) for where in places),
                 Kept.until_then(time.time() + 80000.0, "it failed")]
        path = place / f"{name}.kept"
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        path.chmod(0o600)


def _templates(place: Path) -> None:
    """The node's configuration, and so many queues and templates more."""
    shutil.copytree(_ETC, place, dirs_exist_ok=True)
    place.chmod(0o755)
    text = (_ETC / "domains/crash.xml").read_text()
    queues = []
    for number in range(_TEMPLATES):
        (place / f"domains/site-{number}.xml").write_text(text)
        queues.append(f'site{number} = "site-{number}.xml"\n')
    settings = (place / "vmbatch.conf").read_text()
    (place / "vmbatch.conf").write_text(settings.replace("[queues]\n", "[queues]\n" + "".join(queues)))


if __name__ == "__main__":
    answers = nest.answers()
    answers.write(json.dumps(inside(Path(sys.argv[1]), int(sys.argv[2]))))
    answers.flush()
