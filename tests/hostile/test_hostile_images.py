"""Every hostile image is refused for its own reason, in little memory; its good twins are taken."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vmbatch.format import FormatError, qcow, qcow2
from vmbatch.image.inspect import Known, inspect

from .corpus import CORPUS, LIMIT, Hostile, qcow2_file, qcow_file, verdict, vhd_file

pytestmark = pytest.mark.hostile_image

ROOT = Path(__file__).parents[2]
MEMORY = 256 << 20
MIB = 1 << 20

CHILD = """
import json, sys, time
from pathlib import Path
from tests.hostile.corpus import verdict
begin = time.process_time()
said = {path: verdict(Path(path), form) for path, form in json.load(sys.stdin)}
used = time.process_time() - begin
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
json.dump([said, peak * 1024, used], sys.stdout)
"""

TWINS = {
    "qcow2 v2": ("qcow2", ["-O", "qcow2", "-o", "compat=0.10"]),
    "qcow2 v3": ("qcow2", ["-O", "qcow2", "-o", "compat=1.1"]),
    "qcow2 compressed": ("qcow2", ["-c", "-O", "qcow2"]),
    "qcow2 zstd": ("qcow2", ["-c", "-O", "qcow2", "-o", "compression_type=zstd"]),
    "qcow2 lazy refcounts": ("qcow2", ["-O", "qcow2", "-o", "lazy_refcounts=on"]),
    "qcow2 512-byte clusters": ("qcow2", ["-O", "qcow2", "-o", "cluster_size=512"]),
    "qcow2 2 MiB clusters": ("qcow2", ["-O", "qcow2", "-o", "cluster_size=2M"]),
    "qcow2 extended L2": ("qcow2", ["-O", "qcow2", "-o", "extended_l2=on"]),
    "qcow2 1-bit refcounts": ("qcow2", ["-O", "qcow2", "-o", "refcount_bits=1"]),
    "qcow2 64-bit refcounts": ("qcow2", ["-O", "qcow2", "-o", "refcount_bits=64"]),
    "qcow2 metadata preallocated": ("qcow2", ["-O", "qcow2", "-o", "preallocation=metadata"]),
    "qcow2 compressed v2": ("qcow2", ["-c", "-O", "qcow2", "-o", "compat=0.10"]),
    "qcow": ("qcow", ["-O", "qcow"]),
    "qcow compressed": ("qcow", ["-c", "-O", "qcow"]),
    "vpc dynamic": ("vhd", ["-O", "vpc", "-o", "subformat=dynamic,force_size=on"]),
    "vpc fixed": ("vhd", ["-O", "vpc", "-o", "subformat=fixed,force_size=on"]),
    "raw": ("raw", ["-O", "raw"]),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every hostile image, made."""
    place = tmp_path_factory.mktemp("corpus")
    made = {}
    for number, hostile in enumerate(CORPUS):
        made[hostile.name] = place / str(number)
        hostile.build(made[hostile.name])
    return made


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk with data at both ends, some of it compressible."""
    path = tmp_path_factory.mktemp("disk") / "disk"
    with path.open("wb") as file:
        file.write(b"\xeb\x63\x90" + b"boot" * 20000)
        for at in range(8, 40, 8):
            file.seek(at * MIB)
            file.write(bytes(range(256)) * 4096)
        file.truncate(64 * MIB)
    return path


def look(path: Path, form: str, limit: int = LIMIT) -> Known:
    with path.open("rb") as file:
        return inspect(file.fileno(), form, limit)


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: str(hostile.name))
def test_refused(corpus: dict[str, Path], hostile: Hostile) -> None:
    said = verdict(corpus[hostile.name], hostile.form)
    assert re.fullmatch(hostile.reason, said), said


def test_there_are_many_and_each_has_its_name() -> None:
    assert len(CORPUS) >= 40
    assert len({hostile.name for hostile in CORPUS}) == len(CORPUS)


def test_they_are_small_on_the_disk(corpus: dict[str, Path]) -> None:
    files = [path for path in corpus.values() if path.is_file()]
    assert sum(path.stat().st_blocks * 512 for path in files) < 64 * MIB


def test_memory_and_time(corpus: dict[str, Path]) -> None:
    """All of them in one process, with the largest tables there may be among them."""
    wanted = [(str(corpus[hostile.name]), hostile.form) for hostile in CORPUS]
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, input=json.dumps(wanted), capture_output=True, text=True, check=True, timeout=99,
    )
    said, peak, used = json.loads(done.stdout)
    print(f"{len(said)} hostile images: {peak / MIB:.0f} MiB at most, {used:.1f} s")
    assert len(said) == len(CORPUS)
    assert all(said.values())
    assert peak < MEMORY
    assert used < 60


def test_hostile_as_another_format(corpus: dict[str, Path]) -> None:
    """What is said of an image before it is looked at may be wrong; then it is refused, too, and nothing else happens."""
    for hostile in CORPUS:
        for form in ("qcow2", "qcow", "vhd"):
            if form != hostile.form:
                assert verdict(corpus[hostile.name], form), (hostile.name, form)


@pytest.mark.parametrize("name", TWINS)
def test_good_twins(tmp_path: Path, disk: Path, name: str) -> None:
    """QEMU 7.2 makes a compressed qcow that is right, and ends with status 1 all the same."""
    form, options = TWINS[name]
    path = tmp_path / "image"
    driver = options[options.index("-O") + 1]
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", *options, str(disk), str(path)], check=name != "qcow compressed")
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", driver, str(disk), str(path)], check=True)
    assert look(path, form) == Known(form, 64 * MIB, path.stat().st_size, False)


@pytest.mark.parametrize("name", [
    "qcow2 v2", "qcow2 v3", "qcow2 512-byte clusters", "qcow2 2 MiB clusters", "qcow2 extended L2", "qcow", "vpc dynamic",
])
def test_empty_twins(tmp_path: Path, name: str) -> None:
    form, options = TWINS[name]
    path = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", *options[1:], str(path), "3G"], check=True)
    assert look(path, form).size == 3 << 30


def test_the_base_of_each_builder_is_good(tmp_path: Path) -> None:
    """So that an image is refused for what was changed in it."""
    qcow2_file(tmp_path / "qcow2", l1_table=[4 << 16 | 1 << 63, 5 << 16])
    qcow_file(tmp_path / "qcow", l1_table=[8192, 12288])
    vhd_file(tmp_path / "vhd", blocks=[2048, 2048 + 4097])
    vhd_file(tmp_path / "fixed", kind=2, size=64 * MIB, file_size=64 * MIB + 512)
    assert [look(tmp_path / name, name).size for name in ("qcow2", "qcow", "vhd")] == [1 << 30, 1 << 30, 64 * MIB]
    assert look(tmp_path / "fixed", "vhd").size == 64 * MIB


def test_differencing_is_said(tmp_path: Path) -> None:
    vhd_file(tmp_path / "child", kind=4)
    assert look(tmp_path / "child", "vhd") == Known("vhd", 64 * MIB, 16 * MIB, True)


def test_limits_are_kept_to_the_byte(tmp_path: Path) -> None:
    qcow2_file(tmp_path / "image")
    assert look(tmp_path / "image", "qcow2", 1 << 30).size == 1 << 30
    with pytest.raises(FormatError, match=r"^is a disk of 1G, but the limit is 1073741823$"):
        look(tmp_path / "image", "qcow2", (1 << 30) - 1)
    with (tmp_path / "image").open("r+b") as file:
        file.truncate(MIB * 16 + (1 << 30) // 16 * 17)
        assert inspect(file.fileno(), "qcow2", 1 << 30).size == 1 << 30
        file.truncate(MIB * 16 + (1 << 30) // 16 * 17 + 1)
        with pytest.raises(FormatError, match=r"^is a file of 1157627905, but the limit is 1G$"):
            inspect(file.fileno(), "qcow2", 1 << 30)


@pytest.mark.parametrize(("name", "hint"), [
    ("raw: qcow2 header", "state source_format='qcow2'"),
    ("raw: qcow header", "state source_format='qcow'"),
    ("raw: VHD footer", "state source_format='vhd'"),
    ("raw: gzip", "unpack it"),
    ("raw: VMDK descriptor", "convert it to raw or qcow2"),
])
def test_hint(corpus: dict[str, Path], name: str, hint: str) -> None:
    with pytest.raises(FormatError) as caught:
        look(corpus[name], "raw")
    assert caught.value.hint == hint


def test_unknown_form(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(512))
    with pytest.raises(ValueError, match="'vmdk' is no format of images"):
        look(tmp_path / "image", "vmdk")


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    """The size was taken before; then nothing is where the tables were."""
    qcow2_file(tmp_path / "qcow2")
    qcow_file(tmp_path / "qcow")
    for name, parse in (("qcow2", qcow2.parse), ("qcow", qcow.parse)):
        data = (tmp_path / name).read_bytes()[:4096]
        with pytest.raises(FormatError, match=r"^ends in its L1 table$"):
            parse(lambda offset, length, data=data: data[offset:offset + length], 8 << 16)  # type: ignore[misc]
