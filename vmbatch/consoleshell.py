"""The way into a guest without network: the kit's console-serve.sh, reached through a character device of the domain.

Guest and host send lines over the device, `vb< TEXT|TEXT.` to the guest and `vb> TEXT|TEXT.` to the host, between newlines. A
line whose halves differ was damaged, and counts as not sent; so does everything else that comes along: prompts, the kernel's
messages, an echo of what we sent. A text begins with the session, eight bytes in hexadecimal that the host chose at `hello`;
lines of other sessions are passed over. All patience is the host's: it repeats what gets no answer, and asks for what it misses,
while the guest only answers, or sends what is new, and does nothing twice.

| host | guest | |
|---|---|---|
| `hello` | `ready 1 user SUMMER`, or `ready 1 messages`: no logins | a session begins, that before it ends |
| `say` | `says vmbatch 1 KIND TOKEN REST`, any number | the kit's messages |
| `do N login`, `do N status RUN`, `do N signal RUN NAME` | `done N STATUS [OUTPUT]` | a command of the kit; N only once |
| `run RUN` | `began RUN` | the kit's job.sh, fed with the input's frames |
| `in K SIZE CKSUM` and text | `took R`, `miss R`, `fed C` | input: R frames are there, C of them with the job |
| `got OUT ERR` | `out K SIZE CKSUM` and text, `err ...` | output: so many frames of each are done with |
| `ask OUT ERR OUT2 ERR2` | `out`, `err`, `took`, `fed`, `exit` | `got`, and all from these frames on that may be missed |
| | `exit STATUS`, `broken NAME`, `gone` | the job's end; a stream cannot go on; no such session |

A frame is a line and, in lines again, the base64 of SIZE bytes, of which CKSUM is the checksum of cksum(1), or the SHA-256 where
the guest has no such program, as SUMMER says. An empty frame is a stream's end. What is under way is bounded, as buffers on the
way drop what they cannot hold: one frame of 6 KiB from the guest, be it of output or of error output (QEMU's virtio console drops
what the pty does not take, hw/char/virtio-console.c, and a pty takes 8 KiB, drivers/tty/pty.c in Linux), and two of 16 KiB to the
guest (whose terminal takes 64 KiB, tty_buffer.c). The host keeps little more, whatever a guest sends.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import time
import zlib
from collections import deque

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

    Frame = tuple[list[str], bytes]

PIECE_BYTES = 16 << 10
"""Of a stream in one frame."""
WINDOW = 2
"""Frames of input under way, which console-serve.sh has places for; no more are taken of a stream of output."""

_QUEUED = 8
_PENDING_BYTES = 64 << 10
_LINE_LIMIT = 2048
_FAILURE = 255
_HELLO_SECONDS = 1.0
_AGAIN_SECONDS = 2.0
_AGAIN_LIMIT = 15.0
_ASK_SECONDS = 3.0
_ASK_LIMIT = 15.0
_MISSING_SECONDS = 0.3
_STUCK_SECONDS = 0.5
_SAY_SECONDS = 0.5
_SIGNAL_SECONDS = 0.3
_LOST_SECONDS = 120.0
_LAST_SECONDS = 2.0
"""For QEMU to end behind its console."""
_MESSAGES = ("announce", "ready", "failed")
_STREAMS = ("out", "err")
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_TEXT = re.compile(rb"[A-Za-z0-9+/]{1,512}={0,2}")
_NUMBER = re.compile(r"[0-9]{1,12}")


def cksum(data: bytes) -> int:
    """The checksum of cksum(1): POSIX, the polynomial of zlib's CRC-32 with the bits the other way round, length included."""
    length = len(data)
    count = length.to_bytes((length.bit_length() + 7) // 8, "little")
    crc = zlib.crc32((data + count).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2) ^ 0xFFFFFFFF


def checksum(data: bytes, program: str) -> str:
    """As the guest's program prints it."""
    if program == "cksum":
        return str(cksum(data))
    import hashlib

    return hashlib.sha256(data).hexdigest()


def line(text: str) -> bytes:
    """A line to the guest; the newline before it ends whatever the line had."""
    return f"\nvb< {text}|{text}.\n".encode("ascii")


def frame(session: str, number: int, data: bytes, program: str) -> bytes:
    """A piece of input for the guest, which has this program for checksums."""
    return line(f"{session} in {number} {len(data)} {checksum(data, program)}") + base64.encodebytes(data)


class Receiver:
    """Finds lines and frames in what a guest writes; keeps a line and a frame at most."""

    def __init__(self) -> None:
        self.damaged = 0
        """Frames that were lost or came damaged, as far as it is known here."""
        self._rest = b""
        self._too_long = False
        self._head: list[str] = []
        self._text: list[bytes] = []
        self._missing = 0

    def waits(self) -> bool:
        """Whether a line or a frame has come in part."""
        return bool(self._head or self._rest or self._too_long)

    def feed(self, data: bytes) -> list[Frame]:
        """(words, bytes of a frame) of all that is complete; the words are session, verb, arguments."""
        found: list[Frame] = []
        *lines, rest = data.split(b"\n")
        for part in lines:
            if not self._too_long and len(self._rest) + len(part) <= _LINE_LIMIT:
                found.extend(self._line((self._rest + part).strip(b"\r\0")))
            self._rest, self._too_long = b"", False
        if self._too_long or len(self._rest) + len(rest) > _LINE_LIMIT:
            self._rest, self._too_long = b"", True
        else:
            self._rest += rest
        return found

    def _line(self, text: bytes) -> list[Frame]:
        at = text.find(b"vb> ")
        if at >= 0:
            return self._words(text[at + 4 :])
        if self._head and _TEXT.fullmatch(text):
            return self._part(text)
        return []

    def _words(self, both: bytes) -> list[Frame]:
        """A line of the guest's; a frame before it that is not complete will not be."""
        self._drop()
        half = len(both) // 2 - 1
        if len(both) % 2 or half < 0 or both != both[:half] + b"|" + both[:half] + b".":
            self.damaged += 1
            return []
        text = both[:half].decode("ascii", "replace")
        words = text.split(" ", 2)
        if len(words) < 2:
            return []
        if words[1] not in _STREAMS:
            return [(words if words[1] == "says" else text.split(" "), b"")]
        words = text.split(" ")
        if len(words) != 5 or not all(map(_NUMBER.fullmatch, words[2:4])) or int(words[3]) > PIECE_BYTES:
            self.damaged += 1
            return []
        self._head = words
        self._missing = -(-int(words[3]) // 3) * 4
        return self._complete()

    def _part(self, text: bytes) -> list[Frame]:
        self._text.append(text)
        self._missing -= len(text)
        return self._complete()

    def _complete(self) -> list[Frame]:
        """The frame, if all of it is there."""
        if self._missing > 0:
            return []
        try:
            data = base64.b64decode(b"".join(self._text))
        except ValueError:
            data = b""
        words = self._head
        program = "cksum" if len(words[4]) < 32 else "sha256sum"
        if self._missing < 0 or len(data) != int(words[3]) or checksum(data, program) != words[4]:
            self._drop()
            return []
        self._head, self._text = [], []
        return [(words, data)]

    def _drop(self) -> None:
        """A frame that will not be complete."""
        self.damaged += bool(self._head)
        self._head, self._text = [], []


class Link:
    """One session: what is to be sent and when, what has come. Knows no device and no clock: `now` is in seconds."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.pending = bytearray()
        """What is to be written to the device."""
        self.ready = ""
        """What the guest offers: `user`, or `messages` alone; empty until it has answered."""
        self.gone = False
        """The guest's side was started again, and knows nothing of this session."""
        self.broken = ""
        self.unheard: float | None = None
        """Since when the guest owes us a line."""
        self.messages: dict[str, bytes] = {}
        self.answer: tuple[int, str] | None = None
        self.status: int | None = None
        self.arrived: deque[tuple[str, bytes]] = deque()
        """Output in order; an empty piece is the stream's end."""
        self._receiver = Receiver()
        self._wants_messages = False
        self._command = ""
        self._commands = 0
        self._summer = ""
        self._run = ""
        self._began = False
        self._frames: dict[int, bytes] = {}
        self._offered: dict[int, float] = {}
        self._next = self._took = self._fed = 0
        self._got = dict.fromkeys(_STREAMS, 0)
        self._ended = dict.fromkeys(_STREAMS, False)
        self._done = dict.fromkeys(_STREAMS, 0)
        self._times: dict[str, float] = {}
        self._patience = _AGAIN_SECONDS
        self._slow = 0.0
        self._missing = 0
        self._asked = self._heard = self._read = 0.0

    # What the host wants.

    def ask_messages(self, wanted: bool) -> None:
        """Whether the kit's messages are asked for."""
        self._wants_messages = wanted

    def command(self, words: str) -> None:
        """Has the guest do it; `answer` comes when it has. One at a time."""
        self._commands += 1
        self._command, self.answer = f"do {self._commands} {words}", None
        self._times.pop("command", None)

    def commanding(self) -> bool:
        """Whether a command has not been answered."""
        return bool(self._command)

    def run(self, run: str) -> None:
        """Starts the kit's job.sh."""
        self._run = run

    def room(self) -> bool:
        """Whether the guest has room for another piece of input."""
        return self._began and self._next < self._fed + WINDOW

    def offer(self, data: bytes, now: float) -> None:
        """A piece of input; an empty one is its end."""
        self._frames[self._next] = frame(self.session, self._next, data, self._summer)
        self._offered[self._next] = now
        self.pending += self._frames[self._next]
        self._next += 1
        self._times.setdefault("input", now + self._patience)

    def done(self, stream: str) -> None:
        """A piece that had arrived is in good hands."""
        self._done[stream] += 1
        if len(self.pending) < _PENDING_BYTES:  # else a guest that writes but does not read would have us pile it up
            self._send(f"got {self._done['out']} {self._done['err']}")

    def finished(self) -> bool:
        """Whether the job has ended and all of its output is in good hands."""
        return self.status is not None and all(self._ended.values()) and self._done == self._got

    # What the guest says.

    def feed(self, data: bytes, now: float) -> None:
        """What has been read from the device."""
        self._read = now
        for words, piece in self._receiver.feed(data):
            if words[0] == self.session:
                self.unheard, self._heard = None, now
                self._take(words[1], words[2:], piece, now)

    def _take(self, verb: str, words: list[str], piece: bytes, now: float) -> None:
        numbers = [int(word) if _NUMBER.fullmatch(word) else -1 for word in words]
        match verb, numbers:
            case "ready", [1, _, *_]:
                self.ready, self._summer = words[1], (words[2:] or ["cksum"])[0]
            case "gone", []:
                self.gone = True
            case "says", [_]:
                self._message(words[0])
            case "done", [number, status, *_] if self._command.startswith(f"do {number} ") and 0 <= status <= _FAILURE:
                self.answer, self._command = (status, words[2] if len(words) > 2 else ""), ""
            case "began", [_]:
                self._began = self._began or words[0] == self._run
            case "took", [number]:
                self._taken(number, now)
            case "miss", [number]:
                self._taken(number, now)
                self._times["input"] = min(self._times.get("input", now), now + _MISSING_SECONDS)
            case "fed", [number] if self._fed < number <= self._next:
                self._fed = number
            case ("out" | "err"), [number, _, _]:
                self._output(verb, number, piece)
            case "exit", [status] if 0 <= status <= _FAILURE:
                self.status = status
            case "broken", [_]:
                self.broken = words[0][:3]

    def _message(self, text: str) -> None:
        kind = text.split(" ", 3)[2] if text.count(" ") >= 3 else ""
        if text.startswith("vmbatch 1 ") and kind in _MESSAGES:
            self.messages[kind] = text.encode("ascii", "replace") + b"\n"

    def _taken(self, number: int, now: float) -> None:
        if self._took < number <= self._next:
            for old in range(self._took, number):
                del self._frames[old]
                self._slow = max(now - self._offered.pop(old), 0.9 * self._slow)
            self._took = number
            self._patience = max(_AGAIN_SECONDS, 2 * self._slow)
            self._times["input"] = now + self._patience

    def _output(self, stream: str, number: int, piece: bytes) -> None:
        if number == self._got[stream] and not self._ended[stream] and number < self._done[stream] + WINDOW:
            self._got[stream] += 1
            self._ended[stream] = not piece
            self.arrived.append((stream, piece))
        elif number > self._got[stream]:
            self._missing = -1

    # What time brings.

    def tick(self, now: float) -> float:
        """Sends what is due; seconds until more may be."""
        self._plan_ask()
        next_time, idle = now + _ASK_SECONDS, not self.pending
        chores: tuple[tuple[str, bool, float, Callable[[], None]], ...] = (
            ("hello", not self.ready, _HELLO_SECONDS, lambda: self._send("hello")),
            ("say", bool(self.ready) and self._wants_messages, _SAY_SECONDS, lambda: self._send("say")),
            ("command", bool(self.ready and self._command), _AGAIN_SECONDS, lambda: self._send(self._command)),
            ("run", bool(self.ready and self._run) and not self._began, _AGAIN_SECONDS, lambda: self._send(f"run {self._run}")),
            ("input", bool(self._frames), self._patience, self._repeat_input),
            ("ask", self._began, _ASK_SECONDS, lambda: self._ask(now)),
        )
        for what, wanted, again, act in chores:
            if not wanted:
                self._times.pop(what, None)
                continue
            if self._times.setdefault(what, now) <= now:
                self._times[what] = now + again
                self.unheard = now if self.unheard is None else self.unheard
                if idle:  # a device that takes nothing is not given more
                    act()
            next_time = min(next_time, self._times[what])
        return next_time - now

    def _plan_ask(self) -> None:
        """When to ask for what may have been missed: there is no need while all goes well."""
        at = min(self._heard + _ASK_SECONDS, self._asked + _ASK_LIMIT)
        patience = _ASK_SECONDS
        if self._missing != self._receiver.damaged:
            at, patience = 0.0, _MISSING_SECONDS
        elif self._receiver.waits():
            at, patience = self._read + _STUCK_SECONDS, _STUCK_SECONDS
        self._times["ask"] = max(at, self._asked + patience)

    def _repeat_input(self) -> None:
        self._patience = min(2 * self._patience, _AGAIN_LIMIT)
        for number in sorted(self._frames):
            self.pending += self._frames[number]

    def _ask(self, now: float) -> None:
        self._missing, self._asked = self._receiver.damaged, now
        self._send(f"ask {self._done['out']} {self._done['err']} {self._got['out']} {self._got['err']}")

    def _send(self, text: str) -> None:
        self.pending += line(f"{self.session} {text}")


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
            console.step(_ASK_SECONDS, (wake,))
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
            console.step(_ASK_SECONDS)
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
        self._output: dict[str, queue.Queue[bytes]] = {name: queue.Queue(_QUEUED) for name in _STREAMS}
        threading.Thread(target=self._read, args=(call.request(), call.uses_input), daemon=True).start()
        for descriptor, name in enumerate(_STREAMS, 1):
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
