"""The console's protocol, host's side: lines and frames out of noise, what is sent when, and nothing grows without bounds."""

import base64
import random
import sys

import pytest

from vmbatch import consolelink
from vmbatch.consolelink import PIECE_BYTES, WINDOW, Link, Receiver, checksum, cksum, frame, line

SESSION = "00c0ffee00c0ffee"
RUN = "0123456789abcdef"


def says(text: str) -> bytes:
    return f"\nvb> {SESSION} {text}|{SESSION} {text}.\n".encode()


def guest_frame(stream: str, number: int, data: bytes, *, width: int = 76) -> bytes:
    text = base64.b64encode(data)
    lines = b"".join(text[at : at + width] + b"\n" for at in range(0, len(text), width))
    return says(f"{stream} {number} {len(data)} {cksum(data)}") + lines


@pytest.mark.parametrize(("data", "sum_"), [
    (b"", 4294967295), (b"a", 1220704766), (b"123456789", 930766865), (bytes(70000), 1774371287), (b"hello" * 100, 1161070485),
])
def test_cksum_is_that_of_posix(data: bytes, sum_: int) -> None:
    """From GNU coreutils' cksum."""
    assert cksum(data) == sum_
    assert checksum(data, "cksum") == str(sum_)


def test_checksum_of_a_guest_without_cksum() -> None:
    assert checksum(b"a", "sha256sum") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    data = bytes(range(256))
    text = base64.encodebytes(data)
    head = says(f"out 0 256 {checksum(data, 'sha256sum')}")
    assert Receiver().feed(head + text) == [([SESSION, "out", "0", "256", checksum(data, "sha256sum")], data)]


def test_lines_to_the_guest() -> None:
    assert line("12 hello") == b"\nvb< 12 hello|12 hello.\n"
    assert frame("12", 3, b"abc", "cksum") == b"\nvb< 12 in 3 3 1219131554|12 in 3 3 1219131554.\nYWJj\n"
    assert frame("12", 4, b"", "cksum") == b"\nvb< 12 in 4 0 4294967295|12 in 4 0 4294967295.\n"
    assert max(map(len, frame("12", 0, bytes(PIECE_BYTES), "cksum").splitlines())) == 76


@pytest.mark.parametrize("size", [0, 1, 2, 3, 57, 58, 6144, PIECE_BYTES])
@pytest.mark.parametrize("width", [64, 76, 99999])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r\r\n"])
def test_a_frame_in_any_pieces(size: int, width: int, ending: bytes) -> None:
    if width == 99999 and size > 1000:
        width = 400
    data = random.Random(size).randbytes(size)  # noqa: S311
    sent = guest_frame("out", 0, data, width=width).replace(b"\n", ending)
    whole = Receiver()
    assert [piece for _, piece in whole.feed(sent)] == [data]
    assert whole.damaged == 0 and not whole.waits()
    bytewise = Receiver()
    assert [piece for at in range(len(sent)) for _, piece in bytewise.feed(sent[at : at + 1])] == [data]


@pytest.mark.parametrize("noise", [
    b"login: ", b"\r\n[   12.345678] usb 1-1: new device\r\n", b"\x1b[31mred\x1b[0m\n", b"\0\0\0\n", b"\xff" * 300 + b"\n",
    b"\nvb< 12 hello|12 hello.\n", b"\nvb> \n", b"\nvb> x|y.\n", b"\nvb> .\n", b"\nvb> |.\n", b"alice@guest:~$ ", b"\n= = =\n",
])
def test_noise_between_lines_and_frames(noise: bytes) -> None:
    found = Receiver().feed(noise + says("began 1") + noise + guest_frame("err", 7, b"data") + noise + says("exit 3"))
    assert [(words[1], piece) for words, piece in found] == [("began", b""), ("err", b"data"), ("exit", b"")]


def test_a_kernel_message_between_the_lines_of_a_frame() -> None:
    data = bytes(range(200))
    lines = guest_frame("out", 0, data).splitlines(True)
    lines.insert(3, b"[   12.345] something happened\r\n")
    assert [piece for _, piece in Receiver().feed(b"".join(lines))] == [data]


def test_any_damage_to_one_byte_is_seen() -> None:
    data = bytes(range(100))
    sent = guest_frame("out", 5, data)
    rest = says("exit 0")
    for at in range(1, len(sent) - 1):
        for changed in (sent[:at] + sent[at + 1 :], sent[:at] + sent[at : at + 1] + sent[at:],
                        sent[:at] + bytes([sent[at] ^ 1]) + sent[at + 1 :], sent[:at] + b"[1.2] hub\n" + sent[at:]):
            receiver = Receiver()
            found = receiver.feed(changed + rest)
            assert all(piece == data and words[2] == "5" for words, piece in found if words[1] == "out"), changed


