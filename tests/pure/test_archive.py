"""The site's archives: read member by member, nothing outside, nothing but files."""

import contextlib
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vmbatch.context import archive as archives
from vmbatch.context.archive import contents
from vmbatch.errors import SiteError

from .archives import archive, member


def names(path: str, strip: int = 0) -> list[str]:
    return [name for name, _, _ in contents(path, strip)]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_files(tmp_path: Path, mode: str) -> None:
    path = archive(tmp_path / "a", member("a", tarfile.DIRTYPE), member("a/b", mode=0o755), member("./a//c d/ä"), mode=mode)
    assert list(contents(path, 0)) == [("a/b", 0o755, b"content\n"), ("a/c d/ä", 0o644, b"content\n")]


@pytest.mark.parametrize(("strip", "found"), [(0, ["x/y/z", "x/top"]), (1, ["y/z", "top"]), (2, ["z"]), (3, []), (99, [])])
def test_strip(tmp_path: Path, strip: int, found: list[str]) -> None:
    assert names(archive(tmp_path / "a", member("x/y/z"), member("x/top")), strip) == found


def test_absolute_names_are_taken_below_the_directory(tmp_path: Path) -> None:
    assert names(archive(tmp_path / "a", member("/etc/passwd"), member("//x"))) == ["etc/passwd", "x"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "..", "/../x", "./../x"])
def test_names_that_lead_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(SiteError, match="leads outside"):
        names(archive(tmp_path / "a", member(name)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_neither_file_nor_directory(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(SiteError, match=r"'x' is neither file nor directory"):
        names(archive(tmp_path / "a", member("y"), member("x", kind, link="/etc/shadow")))


def test_no_set_uid_no_write_for_others(tmp_path: Path) -> None:
    path = archive(tmp_path / "a", member("x", mode=0o7777))
    assert [mode for _, mode, _ in contents(path, 0)] == [0o755]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_torn_at_every_length(tmp_path: Path, mode: str) -> None:
    """A SiteError or a part of the names, never another error and never half a file."""
    whole = Path(archive(tmp_path / "a", member("x"), member("y"), data=b"content " * 200, mode=mode)).read_bytes()
    torn = tmp_path / "torn"
    failed = 0
    for length in range(0, len(whole), 1 if len(whole) < 1000 else 97):
        torn.write_bytes(whole[:length])
        try:
            assert all(content == b"content " * 200 for _, _, content in contents(str(torn), 0))
        except SiteError as error:
            failed += 1
            assert str(torn) in error.what
    assert failed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=600) | st.binary(max_size=100).map(lambda tail: b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + tail))
@example(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x07")
def test_anything(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with contextlib.suppress(SiteError):
        names(str(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.integers(0, 3000), st.integers(1, 255), st.sampled_from(["w", "w:gz", "w:xz", "w:bz2"]))
@pytest.mark.error("VB501")
def test_damaged(tmp_path: Path, at: int, change: int, mode: str) -> None:
    whole = bytearray(Path(archive(tmp_path / "a", member("x"), member("y"), mode=mode)).read_bytes())
    whole[at % len(whole)] ^= change
    (tmp_path / "a").write_bytes(whole)
    with contextlib.suppress(SiteError):
        names(str(tmp_path / "a"))


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("compressible", [True, False])
def test_damaged_in_the_middle_of_a_file(tmp_path: Path, mode: str, compressible: bool) -> None:
    """Where the decompressor complains, or nothing but the checksum at the end."""
    source = random.Random(1)  # noqa: S311
    data = (
        "".join(source.choice(["alpha ", "beta\n"]) for _ in range(60_000)).encode()
        if compressible
        else source.randbytes(300_000)
    )
    whole = bytearray(Path(archive(tmp_path / "a", member("x"), data=data, mode=mode)).read_bytes())
    for at in range(len(whole) // 2, len(whole) // 2 + 64):
        whole[at] ^= 0xFF
    (tmp_path / "a").write_bytes(whole)
    with pytest.raises(SiteError, match="cannot be read"):
        names(str(tmp_path / "a"))


def test_no_archive(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SiteError, match="cannot be read"):
            names(str(path))


@pytest.mark.parametrize(
    ("directory", "place"),
    [(".", "x/y"), ("/", "x/y"), ("opt", "opt/x/y"), ("/a/./b/", "a/b/x/y"), ("../..", "x/y"), ("a/../../b", "b/x/y")],
)
def test_places_on_the_medium(tmp_path: Path, directory: str, place: str) -> None:
    path = archive(tmp_path / "a", member("x/y"))
    assert archives.names(path, directory, 0) == [place]
    assert archives.on_medium(directory, "x/y") == place


@pytest.mark.parametrize(
    "name", ["prolog.sh", "parameters.sh", "kit/x", "ssh/host_key", "job/script", "tar/list", "site/prolog.d/x"]
)
@pytest.mark.parametrize(("directory", "strip"), [(".", 0), ("/", 0), ("x/..", 0)])
def test_places_that_are_ours(tmp_path: Path, name: str, directory: str, strip: int) -> None:
    with pytest.raises(SiteError, match="would take the place of VmBatch's"):
        archives.names(archive(tmp_path / "a", member(name)), directory, strip)


@pytest.mark.parametrize(("mode", "flag"), [("w", "-"), ("w:gz", "z"), ("w:bz2", "j"), ("w:xz", "J")])
def test_compression_is_by_content(tmp_path: Path, mode: str, flag: str) -> None:
    """Not by the file's name."""
    assert archives.compression(archive(tmp_path / "misleading.tar.gz", member("x"), mode=mode)) == flag


def test_compression_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert archives.compression(str(tmp_path / "a")) == "-"
