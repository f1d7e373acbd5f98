"""The way into a guest without network: the kit's console-serve.sh, reached through a character device of the domain."""

from __future__ import annotations

import contextlib
import os
import time

from .consolelink import ASK_SECONDS, PIECE_BYTES, STREAMS, WINDOW, Link
from .errors import DeadlineError, NodeError
from .shell import LOST, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from .shell.guest import Guest
    from .units import Deadline

    class Call(Protocol):
        """What is to be run (remoteshell)."""

        uses_input: bool

        def request(self) -> bytes:
            """For the kit's job.sh."""

_QUEUED = 8
_FAILURE = 255
_SIGNAL_SECONDS = 0.3
_LOST_SECONDS = 120.0
_LAST_SECONDS = 2.0
"""For QEMU to end behind its console."""


class LostError(Exception):
    """The device or the guest's side of it is no more, or never was; the text says how."""


class Console:
    """A session over the device at `path`, which is this process's alone for so long; `heard` gets all that the guest writes.

    `step` is all that reads and writes; it may be called as rarely as the caller likes.
    """

    def __init__(self, path: str, heard: Callable[[bytes], None] | None = None) -> None:
        """LostError if the device cannot be had."""
        import secrets

        self._path = path
        self._heard = heard
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            _make_raw(self.descriptor)
        except BlockingIOError:
            self.close()
            raise LostError(f"{path} is in use by another job shell") from None
        except OSError as error:
            self.close()
            raise LostError(f"{path}: {error.strerror}") from None
        self.link = Link(secrets.token_hex(8))

    def restart(self) -> None:
        """A new session; what belongs to the one before is forgotten."""
        import secrets

        self.link = Link(secrets.token_hex(8))

    def step(self, seconds: float, also: tuple[int, ...] = ()) -> None:
        """Reads and writes what there is, after waiting until there is something, for that long at most.

        LostError. `also` are further descriptors that end the wait when they have something to read.
        """
        import select

        link = self.link
        wait = min(seconds, link.tick(time.monotonic()))
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN | (select.POLLOUT if link.pending else 0))
        for descriptor in also:
            poll.register(descriptor, select.POLLIN)
        for descriptor, events in poll.poll(wait * 1000):
            if descriptor == self.descriptor:
                self._transfer(events & ~select.POLLOUT)
        if link.unheard is not None and link.unheard + _LOST_SECONDS < time.monotonic():
            raise LostError(f"nothing came from the guest for {_LOST_SECONDS:.0f} s")

    def _transfer(self, readable: int) -> None:
        try:
            if readable:
                data = os.read(self.descriptor, 64 << 10)
                if not data:
                    raise LostError("the guest is gone")
                if self._heard is not None:
                    self._heard(data)
                self.link.feed(data, time.monotonic())
            if self.link.pending:
                del self.link.pending[: os.write(self.descriptor, self.link.pending)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise LostError(f"{self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Gives the device back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _make_raw(descriptor: int) -> None:
    """Ours alone, and without a terminal's ways, as cfmakeraw(3). OSError; BlockingIOError if another process has it."""
    import fcntl
    import termios

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        modes = termios.tcgetattr(descriptor)
        modes[0] = modes[1] = modes[3] = 0
        modes[2] = modes[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(descriptor, termios.TCSANOW, modes)
    except termios.error as error:
        raise OSError(*error.args) from None


class Login:
    """For the prologue: the kit's messages and a login over the console, in small steps beside other waiting."""

    def __init__(self, path: str, heard: Callable[[bytes], None] | None = None) -> None:
        """NodeError if the device cannot be had."""
        try:
            self._console = Console(path, heard)
        except LostError as error:
            raise NodeError(f"the guest's console cannot be opened: {error}", code="VB710") from None
        self.descriptor = self._console.descriptor
        """Has something to read when it is worth looking; but look each second, too."""
        self._console.link.ask_messages(True)

    def message(self, kind: str) -> bytes | None:
        """The kit's message of that kind, if it has come, as `guest.parse_message` takes it. NodeError if the guest is lost."""
        self._step()
        return self._console.link.messages.get(kind)

    def poll(self) -> int | None:
        """Has the submitting user log in, once; the exit status when that is over. NodeError if the guest is lost."""
        self._step()
        link = self._console.link
        if link.answer is not None:
            return link.answer[0]
        if link.ready == "user" and not link.commanding():
            link.command("login")
            self._step()
        return None

    def _step(self) -> None:
        console = self._console
        try:
            console.step(0)
        except LostError as error:
            raise NodeError(f"the guest's console was lost: {error}", code="VB710") from None
        console.link.unheard = None  # whoever waits for a boot has a deadline
        if console.link.gone:
            console.restart()
            console.link.ask_messages(True)

    def close(self) -> None:
        """Lets the job's shell have the console."""
        self._console.close()


def prove(path: str, deadline: Deadline) -> dict[str, bytes]:
    """Proves that the submitting user can log in through the console at `path`; the kit's messages by their kind.

    DeadlineError, NodeError if the login fails or the console is lost.
    """
    import select

    login = Login(path)
    try:
        while (status := login.poll()) is None:
            if deadline.passed():
                raise DeadlineError("the guest's console has not answered", "does the guest run the kit's epilog.sh?",
                                    code="VB710")
            select.select([login.descriptor], [], [], min(0.25, deadline.left()))
        if status:
            raise NodeError(f"the login through the guest's console failed with status {status}", code="VB710")
        return dict(login._console.link.messages)
    finally:
        login.close()


class Session:
    """One run of the job in its guest through the console; stands where remoteshell's session over ssh does."""

    def __init__(self, path: str, guest: Guest | None = None) -> None:
        import secrets

        self._path = path
        self._guest = guest
        self._id = secrets.token_hex(8)
        self._got: dict[int, None] = {}  # a signal counts once: mom sends each several times over
        self._passing = 0
        self._pause = 0.0

    def run(self, understand: Callable[[], Call]) -> int:
        """The job's exit status; if the guest was lost 255, 253 or 252 and a message. What is to be run is found meanwhile."""
        import signal

        forwarded = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
                     signal.SIGALRM, signal.SIGCONT, signal.SIGTSTP]
        wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in forwarded:
            signal.signal(number, lambda number, _frame: self._got.update({number: None}))
        try:
            console = Console(self._path)
        except LostError as error:
            return _lost(f"{error}; the job does not run")
        streams = _Streams(understand(), waker)
        console.restart()  # as time may have passed
        console.link.run(self._id)
        try:
            return self._carry(console, streams, wake)
        except LostError as error:
            if self._guest is not None and self._guest.ended(_LAST_SECONDS):
                return self._guest.judge()
            return _lost(f"{error}; the job may not have ended")
        finally:
            console.close()

    def _carry(self, console: Console, streams: _Streams, wake: int) -> int:
        """Carries streams and signals until the job has ended."""
        link = console.link
        while not (link.finished() and streams.written()):
            console.step(ASK_SECONDS, (wake,))
            _drain(wake)
            if link.gone:
                return self._ask_status(console)
            if link.broken:
                raise LostError(f"the guest had no room for the job's {'error ' if link.broken == 'err' else ''}output")
            streams.carry(link)
            self._pass_signals(link)
        return link.status or 0

    def _pass_signals(self, link: Link) -> None:
        """Passes on what has come, one by one; again, where the job is only being started."""
        import signal

        if link.answer is not None:
            if link.answer[0] == 0:
                self._got.pop(self._passing, None)
            link.answer, self._pause = None, time.monotonic() + _SIGNAL_SECONDS
        if self._got and link.ready and not link.commanding() and self._pause <= time.monotonic():
            self._passing = next(iter(self._got))
            link.command(f"signal {self._id} {signal.Signals(self._passing).name.removeprefix('SIG')}")

    def _ask_status(self, console: Console) -> int:
        """The guest's side was started again, so the streams are lost; but the job may have ended all the same."""
        console.restart()
        console.link.command(f"status {self._id}")
        while console.link.answer is None:
            console.step(ASK_SECONDS)
            if console.link.gone:
                raise LostError("what serves it in the guest ends again and again")
        status, output = console.link.answer
        if status or not output.strip().isdigit():
            raise LostError("what served it in the guest was ended")
        say("the connection to the job's guest was lost before all of the output had come (the job has ended)", LOST)
        return int(output) & 0xFF


class _Streams:
    """Standard input, output and error output: each has a thread, as each may block. All wake the caller by `waker`."""

    def __init__(self, call: Call, waker: int) -> None:
        import queue
        import threading

        self._waker = waker
        self._input: queue.Queue[bytes] = queue.Queue(WINDOW)
        self._output: dict[str, queue.Queue[bytes]] = {name: queue.Queue(_QUEUED) for name in STREAMS}
        threading.Thread(target=self._read, args=(call.request(), call.uses_input), daemon=True).start()
        for descriptor, name in enumerate(STREAMS, 1):
            threading.Thread(target=self._write, args=(name, descriptor), daemon=True).start()

    def carry(self, link: Link) -> None:
        """Between the threads and the guest."""
        while link.arrived and not self._output[link.arrived[0][0]].full():
            name, piece = link.arrived.popleft()
            self._output[name].put(piece)
            link.done(name)
        while link.room() and not self._input.empty():
            link.offer(self._input.get_nowait(), time.monotonic())

    def written(self) -> bool:
        """Whether nothing waits to be written."""
        return not any(queue.unfinished_tasks for queue in self._output.values())

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"\0")

    def _read(self, request: bytes, uses_input: bool) -> None:
        """The request, then all of our standard input if it is the job's, then the end."""
        for at in range(0, len(request), PIECE_BYTES):
            self._give(request[at : at + PIECE_BYTES])
        try:
            while uses_input and (data := os.read(0, PIECE_BYTES)):
                self._give(data)
        except OSError:
            pass
        self._give(b"")

    def _give(self, piece: bytes) -> None:
        self._input.put(piece)
        self._wake()

    def _write(self, name: str, descriptor: int) -> None:
        """What arrives; once that cannot be written any more it is dropped, as the job must go on."""
        works = True
        while True:
            view = memoryview(self._output[name].get())
            try:
                while view and works:
                    view = view[os.write(descriptor, view) :]
            except OSError as error:
                works = False
                if name == "out":
                    say(f"the job's output cannot be written any more: {error.strerror}")
            self._output[name].task_done()
            self._wake()


def _drain(wake: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(wake, 4096)


def _lost(why: str) -> int:
    say(f"the connection to the job's guest was lost (console: {why})", LOST)
    return _FAILURE