def test_lost_frames_are_counted() -> None:
    receiver = Receiver()
    sent = guest_frame("out", 5, bytes(1000))
    receiver.feed(sent[:600])
    assert (receiver.damaged, receiver.waits()) == (0, True)
    assert receiver.feed(guest_frame("out", 6, b"x"))[0][1] == b"x"
    assert (receiver.damaged, receiver.waits()) == (1, False)
    receiver.feed(b"\nvb> " + SESSION.encode() + b" out 6 1|garbage.\n")
    assert receiver.damaged == 2


@pytest.mark.parametrize("head", [
    "out 0 16385 1", "out 0 -1 1", "out 0 1e3 1", "out x 3 1", "out 0 3", "out 0 3 1 1", "out 0 99999999999999 1",
    "out 9999999999999 3 1", "out 0 3 \u0661",
])
def test_frames_that_no_guest_of_ours_would_send(head: str) -> None:
    receiver = Receiver()
    assert receiver.feed(says(head) + b"AAAA\n" + says("exit 1")) == [([SESSION, "exit", "1"], b"")]


def _size(receiver: Receiver) -> int:
    return len(receiver._rest) + sum(map(len, receiver._text)) + sum(map(len, receiver._head))


@pytest.mark.parametrize("flood", [
    b"x" * 65536, b"\n" * 65536, b"A" * 76 + b"\n", says("out 0 16384 1"), says("out 0 16384 1") + b"A" * 76 + b"\n",
    says("says vmbatch 1 failed x " + "y" * 900), b"vb> " * 1000, bytes(range(256)) * 16, says("out 0 0 4294967295"),
])
def test_whatever_a_guest_sends_little_is_kept(flood: bytes) -> None:
    link = Link(SESSION)
    link.run(RUN)
    link.tick(0)
    link.feed(says("ready 1 user cksum"), 0)
    link.tick(1)
    link.feed(says(f"began {RUN}"), 1)
    del link.pending[:]
    for now in range(300):
        link.feed(flood, 2 + now / 100)
        link.tick(2 + now / 100)
        assert _size(link._receiver) < 64 << 10
    assert len(link.arrived) <= 2 * WINDOW
    assert len(link.pending) < 4096
    assert sum(map(len, link.messages.values())) < 4096
    assert sum(sys.getsizeof(value) for value in vars(link).values()) < 64 << 10


def test_a_guest_that_writes_but_never_reads() -> None:
    link = running()
    for number in range(5000):
        link.feed(guest_frame("out", number, b"x"), number / 1000)
        link.tick(number / 1000)
        assert link.arrived.popleft() == ("out", b"x")
        link.done("out")
    assert len(link.pending) < 66 << 10
    del link.pending[:]
    link.tick(100)
    assert link.pending == line(f"{SESSION} ask 5000 0 5000 0")


@pytest.mark.parametrize("text", [
    "took 99", "took 1", "took -1", "fed 99", "fed 1", "done 99 0", "done 1 300", "done 1", "exit 256", "exit -1", "exit",
    "began x", "ready 2 user", "ready", "says", "says vmbatch 1 shout x y", "says vmbatch 2 ready x y", "broken", "gone 1",
    "miss", "out", "x", "took 99999999999999999999999", "", " ", "out 5 0 4294967295",
])
def test_lines_that_make_no_sense_change_nothing(text: str) -> None:
    link = Link(SESSION)
    link.run(RUN)
    link.feed(says("ready 1 user cksum") + says(f"began {RUN}"), 0)
    link.feed(says(text), 1)
    assert (link._took, link._fed, link.answer, link.status, link.gone, link.broken, link.messages) == (
        0, 0, None, None, False, "", {})
    assert not link.arrived and not link.finished()


def test_another_sessions_lines_count_for_nothing() -> None:
    link = Link(SESSION)
    link.tick(0)
    link.feed(b"\nvb> 11 ready 1 user|11 ready 1 user.\n\nvb> 11 gone|11 gone.\n\nvb> 11 exit 0|11 exit 0.\n", 1)
    assert (link.ready, link.gone, link.status, link.unheard) == ("", False, None, 0)


