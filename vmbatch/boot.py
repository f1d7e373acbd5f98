"""From a started domain to a guest that is ready for its job: announced, logged in to, ready."""

import itertools
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from . import endmarker, trace
from .config import Config
from .context.content import Content
from .context.keys import pin
from .contextplan import Delivery
from .errors import DeadlineError, NodeError, SiteError
from .exchange import address as reservation
from .exchange.address import Address
from .exchange.channel import Channel, open_port
from .exchange.inbox import Inbox
from .exchange.meeting import Meeting
from .guest import JOB_COMES, Message, Way, parse_message, spans
from .host import console, interrupt, process, ssh, virt, virtevent
from .host.log import Log
from .host.watch import Watch
from .pins import Pins
from .plan import Plan
from .record import Start
from .resource import Resource, Work
from .template import console_path
from .units import Deadline

if TYPE_CHECKING:
    import subprocess

T = TypeVar("T")
_LOOK_SECONDS = 1.0
_CHECK_SECONDS = 0.02
_POLL_SECONDS = 0.1
_LOGIN_PAUSE_SECONDS = 0.3
_PTY_SECONDS = 3.0
"""Xen's console daemon opens the pty when it has heard of the domain."""
_LAST_WORDS_SECONDS, _LAST_LOOK_SECONDS = 2.0, 0.02


class Messages(Protocol):
    """Where a guest's messages come from."""

    def read(self, kind: str) -> Message | None:
        """The message of this kind, or None so far."""

    def close(self) -> None:
        """Gives all descriptors back."""


class Wait:
    """Waiting for a guest: woken by its messages, by libvirt, by the end of the job; never beyond the deadline."""

    def __init__(self, chosen: Plan, start: Start, config: Config, deadline: Deadline, pins: Pins,
                 meeting: Meeting | None = None, channel: Channel | None = None) -> None:
        """`channel` is the guest's port, where that is open already."""
        self.chosen = chosen
        self.pins = pins
        self.meeting = meeting
        self.start = start
        self.seconds = min(config.timeouts_boot * config.timeouts_scale, deadline.left())
        self.deadline = deadline.earlier(self.seconds)
        self.next_check = 0.0
        self.interval = _LOOK_SECONDS if config.share_local and meeting is None else _POLL_SECONDS
        self.recorder = console.Recorder(chosen.console) if chosen.recorded else None
        self.terminal = _open_terminal(chosen, self.recorder) if chosen.console_shell else None
        self.follower = None if self.recorder is None or self.terminal is not None else _follow(chosen, self.recorder)
        self.watch = Watch()
        if self.follower is not None:
            self.watch.descriptor(self.follower.descriptor)
        self.watch.directory(endmarker.DIRECTORY)
        pins.watch(self.watch)
        if self.terminal is not None:
            self.watch.descriptor(self.terminal.login.descriptor)
            self.interval = _POLL_SECONDS
        self.inbox = self._open_inbox(config, channel)
        self._unheard = virtevent.on_event(chosen.domain.uri, self.watch.wake)

    def _open_inbox(self, config: Config, channel: Channel | None) -> Messages:
        """Where the guest's messages come from, and what to be woken by."""
        chosen = self.chosen
        if chosen.messages == "CHANNEL":
            channel = channel or open_port(chosen.domain.uri, chosen.domain.uuid, chosen.job.token)
            self.watch.descriptor(channel.descriptor)
            return channel
        if self.terminal is not None and chosen.messages == "CONSOLE":
            return self.terminal
        if config.share_local:
            self.watch.directory(chosen.inbox)
        return Inbox(chosen.inbox, chosen.job.token, local=config.share_local)

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """The first thing that `look` finds. VmBatchError if that cannot come any more."""
        while True:
            self._record()
            self.pins.look()
            found = look()
            if found is not None:
                return found
            pause = self.next_check - time.monotonic()
            if pause <= 0:
                self.check(what)
                self.next_check = time.monotonic() + _CHECK_SECONDS
                pause = self.interval
            self.watch.wait(min(pause, self.pins.pause, self.deadline.left()))

    def _record(self) -> None:
        """What the guest has written to a console that nobody else records."""
        if self.follower is not None and not self.follower.copy():
            self.watch.forget(self.follower.descriptor)
            self.follower.close()
            self.follower = None

    def _record_last_words(self) -> None:
        """Of a guest that has ended: the hypervisor's console daemon brings them behind it, and then closes the console."""
        over = Deadline(_LAST_WORDS_SECONDS)
        while self.follower is not None and not over.passed():
            self._record()
            time.sleep(_LAST_LOOK_SECONDS)

    def check(self, what: str) -> None:
        """Whether it is still worth waiting; opens the guest's way to its network meanwhile."""
        interrupt.check()
        endmarker.check_not_ended(self.start)
        self.pins.look()
        if self.meeting is not None:
            self.meeting.check()
        failed = self.inbox.read("failed")
        why = failed.text if failed is not None else console.gave_up(self.chosen.console)
        if why is not None:
            raise SiteError(f"the guest could not prepare itself for the job: {why}", code="VB707")
        state = virt.state(self.chosen.domain.uri, self.chosen.domain.uuid)
        if state not in ("running", None):
            self._record_last_words()
        panic = console.panic(self.chosen.console)
        if panic is not None:
            raise SiteError(f"the guest's kernel died before the guest was ready ({what}): {panic}", code="VB705")
        if state not in ("running", None):
            raise SiteError(f"the guest ended before it was ready ({what}): its domain is {state}", code="VB706")
        if self.deadline.passed():
            raise DeadlineError(f"the guest was not ready within {self.seconds:.0f} s ({what})",
                                "more time: [timeouts] boot, and $prologalarm in mom's config", code="VB704")

    def message(self, kind: str, what: str) -> Message:
        """The guest's message of this kind."""
        return self.until(lambda: self.inbox.read(kind), what)

    def pause(self, seconds: float, what: str) -> None:
        """Waits for nothing but time."""
        over = Deadline(seconds)
        while not over.passed():
            self.check(what)
            self.watch.wait(min(self.pins.pause, over.left()))

    def close(self) -> None:
        """Gives all descriptors back."""
        self._unheard()
        self.watch.close()
        if self.inbox is not self.terminal:
            self.inbox.close()
        for each in (self.terminal, self.follower, self.recorder):
            if each is not None:
                each.close()


