"""What comes out of a guest is hostile: nothing beside what was asked for, nothing through a link, no more than may be."""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from vmbatch import staging
from vmbatch.errors import JobError
from vmbatch.format import FormatError
from vmbatch.staging import Stage, unpack, working_directory

from .test_tar import info, made

GIB = 1 << 30
KEPT = "not to be changed"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A working directory, with a directory beside it to which its link leads."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text(KEPT)
    work = tmp_path / "work"
    work.mkdir()
    (work / "away").symlink_to(tmp_path / "outside")
    before = os.umask(0o027)
    yield work
    os.umask(before)
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
    assert (tmp_path / "outside/secret").read_text() == KEPT
    assert not list(tmp_path.rglob(".vmbatch-*"))


def fetched(place: Path, *infos: tarfile.TarInfo, names: tuple[str, ...] = ("out", "away", "one"), limit: int = GIB) -> list[str]:
    return unpack(io.BytesIO(made(tarfile.GNU_FORMAT, *infos)).read, str(place), names, limit)


def tree(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.name != "away")


def test_what_was_asked_for(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out/old").write_text("old")
    (place / "out/kept").write_text("kept")
    problems = fetched(
        place, info("./out", tarfile.DIRTYPE, mode=0o555), info("./out/old", size=5, mode=0o6777),
        info("out//./deep/new", size=1), info("./out/again", tarfile.LNKTYPE, target="./out/deep/new"),
        info("./out/link", tarfile.SYMTYPE, target="deep/new"),
        info("one", size=0, mode=0o400))
    assert problems == []
    assert tree(place) == ["one", "out", "out/again", "out/deep", "out/deep/new", "out/kept", "out/link", "out/old"]
    assert (place / "out/old").read_text() == "xxxxx"
    assert stat.S_IMODE((place / "out/old").stat().st_mode) == 0o750, "without setuid and setgid, and as the umask wants it"
    assert stat.S_IMODE((place / "one").stat().st_mode) == 0o400
    assert (place / "out/again").stat().st_ino == (place / "out/deep/new").stat().st_ino
    assert (place / "out/old").stat().st_mtime == 1234567890
    assert (place / "out/kept").read_text() == "kept"
    assert os.readlink(place / "out/link") == "deep/new"


@pytest.mark.parametrize(("name", "why"), [
    ("/etc/passwd", "this name leads out of the directory"),
    ("../outside/secret", "this name leads out of the directory"),
    ("out/../../outside/secret", "this name leads out of the directory"),
    ("out/..", "this name leads out of the directory"),
    ("other", "nobody asked for this"),
    ("outer", "nobody asked for this"),
    (".ssh/authorized_keys", "nobody asked for this"),
    (".", "nobody asked for this"),
    ("away/secret", "away is there, and no directory (links are not followed)"),
    ("away/new/deep", "away is there, and no directory (links are not followed)"),
])
def test_names(place: Path, name: str, why: str) -> None:
    for kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
        assert fetched(place, info(name, kind, target="out/x")) == [f"{name}: {why}"]
    assert tree(place) == []


def test_a_link_of_the_users_is_replaced_and_not_followed(place: Path) -> None:
    assert fetched(place, info("away", size=3)) == []
    assert (place / "away").read_bytes() == b"xxx"
    assert not (place / "away").is_symlink()


def test_a_directory_of_the_users_is_not_replaced(place: Path) -> None:
    (place / "out").mkdir()
    for kind in (tarfile.REGTYPE, tarfile.SYMTYPE):
        assert fetched(place, info("out", kind, target="one")) == ["out: Is a directory"]


def test_a_link_made_on_the_way_is_not_followed(place: Path) -> None:
    link = info("out/a", tarfile.SYMTYPE, target="b")
    assert fetched(place, link, info("out/b", tarfile.DIRTYPE), info("out/a/file", size=1)) == [
        "out/a/file: a is there, and no directory (links are not followed)"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../away", "..", "a/../../x", "/"])
def test_links_that_lead_elsewhere(place: Path, target: str) -> None:
    assert fetched(place, info("out/link", tarfile.SYMTYPE, target=target)) == ["out/link: a link that leads elsewhere"]
    assert tree(place) == ["out"]


@pytest.mark.parametrize("target", [".ssh", "other", "."])
def test_a_top_name_is_no_link_to_what_nobody_asked_for(place: Path, target: str) -> None:
    assert fetched(place, info("one", tarfile.SYMTYPE, target=target)) == ["one: a link that leads elsewhere"]


def test_hard_links(place: Path) -> None:
    (place / "away2").symlink_to("away/secret")
    (place / "out").mkdir()
    (place / "out/link").symlink_to("../away/secret")
    assert fetched(place, info("out/a", tarfile.LNKTYPE, target="out/link"), info("out/b", tarfile.LNKTYPE, target="away/secret"),
                   info("out/c", tarfile.LNKTYPE, target="away2"), info("out/d", tarfile.LNKTYPE, target="out/none"),
                   info("out/e", size=1), info("out/e", tarfile.LNKTYPE, target="out/e")) == [
        "out/a: a link to what is no file", "out/b: away is there, and no directory (links are not followed)",
        "out/c: nobody asked for this", "out/d: No such file or directory"]
    assert tree(place) == ["away2", "out", "out/e", "out/link"]


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"Z"])
def test_nothing_but_files_directories_and_links(place: Path, kind: bytes) -> None:
    assert fetched(place, info("out/x", kind)) == ["out/x: only files, directories and links are fetched"]