def test_messages_of_the_kit() -> None:
    link = Link(SESSION)
    link.ask_messages(True)
    link.feed(says("ready 1 messages"), 0)
    link.tick(0)
    assert link.pending == line(f"{SESSION} say")
    link.feed(says("says vmbatch 1 announce 11 -") + says("says vmbatch 1 failed 11 no | vb> (space"), 0)
    assert link.messages == {"announce": b"vmbatch 1 announce 11 -\n", "failed": b"vmbatch 1 failed 11 no | vb> (space\n"}


def test_hello_is_repeated_until_there_is_an_answer_but_never_piled_up() -> None:
    link = Link(SESSION)
    for now in range(100):
        link.tick(now)
    assert link.pending == line(f"{SESSION} hello")
    assert link.unheard == 0
    del link.pending[:]
    link.tick(100)
    assert link.pending == line(f"{SESSION} hello")
    link.feed(says("ready 1 user cksum"), 100.1)
    del link.pending[:]
    link.tick(110)
    assert link.unheard is None
    assert (bytes(link.pending), link.ready) == (b"", "user")


def test_a_command_is_repeated_with_its_number_and_answered_once() -> None:
    link = Link(SESSION)
    link.feed(says("ready 1 user cksum"), 0)
    link.command("login")
    for now in (0, 5):
        link.tick(now)
        assert link.pending == line(f"{SESSION} do 1 login")
        del link.pending[:]
    link.feed(says("done 2 0") + says("done 1 1 "), 6)
    assert (link.answer, link.commanding()) == ((1, ""), False)
    link.feed(says("done 1 0"), 7)
    assert link.answer == (1, "")
    link.command("status 12")
    link.tick(8)
    assert link.pending == line(f"{SESSION} do 2 status 12")
    link.feed(says("done 2 0 143"), 8)
    assert link.answer == (0, "143")


def running() -> Link:
    link = Link(SESSION)
    link.run(RUN)
    link.feed(says("ready 1 user cksum") + says(f"began {RUN}"), 0)
    return link


def test_input_goes_out_two_frames_ahead_and_again_from_the_one_that_is_missing() -> None:
    link = running()
    for number in range(WINDOW):
        assert link.room()
        link.offer(b"%d" % number, 0)
    assert not link.room()
    assert link.pending == frame(SESSION, 0, b"0", "cksum") + frame(SESSION, 1, b"1", "cksum")
    del link.pending[:]
    link.feed(says("took 1"), 0.1)
    assert not link.room()
    link.feed(says("miss 1"), 0.1)
    link.tick(1)
    assert link.pending.startswith(frame(SESSION, 1, b"1", "cksum"))
    link.feed(says("took 2") + says("fed 1"), 1)
    assert link.room()
    link.offer(b"", 1)
    assert link.pending.endswith(frame(SESSION, 2, b"", "cksum"))


def test_it_asks_when_nothing_comes_and_sooner_when_something_was_lost() -> None:
    link = running()
    link.tick(3.5)
    del link.pending[:]
    link.tick(4)
    assert link.pending == b""
    link.tick(7)
    assert link.pending == line(f"{SESSION} ask 0 0 0 0")
    del link.pending[:]
    link.feed(guest_frame("out", 0, b"x" * 300)[:200], 7.1)
    link.tick(7.3)
    assert link.pending == b""
    link.tick(7.7)
    assert link.pending == line(f"{SESSION} ask 0 0 0 0")
    del link.pending[:]
    link.feed(guest_frame("out", 1, b"y"), 7.8)  # so the one before it was lost
    link.tick(8.2)
    assert link.pending == line(f"{SESSION} ask 0 0 0 0")


def test_output_is_taken_in_order_and_once() -> None:
    link = running()
    first, second = guest_frame("out", 0, b"one"), guest_frame("out", 1, b"two")
    link.feed(second + first + first + second + guest_frame("out", 2, b"too far"), 1)
    assert list(link.arrived) == [("out", b"one"), ("out", b"two")]
    link.done("out")
    assert link.pending == line(f"{SESSION} got 1 0")
    link.feed(guest_frame("out", 2, b"") + guest_frame("out", 3, b"behind the end"), 2)
    assert list(link.arrived)[2:] == [("out", b"")]
    link.feed(guest_frame("err", 0, b"") + says("exit 7"), 2)
    assert not link.finished()
    for stream in ("out", "out", "err"):
        link.done(stream)
    assert (link.finished(), link.status) == (True, 7)


