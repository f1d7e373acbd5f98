"""What an installation puts into files of the site's, and takes out of them: bytes to bytes."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmbatch.errors import SiteError
from vmbatch.installation import block, course, hookfile, slurm, torque
from vmbatch.installation.made import MadeBlock, MadeDirectory, MadeFile, MadeHook, MadeLink
from vmbatch.installation.record import Chosen, Record
from vmbatch.installation.step import Block, Directory, File, Hook, Link, Step

HOOKS = "/opt/vmbatch/hooks"
STARTER = f"$job_starter {HOOKS}/remoteshell"
OURS = b"#!/opt/vmbatch/bin/python3 -I\n\"\"\"VmBatch's.\"\"\"\nfrom vmbatch.hooks import prologue\n"
KEPT = ("st_ino", "st_mode", "st_uid", "st_gid", "st_nlink", "st_size", "st_mtime_ns")
EMPTY = Record("/opt/vmbatch", Chosen())


def settle(*steps: Step, record: Record = EMPTY) -> Record:
    """Does all that the steps want, records it, and sees that nothing more is to be done."""
    for step in steps:
        for act in step.look(record):
            if act.entry is not None:
                record = record.with_(act.entry)
            act.work()
    assert [act.text for step in steps for act in step.look(record)] == []
    return record


def undo(record: Record) -> list[str]:
    """Takes all away, twice, as after a crash; what was left."""
    for entry in record.made:
        entry.foresee()
    left = [entry.undo() for entry in reversed(record.made)]
    assert [entry.undo() for entry in reversed(record.made)] == left
    return [line for line in left if line]


lines = st.lists(st.sampled_from([b"$prologalarm 100", b"a", b"", b"  # b", b"$usecp *:/home /home", b"\xff\r"]), max_size=6)
aside = st.sampled_from([(), (b"$prologalarm 100",), (b"a", b"  # b")])


@given(lines, st.booleans(), aside)
@example([], False, ())
@example([b"a"], True, (b"a",))
def test_what_is_taken_out_leaves_what_was_there(text: list[bytes], ended: bool, aside: tuple[bytes, ...]) -> None:
    before = b"\n".join(text) + (b"\n" if ended and text else b"")
    after = block.put(before, b"$ours 1\n", aside)
    parts = block.split(after, "config")
    assert parts.lines == b"$ours 1\n"
    assert not set(block.rest(parts).splitlines()) & set(aside)
    assert block.without(parts) == before
    assert block.without(block.split(block.changed(parts, b"$ours 2\n$ours 3\n"), "config")) == before


def test_what_the_site_wrote_behind_the_lines_stays() -> None:
    text = block.put(b"$usecp a b", b"$ours 1\n", ()) + b"$loglevel 3\n"
    assert block.without(block.split(text, "config")) == b"$usecp a b\n$loglevel 3\n"


@pytest.mark.parametrize("text", [block.BEGIN, block.END, block.END + block.BEGIN, 2 * (block.BEGIN + block.END),
                                  block.BEGIN + block.JOINED + block.END])
@pytest.mark.error("VB918")
def test_damaged_marks(text: bytes) -> None:
    with pytest.raises(SiteError, match="marks around VmBatch's lines are damaged"):
        block.split(text, "config")


@pytest.mark.parametrize(("text", "expected", "aside"), [
    (b"", (STARTER, "$prologalarm 300"), ()),
    (b"$usecp *:/home /home\n", (STARTER, "$prologalarm 300"), ()),
    (b"$prologalarm 300\n", (STARTER,), ()),
    (b"$prologalarm 900 # slow\n", (STARTER,), ()),
    (b"$prologalarm 60\n", (STARTER, "$prologalarm 300"), ("$prologalarm 60",)),
    (b"#$prologalarm 60\n", (STARTER, "$prologalarm 300"), ()),
    (b"$prologalarm 900\n  $prologalarm 60 # no", (STARTER, "$prologalarm 300"), ("$prologalarm 900", "  $prologalarm 60 # no")),
    (STARTER.encode() + b" # ours\n", ("$prologalarm 300",), ()),
])
def test_moms_settings(text: bytes, expected: tuple[str, ...], aside: tuple[str, ...]) -> None:
    found = torque.settings(text, "config", HOOKS, health=False)
    assert (found.lines, found.aside) == (expected, aside)
    assert found.needed == tuple(line for line in expected if line == STARTER)


def test_moms_settings_with_health() -> None:
    found = torque.settings(b"$node_check_interval 4\n", "config", HOOKS, health=True)
    assert found.lines == (STARTER, "$prologalarm 300", f"$node_check_script {HOOKS}/health", "$down_on_error true")
    assert found.needed == (STARTER, f"$node_check_script {HOOKS}/health")


@pytest.mark.parametrize(("text", "words"), [
    (b"$job_starter /site/starter\n", "the site's own: \\$job_starter /site/starter"),
    (b"$job_starter_run_privileged true\n", "gives users root's rights"),
    (b"$node_check_script /site/health\n", "the site's own: \\$node_check_script /site/health"),
])
def test_moms_settings_that_contradict(text: bytes, words: str) -> None:
    with pytest.raises(SiteError, match=words):
        torque.settings(text, "config", HOOKS, health=True)


def test_slurms_settings() -> None:
    wanted = {"Prolog": "/h/p", "PrologFlags": "Alloc", "GetEnvTimeout": "0", "JobSubmitPlugins": "lua"}
    assert slurm.missing("", wanted) == ["Prolog=/h/p", "PrologFlags=Alloc", "GetEnvTimeout=0", "JobSubmitPlugins=lua"]
    text = "prolog = /h/p # ours\n#GetEnvTimeout=0\nPrologFlags=Contain,alloc\nJobSubmitPlugins=all\n"
    assert slurm.missing(text, wanted) == ["GetEnvTimeout=0", "JobSubmitPlugins=lua"]


@pytest.mark.parametrize(("found", "enough"), [("299", False), ("300", True), ("975", True), ("no", False)])
def test_slurms_seconds(found: str, enough: bool) -> None:
    wanted = {"BatchStartTimeout": "300", "GetEnvTimeout": "0"}
    lacking = [] if enough else ["BatchStartTimeout=300"]
    assert slurm.missing(f"BatchStartTimeout={found}\nGetEnvTimeout=0\n", wanted) == lacking
    assert slurm.missing(f"BatchStartTimeout={found}\nGetEnvTimeout=2\n", wanted) == [*lacking, "GetEnvTimeout=0"]


def test_a_hook_takes_the_place_of_the_sites_and_gives_it_back(tmp_path: Path) -> None:
    site, hook = tmp_path / "prologue.site", tmp_path / "prologue"
    hook.write_bytes(b"#!/bin/sh\n")
    hook.chmod(0o750)
    before = hook.stat()
    record = settle(Hook(str(hook), OURS))
    assert (hook.read_bytes(), hook.stat().st_mode & 0o7777, hook.stat().st_uid) == (OURS, 0o755, 0)
    assert site.read_bytes() == b"#!/bin/sh\n"
    assert undo(record) == []
    after = hook.stat()
    assert [getattr(after, name) for name in KEPT] == [getattr(before, name) for name in KEPT]
    assert not site.exists()


def test_a_hook_of_a_new_version(tmp_path: Path) -> None:
    hook = tmp_path / "prologue"
    record = settle(Hook(str(hook), OURS))
    newer = settle(Hook(str(hook), OURS + b"# new\n"), record=record)
    assert hook.read_bytes().endswith(b"# new\n")
    assert len(newer.made) == 1
    assert undo(newer) == []
    assert list(tmp_path.iterdir()) == []


def test_a_hook_put_there_by_hand_is_taken_on(tmp_path: Path) -> None:
    hook = tmp_path / "prologue"
    hook.write_bytes(OURS)
    record = settle(Hook(str(hook), OURS + b"# new\n"))
    assert undo(record) == []
    assert list(tmp_path.iterdir()) == []


def test_which_files_are_hooks_of_ours() -> None:
    scripts = [path for path in (Path(__file__).parents[2] / "scripts").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(scripts) > 10
    assert [path for path in scripts if not hookfile.is_ours(path.read_bytes())] == []
    assert hookfile.is_ours(b"\x7fELF\0made by vmbatch from " + b"0" * 64)
    assert not hookfile.is_ours(b"#!/bin/sh\n# runs vmbatch hooks, from vmbatch.hooks import\nvmbatch sweep\n")


def test_a_file_put_there_by_hand_is_taken_on(tmp_path: Path) -> None:
    path = tmp_path / "openpbs"
    path.write_bytes(OURS)
    record = settle(File(str(path), OURS + b"# new\n", 0o755))
    assert undo(record) == []
    assert list(tmp_path.iterdir()) == []


def test_two_hooks_of_the_sites(tmp_path: Path) -> None:
    for name in ("prologue", "prologue.site"):
        (tmp_path / name).write_bytes(b"#!/bin/sh\n")
    with pytest.raises(SiteError, match="make one script of the two"):
        try:
            Hook(str(tmp_path / "prologue"), OURS).look(EMPTY)
        except SiteError as error:
            raise SiteError("; ".join(error.lines())) from None


def test_a_hook_of_the_sites_that_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "prologue").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "prologue").chmod(0o644)
    with pytest.raises(SiteError, match="cannot be executed"):
        Hook(str(tmp_path / "prologue"), OURS).look(EMPTY)


@pytest.mark.parametrize("spoil", ["link", "dangling", "writable", "owner"])
@pytest.mark.parametrize("kind", [lambda path: Hook(path, OURS), lambda path: File(path, OURS), lambda path: Block(path, ("a",))])
def test_what_others_can_change_is_not_touched(tmp_path: Path, spoil: str, kind: type[Step]) -> None:
    path, elsewhere = tmp_path / "prologue", tmp_path / "elsewhere"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o755)
    if spoil in ("link", "dangling"):
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        if spoil == "dangling":
            elsewhere.unlink()
    elif spoil == "writable":
        path.chmod(0o775)
    else:
        os.chown(path, 1500, 0)
    with pytest.raises(SiteError, match=r"symbolic link|can be changed by others|belongs to uid"):
        kind(str(path)).look(EMPTY)


def test_a_file_that_was_edited_is_not_removed(tmp_path: Path) -> None:
    program, setting = tmp_path / "program", tmp_path / "setting"
    record = settle(File(str(program), b"1\n", 0o755), File(str(setting), b"1\n", editable=True))
    for path in (program, setting):
        path.write_bytes(b"2\n")
    program_made, setting_made = record.made
    with pytest.raises(SiteError, match="not as vmbatch install wrote it"):
        program_made.foresee()
    assert "which was edited" in setting_made.foresee()
    assert len(undo(record.less(str(program)))) == 1
    assert setting.read_bytes() == b"2\n"
    with pytest.raises(SiteError, match="not as vmbatch install wrote it"):
        File(str(program), b"3\n", 0o755).look(record)
    assert File(str(setting), b"3\n", editable=True).look(record) == []



def test_a_file_with_another_mode_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "program"
    record = settle(File(str(path), b"1\n", 0o755))
    path.chmod(0o700)
    settle(File(str(path), b"1\n", 0o755), record=record)
    assert path.stat().st_mode & 0o7777 == 0o755


def test_anothers_file_is_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(b"other\n")
    with pytest.raises(SiteError, match="not VmBatch's"):
        File(str(path), b"1\n", 0o755).look(EMPTY)
    assert File(str(path), b"1\n", editable=True).look(EMPTY) == []


def test_a_configuration_keeps_mode_and_group(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"$prologalarm 60\n$usecp a b")
    path.chmod(0o640)
    os.chown(path, 0, 4)
    record = settle(Block(str(path), (STARTER, "$prologalarm 300"), (STARTER,), ("$prologalarm 60",)))
    assert b"$prologalarm 60" not in path.read_bytes().splitlines()
    status = path.stat()
    assert (status.st_mode & 0o7777, status.st_gid) == (0o640, 4)
    assert undo(record) == []
    assert path.read_bytes() == b"$prologalarm 60\n$usecp a b"
    assert (path.stat().st_mode & 0o7777, path.stat().st_gid) == (0o640, 4)


def test_a_configuration_that_was_not_there(tmp_path: Path) -> None:
    record = settle(Block(str(tmp_path / "config"), (STARTER,)))
    assert undo(record) == []
    assert list(tmp_path.iterdir()) == []


def test_an_edited_block(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"$usecp a b\n")
    step = Block(str(path), (STARTER, "$prologalarm 300"), (STARTER,))
    record = settle(step)
    path.write_bytes(path.read_bytes().replace(b"$prologalarm 300", b"$prologalarm 900"))
    assert step.look(record) == []
    (made,) = record.made
    assert isinstance(made, MadeBlock)
    assert "which were edited" in made.foresee()
    assert "$prologalarm 900" in made.foresee()
    path.write_bytes(path.read_bytes().replace(STARTER.encode(), b"# " + STARTER.encode()))
    with pytest.raises(SiteError, match="edited, and lack"):
        step.look(record)
    undo(record)
    assert path.read_bytes() == b"$usecp a b\n"


def test_a_block_of_a_new_version(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"$usecp a b")
    record = settle(Block(str(path), (STARTER,)))
    record = settle(Block(str(path), (STARTER, "$down_on_error true")), record=record)
    assert b"$down_on_error true\n" in path.read_bytes()
    undo(record)
    assert path.read_bytes() == b"$usecp a b"


def test_directories_and_links(tmp_path: Path) -> None:
    place, link = tmp_path / "a", tmp_path / "link"
    record = settle(Directory(str(place)), Directory(str(place / "b"), 0o711), Link(str(link), "a/b"))
    assert (place / "b").stat().st_mode & 0o7777 == 0o711
    assert {type(entry) for entry in record.made} == {MadeDirectory, MadeLink}
    (place / "b/jobs").mkdir()
    assert len(undo(record)) == 2, "the two directories that are not empty"
    (place / "b/jobs").rmdir()
    assert undo(record) == []
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_is_not_recorded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "file").write_bytes(b"1\n")
    (tmp_path / "link").symlink_to("elsewhere")
    record = settle(Directory(str(tmp_path / "a")), File(str(tmp_path / "file"), b"1\n"), Link(str(tmp_path / "link"), "a"))
    assert record.made == ()


def test_a_crash_between_record_and_act(tmp_path: Path) -> None:
    """What was promised and not done is no reason for uninstall to take away what is there."""
    hook = tmp_path / "prologue"
    hook.write_bytes(b"#!/bin/sh\n")
    hook.chmod(0o755)
    (act,) = Hook(str(hook), OURS).look(EMPTY)
    assert isinstance(act.entry, MadeHook)
    promised = EMPTY.with_(act.entry)
    assert undo(promised) == []
    os.link(hook, tmp_path / "prologue.site")
    assert undo(promised) == []
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"#!/bin/sh\n"]
    os.link(hook, tmp_path / "prologue.site")
    record = settle(Hook(str(hook), OURS), record=promised)
    assert hook.read_bytes() == OURS
    assert undo(record) == []
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"#!/bin/sh\n"]
    record = settle(File(str(tmp_path / "program"), b"1\n"))
    (act,) = File(str(tmp_path / "program"), b"2\n").look(record)
    assert isinstance(act.entry, MadeFile)
    assert undo(record.with_(act.entry)) == []
    assert not (tmp_path / "program").exists()


def test_what_is_chosen() -> None:
    assert Chosen(torque=("/a", "/b"), health=True).covers(Chosen(torque=("/b",)))
    assert not Chosen(torque=("/a",)).covers(Chosen(torque=("/a",), health=True))
    assert not Chosen(slurm=("/a",)).covers(Chosen(torque=("/a",)))


def test_the_plan_in_few_lines() -> None:
    lines = ["make     /a/", "write    /a/b", "write    /a/c", "update   /a/d",
             "add to   /a/e:\n             line", "write    /f/g"]
    assert course.folded(lines) == ["make     /a/", "write    /a/ b c", "update   /a/d", lines[4], "write    /f/g"]
    many = course.folded([f"write    /opt/vmbatch/hooks/hook-number-{number}" for number in range(9)])
    assert all(len(line) <= 100 for line in many[0].splitlines())
    assert many[0].split()[2:] == [f"hook-number-{number}" for number in range(9)]
