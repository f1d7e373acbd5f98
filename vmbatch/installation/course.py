"""The course of an installation and of its end: all is looked at before anything is changed, and again when it is done."""

import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from .. import guard, native
from ..errors import NodeError, SiteError, VmBatchError
from ..host import nft, process
from . import mom, node, openpbs, record, slurm, torque
from .made import Enabled, Entry, MadeDirectory, booted, systemctl
from .record import Chosen, Record
from .step import Act

_WIDTH, _INDENT = 100, " " * 13


class Prepared(msgspec.Struct, frozen=True):
    """An installation that was looked at: what it makes of which record, and what is to be done for it."""

    record: Record
    plan: node.Plan
    dropped: tuple[Entry, ...]
    acts: tuple[Act, ...]

    def lines(self) -> list[str]:
        """What will be done."""
        return folded([*filter(None, (entry.foresee() for entry in self.dropped)), *(act.text for act in self.acts)])


def mom_privs(places: Sequence[str], product: str) -> tuple[str, ...]:
    """The first of the usual places that is there. SiteError."""
    found = next((place for place in places if os.path.isdir(place)), None)
    if found is None:
        raise SiteError(f"there is no mom_priv of {product}'s in {' or '.join(places)}", "name it with --mom-priv", code="VB918")
    return (found,)


def plan(chosen: Chosen, prefix: str, completions: dict[str, bytes]) -> node.Plan:
    """All that a node wants. SiteError with all that stands in the way."""
    parts: list[Callable[[], node.Plan]] = [
        partial(node.plan, prefix, completions),
        *(partial(torque.plan, place, prefix, health=chosen.health) for place in chosen.torque),
        *(partial(openpbs.plan, place, prefix, qmgr=chosen.qmgr) for place in chosen.openpbs),
        *(partial(slurm.plan, place, prefix) for place in chosen.slurm),
    ]
    whole, problems = node.Plan(()), []
    for part in parts:
        try:
            whole += part()
        except SiteError as error:
            problems.append(error)
    _raise(problems, "VmBatch cannot be installed")
    return whole


def prepare(chosen: Chosen, completions: dict[str, bytes]) -> Prepared:
    """Looks at everything and changes nothing. SiteError."""
    before = record.load()
    if before is not None:
        if before.prefix != sys.prefix:
            raise SiteError(f"the VmBatch in {before.prefix} is installed on this node, and this one is in {sys.prefix}",
                            "run `vmbatch uninstall` first", code="VB918")
        if chosen == Chosen():
            chosen = before.chosen
        if not chosen.covers(before.chosen):
            raise SiteError("VmBatch is installed on this node for more than that: " + described(before.chosen),
                            "name all of it, or none to repeat it; or run `vmbatch uninstall` first", code="VB918")
    wanted = plan(chosen, sys.prefix, completions)
    own = msgspec.structs.replace(before or Record(sys.prefix, chosen), chosen=chosen)
    names = {name for step in wanted.steps for name in step.names()}
    acts: list[Act] = []
    problems: list[VmBatchError] = []
    dropped = tuple(entry for entry in reversed(own.made) if entry.about not in names and not _holds(entry, names))
    for step in wanted.steps:
        try:
            acts += step.look(own)
        except SiteError as error:
            problems.append(error)
    for entry in dropped:
        try:
            entry.foresee()
        except SiteError as error:
            problems.append(error)
    _raise(problems, "VmBatch cannot be installed")
    return Prepared(own, wanted, dropped, tuple(acts))


def _holds(entry: Entry, names: set[str]) -> bool:
    """Whether it is a directory above something that is wanted."""
    return isinstance(entry, MadeDirectory) and any(name.startswith(f"{entry.path}/") for name in names)


def folded(lines: Sequence[str]) -> list[str]:
    """Lines for the admin, with what is done to several files of one directory on one line."""
    groups: list[tuple[str, list[str]]] = []
    for line in lines:
        match = re.fullmatch(r"(\w+ +/.+/)([^/ \n]+)", line)
        head, names = (match[1], [match[2]]) if match else (line, [])
        if names and groups and groups[-1][0] == head:
            groups[-1][1].extend(names)
        else:
            groups.append((head, names))
    return [head + "".join(names) if len(names) < 2 else
            textwrap.fill(f"{head} {' '.join(names)}", _WIDTH, subsequent_indent=_INDENT, break_long_words=False,
                          break_on_hyphens=False) for head, names in groups]