def test_the_guest_is_given_up_only_when_it_owes_an_answer() -> None:
    """A host that was stopped for an hour has not been waiting for one."""
    link = running()
    link.tick(1)
    link.feed(says("took 0"), 1)
    assert link.unheard is None
    link.tick(3600)
    assert link.unheard == 3600


class Guest:
    """What console-serve.sh does, for a job that echoes its input, at the other end of a bad line."""

    def __init__(self) -> None:
        self.rest = b""
        self.sent: list[bytes] = []
        self.took = self.read = 0
        self.head: list[str] = []
        self.text = b""
        self.data = bytearray()
        self.made: list[bytes] = []

    def feed(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for text in lines:
            at = text.find(b"vb< ")
            half = (len(text) - at - 4) // 2 - 1
            both = text[at + 4 :]
            if at >= 0:
                self.finish()
                if both == both[:half] + b"|" + both[:half] + b".":
                    self.obey(both[:half].decode().split())
            elif self.head:
                self.text += text
                if len(self.text) >= -(-int(self.head[3]) // 3) * 4:
                    self.finish()

    def finish(self) -> None:
        if self.head:
            words, text = self.head, self.text
            self.head, self.text = [], b""
            try:
                data = base64.b64decode(text, validate=True)
            except ValueError:
                data = b""
            self.take(int(words[2]), data, len(data) == int(words[3]) and cksum(data) == int(words[4]))

    def take(self, number: int, data: bytes, whole: bool) -> None:
        if number == self.took and whole:
            self.took += 1
            self.data += data
            self.sent += [says(f"took {self.took}"), says(f"fed {self.took}")]
            self.made.append(data)
            if len(self.made) == self.read + 1:
                self.sent.append(guest_frame("out", self.read, data))
        else:
            self.sent.append(says(f"{'took' if number < self.took else 'miss'} {self.took}"))

    def obey(self, words: list[str]) -> None:
        match words[1:]:
            case ["hello"]:
                self.sent.append(says("ready 1 user cksum"))
            case ["run", run]:
                self.sent.append(says(f"began {run}"))
            case ["in", number, size, _]:
                if size == "0":
                    self.take(int(number), b"", True)
                else:
                    self.head = words
            case ["got", out, _] | ["ask", out, _, _, _]:
                moved = int(out) > self.read
                self.read = max(self.read, int(out))
                if words[1] == "ask":
                    self.sent += [says(f"took {self.took}"), says(f"fed {self.took}"), guest_frame("err", 0, b"")]
                if (moved or words[1] == "ask") and self.read < len(self.made):
                    self.sent.append(guest_frame("out", self.read, self.made[self.read]))
                if self.made and not self.made[-1] and self.read >= len(self.made) - 1:
                    self.sent += [says("exit 5"), guest_frame("err", 0, b"")]


@pytest.mark.parametrize("seed", range(12))
def test_everything_arrives_over_a_bad_line(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    data = chance.randbytes(60_000)

    def bad(sent: bytes) -> bytes:
        kind = chance.random()
        at = chance.randrange(len(sent) + 1)
        if kind < 0.1:
            return sent[:at] + sent[at + chance.randrange(1, 300) :]
        if kind < 0.2:
            return sent[:at] + b"\r\n[   12.3] kernel: message\r\n" + sent[at:]
        if kind < 0.25:
            return sent[:at] + sent[max(0, at - 100) :]
        if kind < 0.3:
            return b""
        return sent + (b"\nvb> " if kind < 0.35 else b"")

    link, guest, now = Link(SESSION), Guest(), 0.0
    link.run(RUN)
    rest, got = [data[at : at + 5000] for at in range(0, len(data), 5000)] + [b""], bytearray()
    while not link.finished():
        now += 0.05
        assert now < 600, (link._times, guest.took, guest.read)
        link.tick(now)
        if link.pending:
            sent = bytes(link.pending)
            del link.pending[:]
            guest.feed(bad(sent))
        answers, guest.sent = guest.sent, []
        for answer in answers:
            link.feed(bad(answer), now)
        while rest and link.room():
            link.offer(rest.pop(0), now)
        while link.arrived:
            stream, piece = link.arrived.popleft()
            got += piece
            link.done(stream)
    assert (bytes(got), bytes(guest.data), link.status) == (data, data, 5)


def test_the_documented_window_is_the_guests() -> None:
    text = (consolelink.__file__.rpartition("/")[0] + "/kit/console-serve.sh")
    with open(text, encoding="ascii") as file:
        assert f"window={WINDOW} " in file.read()