def test_names_are_shown_as_text(place: Path) -> None:
    assert fetched(place, info("out\x1b[2J\n" + "y" * 300)) == [f"out?[2J?{'y' * 192}: nobody asked for this"]


@pytest.mark.error("VB804")
def test_too_much(place: Path) -> None:
    with pytest.raises(JobError, match="the files are larger than 1M, which is the most that may be fetched"):
        fetched(place, info("out/a", size=600 << 10), info("out/b", size=600 << 10), limit=1 << 20)
    assert tree(place) == ["out", "out/a"]
    with pytest.raises(JobError, match="larger than 1M"):
        fetched(place, *(info(f"out/{number}") for number in range(300)), limit=1 << 20)
    with pytest.raises(JobError, match=r"too much goes wrong; the last: no: nobody asked for this"):
        fetched(place, *(info("no") for _ in range(1100)))


def test_an_archive_that_is_cut(place: Path) -> None:
    data = made(tarfile.GNU_FORMAT, info("out/a", size=600), info("out/b", size=9000))
    with pytest.raises(FormatError, match="ends too early"):
        unpack(io.BytesIO(data[:5000]).read, str(place), ("out",), GIB)
    assert tree(place) == ["out", "out/a"]


def test_times_that_cannot_be(place: Path) -> None:
    strange = info("out/a")
    strange.mtime = (1 << 61)
    assert fetched(place, strange) == []
    assert tree(place) == ["out", "out/a"]


def test_working_directory(tmp_path: Path) -> None:
    home, run = str(tmp_path), str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    for value, expected in ((f"{run}/", run), (f"{home}/none", home), ("run", home), ("", home), ("//", "/")):
        assert working_directory({"HOME": home, "PBS_O_WORKDIR": value}) == expected
    assert working_directory({"HOME": home}) == home
    assert working_directory({"HOME": "", "SLURM_SUBMIT_DIR": run}) == run
    assert working_directory({"HOME": "", "PBS_O_WORKDIR": "none"}) == "/"


class Guest(NamedTuple):
    user: str = "alice"
    address: str = "192.0.2.1"
    alias: str = "vmbatch-1"
    port: int = 22


def around_job(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], status: int = 0, *, environ: dict[str, str],
    fails: str = "", **stage: object,
) -> tuple[int, list[str], str]:
    """(exit status, what was done, what was said); `fails` is the step that fails."""
    done: list[str] = []
    wanted = Stage(**{"send": ("a",), "fetch": ("b",), "send_limit": 1, "fetch_limit": 2, **stage})  # type: ignore[arg-type]
    (place / "stage").write_bytes(msgspec.json.encode(wanted))

    def step(name: str) -> Callable[..., None]:
        def act(session: list[str], directory: str, files: Sequence[str | tuple[str, str]], limit: int) -> None:
            names = tuple(each if isinstance(each, str) else each[1] for each in files)
            done.append(f"{name} {directory} {names} {limit} {session[-1]}")
            if name == fails:
                raise JobError("it fails")

        return act

    def run() -> int:
        done.append("run")
        return status

    monkeypatch.setattr(staging, "send", step("send"))
    monkeypatch.setattr(staging, "fetch", step("fetch"))
    return staging.around(str(place), Guest(), environ, run), done, capfd.readouterr().err


def test_around_a_job(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    here = {"PBS_O_WORKDIR": str(place), "PBS_TASKNUM": "1"}
    sent, fetched = f"send {place} ('a',) 1 192.0.2.1", f"fetch {place} ('b',) 2 192.0.2.1"
    lost = "vmbatch: not all results have come back: vbstageout: it fails [VB804]\n"
    assert around_job(place, monkeypatch, capfd, environ=here) == (0, [sent, "run", fetched], "")
    assert around_job(place, monkeypatch, capfd, 5, environ=here) == (5, [sent, "run", fetched], "")
    assert around_job(place, monkeypatch, capfd, environ=here, fails="fetch") == (74, [sent, "run", fetched], lost)
    assert around_job(place, monkeypatch, capfd, 5, environ=here, fails="fetch") == (5, [sent, "run", fetched], lost)
    assert around_job(place, monkeypatch, capfd, environ=here, fails="send") == (
        255, [sent], "vmbatch: the job does not run: vbstagein: it fails [VB804]\n")
    assert around_job(place, monkeypatch, capfd, environ=here, send=(), fetch=()) == (0, ["run"], "")


def test_around_what_needs_no_files(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Tasks of a job, and directories that the guest has."""
    here = {"PBS_O_WORKDIR": str(place)}
    for task in ({"PBS_TASKNUM": "2"}, {"SLURM_STEP_ID": "0"}):
        assert around_job(place, monkeypatch, capfd, 3, environ=here | task) == (3, ["run"], "")
    for shared in (str(place), str(place.parent)):
        assert around_job(place, monkeypatch, capfd, 3, environ=here, shared=("/x", shared)) == (
            3, ["run"], f"vmbatch: {place} is shared with the guest: no files are copied\n")
    assert around_job(place, monkeypatch, capfd, environ=here, shared=(f"{place}x",))[1][0].startswith("send")


@pytest.mark.parametrize("name", ["none", "in/none"])
def test_what_is_not_there_is_not_sent(place: Path, name: str) -> None:
    with pytest.raises(JobError, match=rf"there is no {place}/{name}$"):
        staging.send([], str(place), [(str(place / name), name)], GIB)
