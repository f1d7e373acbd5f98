"""What host and guest send each other over the console of a guest without network: the protocol with the kit's console-serve.sh.

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
import re
import zlib
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Frame = tuple[list[str], bytes]

PIECE_BYTES = 16 << 10
"""Of a stream in one frame."""
WINDOW = 2
"""Frames of input under way, which console-serve.sh has places for; no more are taken of a stream of output."""
STREAMS = ("out", "err")
ASK_SECONDS = 3.0
_PENDING_BYTES = 64 << 10
_LINE_LIMIT = 2048
_LARGEST = 255
"""Exit status."""
_HELLO_SECONDS = 1.0
_AGAIN_SECONDS = 2.0
_AGAIN_LIMIT = 15.0
_ASK_LIMIT = 15.0
_MISSING_SECONDS = 0.3
_STUCK_SECONDS = 0.5
_SAY_SECONDS = 0.5
_MESSAGES = ("announce", "ready", "failed")
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
        if words[1] not in STREAMS:
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
        self._got = dict.fromkeys(STREAMS, 0)
        self._ended = dict.fromkeys(STREAMS, False)
        self._done = dict.fromkeys(STREAMS, 0)
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
            case "done", [number, status, *_] if self._command.startswith(f"do {number} ") and 0 <= status <= _LARGEST:
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
            case "exit", [status] if 0 <= status <= _LARGEST:
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
        next_time, idle = now + ASK_SECONDS, not self.pending
        chores: tuple[tuple[str, bool, float, Callable[[], None]], ...] = (
            ("hello", not self.ready, _HELLO_SECONDS, lambda: self._send("hello")),
            ("say", bool(self.ready) and self._wants_messages, _SAY_SECONDS, lambda: self._send("say")),
            ("command", bool(self.ready and self._command), _AGAIN_SECONDS, lambda: self._send(self._command)),
            ("run", bool(self.ready and self._run) and not self._began, _AGAIN_SECONDS, lambda: self._send(f"run {self._run}")),
            ("input", bool(self._frames), self._patience, self._repeat_input),
            ("ask", self._began, ASK_SECONDS, lambda: self._ask(now)),
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
        at = min(self._heard + ASK_SECONDS, self._asked + _ASK_LIMIT)
        patience = ASK_SECONDS
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