def described(chosen: Chosen) -> str:
    """The options by which it is chosen."""
    words = [f"--{system} ({', '.join(places)})" for system, places in
             (("torque", chosen.torque), ("openpbs", chosen.openpbs), ("slurm", chosen.slurm)) if places]
    return " ".join([*words, *(["--health"] if chosen.health else []), *(["--qmgr"] if chosen.qmgr else [])])


def install(prepared: Prepared) -> list[str]:
    """Does it, and checks it; what was left. VmBatchError: what is done by then is recorded."""
    own = prepared.record
    record.save(own)
    left = []
    for entry in prepared.dropped:
        left.append(entry.undo())
        own = own.less(entry.about)
        record.save(own)
    for act in prepared.acts:
        if act.entry is not None:
            own = own.with_(act.entry)
            record.save(own)
        try:
            act.work()
        except OSError as error:
            raise NodeError(f"{act.text.strip()}: {error.strerror}", "install again when that is mended, or uninstall",
                            code="VB918") from None
    undone = [act.text for step in prepared.plan.steps for act in step.look(own)]
    if undone:
        raise NodeError(f"not as it was just made: {'; '.join(undone)}", "something else changes these files", code="VB918")
    return list(filter(None, left))


def foresee() -> tuple[Record, list[str]]:
    """What taking VmBatch off this node will do, and change nothing yet. SiteError."""
    own = record.load()
    if own is None:
        raise SiteError("VmBatch is not installed on this node by `vmbatch install`",
                        "take out by hand what was put in by hand", code="VB918")
    problems, lines = _in_use(own.chosen), []
    for entry in reversed(own.made):
        try:
            lines.append(entry.foresee())
        except SiteError as error:
            problems.append(error)
    _raise(problems, "VmBatch cannot be taken off this node")
    if any(each.get("table", {}).get("name") == guard.TABLE for each in nft.listed("tables")):
        lines.append(f"remove   the tables {guard.TABLE} of nftables, which all guests' network filters share")
    return own, folded(list(filter(None, lines)))


def _in_use(chosen: Chosen) -> list[SiteError]:
    """Whoever would start jobs of a queue with guests on the bare node, and what jobs still have."""
    found = [SiteError(f"the pbs_mom of {place} is at work, and would run jobs of queues with guests on the node",
                       "drain the node, and stop her",
                       code="VB918") for place in (*chosen.torque, *chosen.openpbs) if mom.runs(place)]
    if chosen.slurm and slurm.runs():
        found.append(SiteError("slurmd is at work, and would run jobs of partitions with guests on the node",
                               "drain the node, take VmBatch's lines out of slurm.conf, and stop slurmd", code="VB918"))
    names = os.listdir(native.JOBS) if os.path.isdir(native.JOBS) else ()
    if jobs := sorted(name for name in names if name.endswith((".journal", ".kept"))):
        found.append(SiteError(f"jobs still own something on this node: {', '.join(jobs[:5])}"
                               + (f" and {len(jobs) - 5} more" if len(jobs) > 5 else ""),
                               "wait for their end, and run `vmbatch sweep`; `vmbatch kept` shows what is kept on purpose, and "
                               "`vmbatch pool drain` ends guests that wait for jobs",
                               code="VB918"))
    return found


def uninstall(own: Record) -> list[str]:
    """Takes away what was made, the latest first; what is left."""
    left = []
    for entry in reversed(own.made):
        if isinstance(entry, MadeDirectory) and record.DIRECTORY.startswith(f"{entry.path}/"):
            record.forget()
        try:
            left.append(entry.undo())
        except OSError as error:
            raise NodeError(f"{entry.about}: {error.strerror}", "uninstall again when that is mended", code="VB918") from None
    record.forget()
    if process.find("nft") is not None:
        nft.apply(guard.REMOVAL)
    if booted() and any(isinstance(entry, Enabled) for entry in own.made):
        systemctl("daemon-reload")
    return list(filter(None, left))


def _raise(problems: Sequence[VmBatchError], what: str) -> None:
    if problems:
        raise SiteError(what, detail=tuple(line for problem in problems for line in problem.lines()), code="VB918")
