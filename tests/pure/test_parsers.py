"""Whatever stands in a record, an argument or an answer: what was written, or an error of ours; never another exception."""

import base64
import contextlib
import os
import string
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vmbatch import consolelink, endmarker, record, registry, slurmtask
from vmbatch.batch import pbsfacts, remedy, slurm, torque
from vmbatch.batch.system import Call
from vmbatch.errors import VmBatchError
from vmbatch.exchange import address, member
from vmbatch.exchange.address import Address
from vmbatch.exchange.member import Member
from vmbatch.format import FormatError, lvm, table
from vmbatch.handover import Handover, Mark, ScriptMark, decode
from vmbatch.host import clock, file, process, rootssh
from vmbatch.hypervisor.domain import Domain
from vmbatch.image import signature, unpack
from vmbatch.job import Leader, Script
from vmbatch.record import Content, HandedOver, Start
from vmbatch.resource import Resource
from vmbatch.spool.directory import Directory
from vmbatch.spool.first import FirstFill

from .lvm_sample import SAMPLE

DEEP = b'{"x":' * 3000
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
PATHS = TEXT.map(lambda text: os.fsdecode(text.replace("\0", "").encode()))
NUMBERS = st.integers(0, 1 << 62)
TOKENS = st.text("0123456789abcdef", min_size=32, max_size=32)
WORDS = st.text(string.ascii_letters + string.digits + " =,:;.+*&|()[]@%-/\n\"'\\<>\x1b\x00é", max_size=200)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8).map(msgspec.json.encode)

SCRIPTS = st.none() | st.builds(Script, PATHS, NUMBERS, NUMBERS, NUMBERS)
RESOURCES: st.SearchStrategy[Resource] = st.one_of(
    st.builds(Directory, TEXT, TOKENS, st.integers(0, 0o7777)), st.builds(Domain, TEXT, TEXT, TEXT, TOKENS, TEXT),
    st.builds(FirstFill, TEXT, TOKENS, TEXT), st.builds(Address, TEXT, TOKENS, TEXT, TEXT),
    st.builds(Member, TEXT, TOKENS, TEXT, TEXT, NUMBERS, TEXT, st.lists(TEXT, max_size=3).map(tuple), st.floats(0, 1e6)))
STARTS = st.builds(
    Start, TEXT, TOKENS, TEXT, TEXT, SCRIPTS, st.builds(clock.ProcessIdentity, NUMBERS, NUMBERS, TEXT),
    st.floats(0, 1e12), TEXT, st.floats(0, 1e9), st.none() | st.builds(Leader, NUMBERS, NUMBERS))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "record"


@given(STARTS, st.lists(RESOURCES, max_size=6), st.booleans(), st.integers(0, 200))
def test_a_journal_says_what_was_written(start: Start, owned: list[Resource], handed_over: bool, torn: int) -> None:
    lines = [msgspec.json.encode(line) for line in (start, *owned, *([HandedOver(1.0)] if handed_over else ()))]
    assert all(b"\n" not in line for line in lines)
    whole = b"".join(line + b"\n" for line in lines)
    said = Content(start, start, owned, handed_over)
    assert record.parse("x", whole) == said
    last = msgspec.json.encode(Directory("x" * 200, "0" * 32, 0))
    assert record.parse("x", whole + last[:torn]) == said, "a torn line is a promise nobody acted on"


@given(RESOURCES)
def test_a_record_is_read_as_what_it_was(owned: Resource) -> None:
    assert registry.resource(msgspec.json.encode(owned)) == owned


@given(st.binary(max_size=300) | JSON)
@example(DEEP)
def test_files_of_records(path: Path, data: bytes) -> None:
    """Entries of nodes, reservations, end markers: what is none counts as absent."""
    path.write_bytes(data)
    found = member.read(str(path))
    assert found is None or msgspec.json.decode(msgspec.json.encode(found), type=member.Entry) == found
    address._read(str(path))
    marked = endmarker._by(str(path))
    assert marked is None or isinstance(marked, clock.ProcessIdentity)


@given(PATHS, TOKENS, PATHS, NUMBERS,
       st.dictionaries(st.text(string.ascii_letters, min_size=1), st.text("0123456789abcdef", min_size=1)),
       st.none() | st.builds(ScriptMark, PATHS, NUMBERS, NUMBERS, NUMBERS), st.none() | st.builds(Mark, NUMBERS, NUMBERS),
       st.booleans())
