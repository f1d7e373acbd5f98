"""A node of its own with a Torque of its own, guests that are played, and what happened there.

Built on the crash matrix's node: the hooks are the product's, libvirt is its test driver, and guests are answered for by
lab.fakeguest, without sshd; remoteshell's checks are its own.
"""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from lab import loaded, mom, nest, place
from lab.remains import QuietNode, in_child
from lab.torque import Start, Torque
from vmbatch import sweep
from vmbatch.host.log import Log

SOCKET = Path("/run/fakeguest/socket")
BOOK = Path(f"{SOCKET}.runs")
OUTSIDE = SOCKET.with_name("outside")
"""A job that runs outside of its guest leaves a line here."""
SCRIPT = f"#!/bin/sh\necho outside >> {OUTSIDE}\n".encode()
MOM_CONFIG = f"$prologalarm 300\n$job_starter {place.MOM}/mom_priv/remoteshell\n"
CONFIG = nest.CONFIG.replace('pause = "0s"\n', "").replace(nest.TIMEOUTS, "")


class Stage:
    """One node, for one scene after another."""

    def __init__(self, scratch: Path) -> None:
        nest.enter(scratch, CONFIG, SOCKET)
        self.template()
        OUTSIDE.touch()
        OUTSIDE.chmod(0o666)
        self.node = QuietNode()
        self.house = mom.Mom()
        self.hooks = place.MOM / "mom_priv"
        loaded.preload()
        self._installed = {path.name for path in self.hooks.iterdir()}

    def clear(self) -> None:
        """As new, but what is loaded."""
        self.node.clear()
        for path in self.hooks.iterdir():
            if path.name not in self._installed and not path.is_dir():
                path.unlink()
        (self.hooks / "config").write_text(MOM_CONFIG)
        self.settings()
        self.template()
        BOOK.write_bytes(b"")
        OUTSIDE.write_bytes(b"")
        for log in Path("/var/log/vmbatch").glob("*.log"):
            log.unlink()

    def torque(self, **options: Any) -> Torque:
        """A server and a mom."""
        return Torque(self.house, **{"kill_delay": 0.5, "patience": 1.0, **options})

    def submit(self, torque: Torque, *, user: str = "alice", seconds: float = 0.05, exits: int = 0, **about: Any) -> str:
        """A job of the VM queue that takes so long in its guest."""
        variables = {"JOB_SECONDS": str(seconds), "JOB_EXIT": str(exits)}
        return torque.submit(SCRIPT, user=user, queue=about.pop("queue", nest.QUEUE), variables=variables, **about)

    def at(self, torque: Torque, job_id: str, phase: str) -> bool:
        """Waits until the latest start's prologue has the phase before this one behind it."""
        return torque.run(20, lambda: phase in self.log(job_id))

    def runs(self) -> list[dict[str, Any]]:
        """Every begin and end of a job in a guest."""
        return [json.loads(line) for line in BOOK.read_text().splitlines()]

    def template(self, nature: str = "", disk: str = "") -> None:
        """The queue's template: guests of a nature (`silent`, `mute`), with one more disk, as XML; nobody waits for another."""
        text = nest.TEMPLATE.replace(nest.ONCE, disk)
        if nature:
            text = text.replace("<memory", f"<description>{nature}</description><memory", 1)
        Path("/etc/vmbatch/domains/crash.xml").write_text(text)

    def settings(self, torque: str = 'pause = "0s"', more: str = "") -> None:
        """vmbatch.conf with these settings of [torque], and other sections."""
        Path("/etc/vmbatch/vmbatch.conf").write_text(f"{CONFIG}{torque}\n{more}\n")

    def hook(self, name: str, text: str, mode: int = 0o755) -> Path:
        """A site's own file in mom_priv."""
        path = self.hooks / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def wrong(self, torque: Torque) -> list[str]:
        """A line for each promise that was broken; the node is to be quiet."""
        found = ["a job ran outside of its guest"] if OUTSIDE.read_bytes() else []
        begun: dict[str, int] = {}
        prologues = torque.prologues()
        for run in self.runs():
            if run["event"] != "begin":
                continue
            begun[run["token"]] = begun.get(run["token"], 0) + 1
            found += [f"job {run['job']} ran beside itself: {run}"] if run["beside"] else []
            if run["owner"] and prologues.get(run["start"]) != run["owner"]:
                found.append(f"a shell ran its job in another start's guest: {run}, prologues {prologues}")
        found += [f"a job ran {count} times in the guest {token}" for token, count in begun.items() if count > 1]
        for number, _, code in torque.epilogues:
            job = torque.starts[number - 1].job
            found += [f"the epilogue of start {number} ended with {code}: {job.errors.decode()}"] if code else []
        found += self.node.left()
        return found + self.told(torque) if found else []

    def told(self, torque: Torque) -> list[str]:
        """What is known of it."""
        return [*torque.story, str(torque.prologues()), *{self.log(start.job.id) for start in torque.starts}]

    def hanging(self, torque: Torque) -> list[str]:
        """What is at work, and where it is."""
        for pid in self.node.processes():
            os.kill(pid, signal.SIGQUIT)
        time.sleep(0.3)
        return ["it hangs", *(f"{start.number} {start.phase} orphan={start.orphan}" for start in torque.starts),
                *(f"{pid} {command}" for pid, command in self.node.processes().items()),
                *(start.job.errors.decode() for start in torque.starts), *self.told(torque)]

    def sweep(self) -> list[str]:
        """For a child."""
        return sweep.sweep(self.node.config, Log(self.node.config.log_directory, "0", "sweep"), dry_run=False)

    def node_sweep(self) -> list[str]:
        """The sweep, as its timer runs it."""
        return in_child(self.sweep)

    def outside(self) -> str:
        """What jobs wrote that ran on the node itself."""
        return OUTSIDE.read_text()

    def check(self, torque: Torque) -> None:
        """AssertionError unless every promise was kept."""
        wrong = self.wrong(torque)
        assert not wrong, "\n".join(wrong)

    def log(self, job_id: str) -> str:
        """VmBatch's log of a job."""
        path = Path("/var/log/vmbatch") / f"{job_id.replace('[', '-').replace(']', '')}.log"
        return path.read_text() if path.exists() else ""


def until(true: Any, seconds: float = 10.0) -> bool:
    """Whether it came true in time."""
    over = time.monotonic() + seconds
    while not true():
        if time.monotonic() > over:
            return False
        time.sleep(0.005)
    return True


def stop(start: Start) -> None:
    """Ends a starter by force."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(start.pid, 9)