class Terminal:
    """The console for the job: the pty at `path`, and a login over it. Also the guest's messages, where they come that way."""

    def __init__(self, path: str, token: str, recorder: console.Recorder | None) -> None:
        from .consoleshell import Login

        self.path = path
        self.login = Login(path, None if recorder is None else recorder.write)
        self._token = token

    def read(self, kind: str) -> Message | None:
        """The guest's message of this kind, or None so far. NodeError for one that is not well-formed."""
        data = self.login.message(kind)
        return None if data is None else parse_message(data, self._token)

    def close(self) -> None:
        """Lets the job's shell have the console."""
        self.login.close()


def _pty(chosen: Plan, device: str) -> str:
    """Of a console of the running guest. NodeError."""
    over = Deadline(_PTY_SECONDS)
    while True:
        path = console_path(virt.running_xml(chosen.domain.uri, chosen.domain.uuid), device)
        if path is not None and re.fullmatch(r"/dev/pts/[0-9]+", path):
            return path
        if over.passed():
            raise NodeError(f"libvirt has given the guest no pty for its console {device}", code="VB703")
        time.sleep(_CHECK_SECONDS)


def _open_terminal(chosen: Plan, recorder: console.Recorder | None) -> Terminal:
    """The user's from now on. NodeError."""
    path = _pty(chosen, chosen.console_shell)
    os.chown(path, chosen.job.user.uid, -1)
    os.chmod(path, 0o600)
    return Terminal(path, chosen.job.token, recorder)


def _follow(chosen: Plan, recorder: console.Recorder) -> console.Follower | None:
    """The guest's only console; None where it cannot be had: the job does not need it."""
    try:
        return console.Follower(_pty(chosen, "hvc0"), recorder)
    except (OSError, NodeError):
        return None