def test_a_hand_over_says_what_was_written(job: str, token: str, user: str, uid: int, environment: dict[str, str],
                                           script: ScriptMark | None, leader: Mark | None, flag: bool) -> None:
    record = Handover(job=job, token=token, user=user, uid=uid, address="10.0.0.1", alias="a", console=job, template=user,
                      script=script, node_file=flag, environment=environment, leader=leader, x11=not flag)
    assert decode(record.encode()).encode() == record.encode()


@given(st.binary(max_size=300) | WORDS.map(str.encode))
@example(b"env")
def test_what_is_no_hand_over(data: bytes) -> None:
    for whole in (data, b"vmbatch hand-over 1\n" + data, b"vmbatch hand-over 1\njob 61\n" + data):
        with pytest.raises(ValueError):
            decode(whole)


@given(WORDS)
def test_slurms_words(text: str) -> None:
    """What slurmd and squeue say of a job, whatever its user has named."""
    for feature in slurm.features(text):
        assert feature and feature.isascii()
    amount = slurm.memory(text)
    assert amount is None or amount >= 0
    call = Call([], {"SLURM_JOB_EXIT_CODE2": text, "SLURM_JOB_NUM_NODES": text}, "")
    status = slurm.exit_status(call)
    assert status is None or 0 <= status <= 999
    with contextlib.suppress(VmBatchError):
        assert slurm._number(call.environ, "SLURM_JOB_NUM_NODES") >= 0


@given(st.lists(WORDS, max_size=5), st.sampled_from(["42", "7"]))
def test_squeues_answer(lines: list[str], job_id: str) -> None:
    """Only a line of two words, the first of which is the job, says something of it."""
    answer = "\n".join(lines)
    before = slurm._ask
    slurm._ask = lambda _environ, *_argv: answer
    try:
        state = slurm._state({}, job_id)
        slurm._allocation({}, job_id)
    finally:
        slurm._ask = before
    rows = [line.split() for line in answer.splitlines()]
    assert state == next((row[1] for row in rows if len(row) == 2 and row[0] == job_id), "")


@given(WORDS, WORDS)
def test_configurations_of_batch_systems(path: Path, one: str, other: str) -> None:
    """mom's and slurmd's, of which only one line counts; the file may include itself."""
    (path.parent / "config").write_text(f"{one}\n$prologalarm {other}\n$prologalarm 60\n")
    assert torque.alarm(str(path.parent)) > 0
    (path.parent / "slurm.conf").write_text(f"{one}\nPrologEpilogTimeout={other}\nInclude slurm.conf\nInclude {other}\n")
    assert slurm.alarm(str(path.parent / "slurm.conf")) > 0


@given(st.lists(WORDS, max_size=12),
       st.dictionaries(st.sampled_from(["PBS_NODENUM", "PBS_NODEFILE", "PBS_MSHOST", "PBS_NUM_PPN"]), WORDS))
def test_torques_arguments(words: list[str], environ: dict[str, str]) -> None:
    call = Call(["/var/spool/torque/mom_priv/prologue", *words], environ, "/nonexistent")
    status = torque.exit_status(call)
    assert status is None or -9999 <= status <= 9999
    system = torque.Torque()
    assert system.job_id(call) == (words[0] if words else "")
    try:
        job = system.parse(call, "0" * 32, None)
    except VmBatchError:
        return
    assert job.slug == os.path.basename(job.slug)


@given(st.binary(max_size=300).map(lambda data: data.decode(errors="replace")) | JSON.map(bytes.decode)
       | JSON.map(lambda data: f'{{"Jobs":{{"42.vm":{data.decode()}}}}}'))
@example(DEEP.decode())
def test_qstats_answer_of_openpbs(text: str) -> None:
    """A job, or an error of ours."""
    run, check = process.run, file.check_trusted
    process.run = lambda *_, **__: text
    file.check_trusted = lambda *_: None
    try:
        with contextlib.suppress(VmBatchError):
            assert pbsfacts._ask("42.vm").queue is not None
    finally:
        process.run, file.check_trusted = run, check