def lay_by(chosen: Plan, start: Start, config: Config, log: Log, deadline: Deadline, *, act: Callable[[Resource], None]) -> str:
    """Waits until a guest waits for a job; its address. `act` as of `bring_up`. VmBatchError."""
    wait = Wait(chosen, start, config, deadline, _pins(chosen, config, log, act))
    try:
        with log.phase("boot"):
            said = wait.message("waiting", "phase boot: it does not wait for a job yet")
            _check_own(wait, said.address)
        _log_times(wait, log)
        for line in wait.pins.settle():
            log.line(line)
    finally:
        wait.close()
    if not said.address:
        raise SiteError("the guest waits without an address, and the way of its jobs is ssh", "give the guest a network",
                        code="VB604")
    return said.address


def _pins(chosen: Plan, config: Config, log: Log, act: Callable[[Resource], None]) -> Pins:
    """The guest's interfaces, whose addresses are this start's from then on."""
    def reserve(address: str) -> None:
        act(Address(os.path.join(reservation.HERE, address), chosen.job.token, chosen.job.id, os.uname().nodename))
        trace.write(config.log_trace, trace.Lease(time.time(), chosen.job.token, chosen.job.id, address))

    return Pins(chosen.waiting, chosen.learning, chosen.rooms, reserve, log)


def bring_up(chosen: Plan, start: Start, config: Config, log: Log, deadline: Deadline,
             meeting: Meeting | None = None, channel: Channel | None = None, *, act: Callable[[Resource], None]) -> Way:
    """Waits until the guest is ready and its user has been seen to log in; the way to it.

    `act` makes what can only be made now, as the guest's address is not known before: its reservation where DHCP gives it, and
    the export of the guest's part of the share.

    With a `meeting`, the login waits for the other guests, and brings what the guest must know of them. A guest that has waited
    gets its context by its `channel`.
    """
    wait = Wait(chosen, start, config, deadline, _pins(chosen, config, log, act), meeting, channel)
    ahead: ssh.Ahead | None = None
    try:
        if chosen.export is not None:
            with log.phase("export"):
                act(msgspec.structs.replace(chosen.export, address=chosen.address or _address(
                    wait, log, "phase boot: it has no address yet", ("lease", "arp"))))
        if chosen.delivery is not None:
            _deliver(wait, chosen.delivery, log)
        if chosen.given is not None and channel is not None:
            with log.phase("give"):
                ahead = ssh.Ahead(chosen.handover, chosen.job.user, chosen.addresses[0], chosen.alias)
                _give(channel, chosen.given, wait)
        with log.phase("boot" if chosen.delivery is None else "mount"):
            announced = wait.message("announce", "phase boot: it has not announced its address on the share")
            _check_own(wait, announced.address)
        _log_times(wait, log)
        party = b""
        if meeting is not None:
            with log.phase("arrival"):
                party = _meet(wait, meeting, announced.address)
        way = _way(wait, announced.address)
        with log.phase("login"):
            if wait.terminal is not None:
                _log_in_there(wait, wait.terminal)
            elif way.address:
                if ahead is not None:
                    ahead.go(lambda: wait.check("phase login"))
                _log_in(wait, way, log, party, None if ahead is None else ahead.process)
            else:
                raise SiteError("the guest has announced itself without an address, and the job's way is ssh",
                                "give the guest a network, or write <vbshell>CONSOLE</vbshell>", code="VB604")
        with log.phase("ready"):
            ready = wait.message("ready", "phase ready: it has announced itself, but has not written its ready file")
        for line in wait.pins.settle():
            log.line(line)
    finally:
        if ahead is not None:
            ahead.close()
        wait.close()
    if ready.address != announced.address:
        raise NodeError(f"the guest announced {announced.address}, but is ready at {ready.address}", code="VB709")
    return way


def _way(wait: Wait, address: str) -> Way:
    """How the node reaches the guest that has announced this address."""
    chosen = wait.chosen
    if wait.terminal is not None:
        return Way(address, wait.terminal.path)
    if chosen.forwarded is None or not address:
        return Way(address)
    return Way("127.0.0.1", port=virt.forward(chosen.domain.uri, chosen.domain.uuid, chosen.forwarded))


def _check_own(wait: Wait, address: str) -> None:
    """Waits until a guest of which all addresses are known has been given the one that it announces. DeadlineError."""
    known = ("", *wait.chosen.addresses)
    if wait.chosen.sealed:
        wait.until(lambda: address in (*known, *wait.pins.addresses) or None,
                   f"phase boot: it announced {address}, which it has not been given")


def _address(wait: Wait, log: Log, what: str, sources: Iterable[str]) -> str:
    """The first address at which the guest can be reached: that it has been given, or that one of the sources knows."""
    from .host import address

    chosen = wait.chosen
    if chosen.sealed:
        return wait.until(lambda: next(iter(wait.pins.addresses), None), what)
    work = Work(wait.deadline, lambda: wait.check(what), log.detail)
    return address.wait(chosen.domain.uri, chosen.domain.uuid, chosen.macs, work, sources)


def _deliver(wait: Wait, delivery: Delivery, log: Log) -> None:
    """Sends the context into the guest as its root, and pins the host key that it has."""
    from .context import rootssh
    from .host import address

    chosen, what = wait.chosen, "phase boot: root's ssh has not been answered yet"
    work = Work(wait.deadline, lambda: wait.check(what), log.detail)
    with log.phase("boot"):
        known = delivery.address or _address(wait, log, what, address.SOURCES)
    with log.phase("deliver"):
        pin(chosen.handover, chosen.alias, rootssh.deliver(delivery.content.entries(), known, delivery.access, work))


def _give(channel: Channel, content: Content, wait: Wait) -> None:
    """Makes a guest that waits the job's: it unpacks the context, and goes on with that."""
    from .context.stream import checked, placed, size, tar

    members = tuple(checked(placed(content.entries())))
    channel.send(itertools.chain((JOB_COMES % size(members),), tar(members)),
                 lambda: wait.check("phase give: it does not take its context"))


def _log_times(wait: Wait, log: Log) -> None:
    """Where the time of the guest's own boot went, so that a network that was waited for is seen."""
    times = wait.inbox.read("times")
    for name, seconds in spans(times.text if times is not None else "").items():
        log.part(f"guest {name}", seconds)


def _log_in_there(wait: Wait, terminal: Terminal) -> None:
    """Tries once, as soon as the guest serves its console."""
    who = wait.chosen.job.user.name
    status = wait.until(terminal.login.poll, f"phase login: {who} cannot log in through the console {wait.chosen.console_shell}")
    if status:
        raise SiteError(f"{who} cannot log in through the guest's console: status {status}", code="VB708")


def _meet(wait: Wait, meeting: Meeting, address: str) -> bytes:
    """Waits for the addresses of all guests of the job; what the guest is told of them, a line for each."""
    if not address:
        raise SiteError("the guest has announced itself without an address, and the job's other guests cannot reach it",
                        "give the guest a network", code="VB604")
    meeting.arrive(address, ssh.pinned(os.path.join(wait.chosen.handover, "known_hosts")))
    party = wait.until(meeting.arrived, "phase arrival: not all of the job's guests are up")
    return "".join(f"{guest.address} {guest.name} {guest.host_key}\n" for guest in party).encode()


def _log_in(wait: Wait, way: Way, log: Log, party: bytes, begun: "subprocess.Popen[bytes] | None" = None) -> None:
    """Tries until the submitting user can log in; what is `begun` is the first attempt."""
    chosen = wait.chosen
    said = "no answer yet"
    while True:
        attempt = begun or ssh.prove_login(chosen.handover, chosen.job.user, way.address, chosen.alias, party, way.port)
        begun = None
        handle = os.pidfd_open(attempt.pid)
        wait.watch.descriptor(handle)
        try:
            status = wait.until(attempt.poll, f"phase login: {chosen.job.user.name} cannot log in at {way}: {said}")
            said = console.printable_tail(_output(attempt), 1) or f"ssh ended with {status}"
        finally:
            wait.watch.forget(handle)
            os.close(handle)
            process.end(attempt)
        if status == 0:
            return
        log.detail(f"login at {way}: {said}")
        wait.pause(_LOGIN_PAUSE_SECONDS, f"phase login: {chosen.job.user.name} cannot log in at {way}: {said}")


def _output(attempt: "subprocess.Popen[bytes]") -> bytes:
    """What a process of the user's has said; never waits, as another process of the user may hold the pipe open."""
    if attempt.stdout is None:
        return b""
    os.set_blocking(attempt.stdout.fileno(), False)
    try:
        return os.read(attempt.stdout.fileno(), 4096)
    except BlockingIOError:
        return b""