@given(st.text(max_size=400))
def test_what_torques_programs_get(text: str) -> None:
    """No comma, equals sign or quote, nothing that cannot be printed, bounded."""
    made = remedy.plain(text)
    assert len(made) <= 200 and made.isascii() and made.isprintable() and not set(made) & set(",=\"'`\\")
    assert remedy.plain(made) == made


@given(st.text(max_size=200) | st.binary(max_size=80).map(lambda data: "ssh-ed25519 " + data.hex()))
@pytest.mark.error("VB507")
def test_host_keys(line: str) -> None:
    try:
        kind, blob = rootssh.parse_host_key(line)
    except VmBatchError:
        return
    assert blob[4 : 4 + len(kind)] == kind.encode()


FRAMES = st.lists(st.binary(max_size=200) | st.builds(
    lambda session, number, data: b"\nvb> " + (text := f"{session} out {number} {len(data)} {consolelink.cksum(data)}").encode()
    + b"|" + text.encode() + b".\n" + base64.encodebytes(data), TOKENS, st.integers(0, 99), st.binary(max_size=300)),
    max_size=6).map(b"".join)


@given(FRAMES, st.lists(st.integers(1, 50), max_size=20))
def test_what_a_guest_writes_to_its_console(data: bytes, cuts: list[int]) -> None:
    """However it is cut, the same is found, and no more is kept than a line and a frame."""
    whole = consolelink.Receiver().feed(data + b"\n")
    receiver = consolelink.Receiver()
    found, rest = [], data + b"\n"
    for cut in (*cuts, len(rest)):
        found += receiver.feed(rest[:cut])
        rest = rest[cut:]
        assert len(receiver._rest) <= 2048 and sum(map(len, receiver._text)) <= 2 * consolelink.PIECE_BYTES
    assert found == whole
    assert all(len(piece) <= consolelink.PIECE_BYTES for _, piece in found)


@given(st.binary(max_size=400), st.sampled_from(["gz", "bz2", "xz", "zst"]), st.integers(1, 50))
def test_packed_images(data: bytes, form: str, piece: int) -> None:
    magic = {"gz": b"\x1f\x8b\x08", "bz2": b"BZh9", "xz": b"\xfd7zXZ\0", "zst": b"\x28\xb5\x2f\xfd"}[form]
    for whole in (data, magic + data):
        pieces = [whole[at : at + piece] for at in range(0, len(whole), piece)]
        try:
            assert sum(map(len, unpack.unpack(pieces, form, 1 << 16))) <= 1 << 16
        except FormatError as error:
            assert error.what.isprintable()


@given(st.binary(max_size=300) | JSON)
@example(DEEP)
def test_signature_blocks(path: Path, data: bytes) -> None:
    """Behind an image, in its last two blocks."""
    path.write_bytes(bytes(signature.BLOCK) + data.ljust(signature.BLOCK, b"\0")[: signature.BLOCK] * 2)
    with path.open("rb") as opened, pytest.raises(FormatError) as caught:
        signature._block(opened.fileno(), path.stat().st_size)
    assert caught.value.what.startswith("is not signed")


@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=12))
@settings(max_examples=60)
def test_a_damaged_volume_group(damage: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLE)
    for at, value in damage:
        data[at] = value
    size = 64 << 20

    def read(offset: int, length: int) -> bytes:
        assert length <= lvm.TEXT_LIMIT
        return bytes(data[offset : offset + length]).ljust(max(0, min(length, size - offset)), b"\0")

    try:
        for name in lvm.names(read, table.Extent(0, size)):
            for extent in lvm.logical_volume(read, table.Extent(0, size), name):
                assert 0 <= extent.offset <= extent.offset + extent.length <= size
    except FormatError as error:
        assert error.what.isprintable()


@given(st.binary(max_size=400))
def test_the_environment_of_slurms_task(data: bytes) -> None:
    fd = os.memfd_create("environment")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    found = slurmtask.read_environment(fd)
    assert all("=" not in name and not name.startswith("SLURM_RLIMIT_") for name in found)
    assert len(found) <= data.count(b"=")


READERS: dict[str, Callable[[bytes], object]] = {
    "a journal's line": lambda data: registry.resource(data),
    "a start": lambda data: msgspec.json.decode(data, type=Start),
}


@pytest.mark.parametrize("reader", READERS)
@given(data=st.binary(max_size=200) | JSON)
@example(data=DEEP)
def test_lines(reader: str, data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        READERS[reader](data)
