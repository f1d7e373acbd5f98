"""`vmbatch install` and `vmbatch uninstall` on a node with a Torque of the site's own."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import place
from lab.mom import Mom

from .conftest import COMMAND, HOOKS, PROGRAM, RECORD, Vmbatch, state

ALICE = ("setpriv", "--reuid=1500", "--regid=1500", "--clear-groups")


def mom_priv(home: Path) -> Path:
    return home / "mom_priv"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """What a pbs_mom does as long as she works."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as mom:
        assert mom.stdout is not None
        mom.stdout.readline()
        yield
        mom.communicate(b"")


def test_installed_again_and_taken_off(vmbatch: Vmbatch, home: Path) -> None:
    """Shown, done, done again, taken off: the node is as before, to the byte."""
    words = ("install", "--torque", "--mom-priv", mom_priv(home))
    before = state(home)
    shown = vmbatch(*words, "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert state(home) == before

    done = vmbatch(*words, "--yes")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith(shown.stdout), "what is done is what was shown"
    assert "restart the pbs_mom" in done.stdout
    for name in ("prologue", "epilogue", "prologue.parallel", "epilogue.parallel"):
        status = (mom_priv(home) / name).lstat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, 0, 0)
        assert (mom_priv(home) / name).read_bytes().startswith(f"#!{place.ENVIRONMENT}/bin/python3 -I\n".encode())
    assert "echo prologue" in (mom_priv(home) / "prologue.site").read_text()
    assert "echo epilogue.parallel" in (mom_priv(home) / "epilogue.parallel.site").read_text()
    config = (mom_priv(home) / "config").read_text().splitlines()
    assert [line for line in config if line.startswith("$")] == [
        "$usecp *:/home /home", "$loglevel 3", f"$job_starter {HOOKS}/remoteshell", "$prologalarm 300"]
    assert os.readlink("/usr/local/bin/vmbatch") == str(PROGRAM)
    assert f"ExecStart={PROGRAM} sweep" in Path("/etc/systemd/system/vmbatch-sweep.service").read_text()
    assert Path("/etc/systemd/system/timers.target.wants/vmbatch-sweep.timer").is_symlink()
    assert (RECORD.stat().st_mode & 0o7777, RECORD.parent.stat().st_mode & 0o7777) == (0o600, 0o700)

    after = state(home)
    for again in (vmbatch(*words, "--yes"), vmbatch("install", "--yes"), vmbatch("install", "--dry-run")):
        assert (again.returncode, again.stdout.splitlines()[0]) == (0, "nothing to do")
    assert {path: now for path, now in state(home).items() if path != str(RECORD)} == {
        path: then for path, then in after.items() if path != str(RECORD)}

    shown = vmbatch("uninstall", "--dry-run")
    assert shown.returncode == 0
    assert {path: now for path, now in state(home).items() if path != str(RECORD)} == {
        path: then for path, then in after.items() if path != str(RECORD)}
    gone = vmbatch("uninstall", "--yes")
    assert (gone.returncode, gone.stderr) == (0, "")
    assert gone.stdout == f"{shown.stdout}VmBatch is off this node\n"
    assert state(home) == before
    assert "is not installed on this node" in vmbatch("uninstall", "--yes").stderr


def test_a_job_runs_in_its_guest_by_an_installation(vmbatch: Vmbatch, home: Path) -> None:
    assert vmbatch("install", "--torque", "--mom-priv", mom_priv(home), "--yes").returncode == 0
    mom = Mom(home)
    job = mom.accept(b"#!/bin/sh\nuname -n\nid -un\nexit 7\n")
    try:
        assert mom.alarm == 290
        assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors
        assert mom.start_shell(job, way="starter", program=str(HOOKS / "remoteshell")).wait() == 7, job.errors
        refused = vmbatch("uninstall", "--yes")
        assert refused.returncode == 1
        assert f"jobs still own something on this node: {job.file_id}.journal" in refused.stderr
    finally:
        assert mom.start_epilogue(job).wait() == 0
    assert job.output.decode().split() == [f"vm-{job.id.partition('.')[0]}", "alice"]
    assert (home / "ran").read_text() == "prologue\n", "the site's own hook"
    mom.forget(job)
    tables = "remove   the tables vmbatch of nftables, which all guests' network filters share\n"
    assert tables in vmbatch("uninstall", "--dry-run").stdout
    gone = vmbatch("uninstall", "--yes")
    assert (gone.returncode, tables in gone.stdout) == (0, True)
    assert "vmbatch" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


def test_not_under_a_mom_at_work(vmbatch: Vmbatch, home: Path) -> None:
    (mom_priv(home) / "mom.lock").write_text("")
    with locked(mom_priv(home) / "mom.lock"):
        assert vmbatch("install", "--torque", "--mom-priv", mom_priv(home), "--yes").returncode == 0
        installed = state(home)
        refused = vmbatch("uninstall", "--yes")
        assert refused.returncode == 1
        assert f"the pbs_mom of {mom_priv(home)} is at work" in refused.stderr
        assert "drain the node, and stop her" in refused.stderr
        assert state(home) == installed
    assert vmbatch("uninstall", "--yes").returncode == 0


def _link_directory(home: Path) -> Path:
    link = home / "link"
    link.symlink_to(mom_priv(home))
    return link


def _link_hook(home: Path) -> Path:
    (mom_priv(home) / "prologue").rename(home / "elsewhere")
    (mom_priv(home) / "prologue").symlink_to(home / "elsewhere")
    return mom_priv(home)


def _link_config(home: Path) -> Path:
    (mom_priv(home) / "config").rename(home / "elsewhere")
    (mom_priv(home) / "config").symlink_to("/etc/shadow")
    return mom_priv(home)


def _writable_hook(home: Path) -> Path:
    (mom_priv(home) / "prologue").chmod(0o775)
    return mom_priv(home)


def _writable_directory(home: Path) -> Path:
    mom_priv(home).chmod(0o777)
    return mom_priv(home)


def _anothers_directory(home: Path) -> Path:
    os.chown(mom_priv(home), 1500, 1500)
    return mom_priv(home)


def _anothers_config(home: Path) -> Path:
    os.chown(mom_priv(home) / "config", 1500, 1500)
    return mom_priv(home)


def _starter(home: Path) -> Path:
    with open(mom_priv(home) / "config", "a") as config:
        config.write("\n$job_starter /site/starter\n")
    return mom_priv(home)


def _privileged(home: Path) -> Path:
    with open(mom_priv(home) / "config", "a") as config:
        config.write("\n$job_starter_run_privileged true\n")
    return mom_priv(home)


def _two_hooks(home: Path) -> Path:
    (mom_priv(home) / "prologue.site").write_text("#!/bin/sh\n")
    return mom_priv(home)


def _damaged_marks(home: Path) -> Path:
    with open(mom_priv(home) / "config", "a") as config:
        config.write("\n# --- end of VmBatch ---\n")
    return mom_priv(home)


def _nothing_there(home: Path) -> Path:
    return home / "nowhere"


@pytest.mark.parametrize(("spoil", "words"), [
    (_link_directory, "is a symbolic link"), (_link_hook, "is a symbolic link"), (_link_config, "is a symbolic link"),
    (_writable_hook, "can be changed by others than root"), (_writable_directory, "can be changed by others than root"),
    (_anothers_directory, "belongs to uid 1500"), (_anothers_config, "belongs to uid 1500"),
    (_starter, "the site's own: $job_starter /site/starter"), (_privileged, "gives users root's rights"),
    (_two_hooks, "make one script of the two"), (_damaged_marks, "marks around VmBatch's lines are damaged"),
    (_nothing_there, "name the mom_priv of your pbs_mom with --mom-priv"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_what_stands_in_the_way(vmbatch: Vmbatch, home: Path, spoil: object, words: str) -> None:
    """Is said, with what to do, and nothing is changed."""
    assert callable(spoil)
    directory = spoil(home)
    before = state(home)
    for more in ("--dry-run", "--yes"):
        refused = vmbatch("install", "--torque", "--mom-priv", directory, more)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    assert state(home) == before


def test_an_edited_block_and_an_edited_configuration(vmbatch: Vmbatch, home: Path) -> None:
    assert vmbatch("install", "--torque", "--mom-priv", mom_priv(home), "--yes").returncode == 0
    before = (mom_priv(home) / "config").read_text()
    (mom_priv(home) / "config").write_text(before.replace("$prologalarm 300", "$prologalarm 900"))
    again = vmbatch("install", "--yes")
    assert again.stdout.startswith("nothing to do\n")
    shown = vmbatch("uninstall", "--dry-run").stdout
    assert "which were edited:" in shown
    assert "$prologalarm 900\n" in shown
    assert "and put back: $prologalarm 100 # quick" in shown
    assert vmbatch("uninstall", "--yes").returncode == 0
    assert (mom_priv(home) / "config").read_text() == "$usecp *:/home /home\n$prologalarm 100 # quick\n$loglevel 3"


def test_an_edited_hook_stays(vmbatch: Vmbatch, home: Path) -> None:
    assert vmbatch("install", "--torque", "--mom-priv", mom_priv(home), "--yes").returncode == 0
    hook = mom_priv(home) / "prologue"
    ours = hook.read_bytes()
    hook.write_bytes(ours + b"# mine\n")
    installed = state(home)
    refused = vmbatch("uninstall", "--yes")
    assert (refused.returncode, state(home)) == (1, installed)
    assert f"{hook} is not as vmbatch install wrote it" in refused.stderr
    hook.write_bytes(ours)
    assert vmbatch("uninstall", "--yes").returncode == 0


def test_a_batch_system_that_is_gone(vmbatch: Vmbatch, home: Path) -> None:
    before = state()
    assert vmbatch("install", "--torque", "--mom-priv", mom_priv(home), "--yes").returncode == 0
    shutil.rmtree(mom_priv(home))
    done = vmbatch("uninstall", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert state() == before


def test_notes(vmbatch: Vmbatch, home: Path) -> None:
    """Of what users can choose with `qsub -T`, and of what is left out where others than root can write."""
    (mom_priv(home) / "prologue.user").write_text("#!/bin/sh\n")
    place = Path("/usr/local/bin")
    mode = place.stat().st_mode & 0o7777
    place.chmod(0o2775)
    try:
        done = vmbatch("install", "--torque", "--mom-priv", mom_priv(home), "--yes")
    finally:
        place.chmod(mode)
    assert done.returncode == 0
    notes = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert [note for note in notes if f"{mom_priv(home)}/prologue.user run as root" in note]
    assert [note for note in notes if "/usr/local/bin/vmbatch and completion for shells are left out" in note]
    assert not Path("/usr/local/bin/vmbatch").is_symlink()


def test_more_and_less(vmbatch: Vmbatch, home: Path) -> None:
    """What is asked for later comes to it; what was asked for is not lost by leaving it out."""
    words = ("install", "--torque", "--mom-priv", mom_priv(home), "--yes")
    before = state(home)
    assert vmbatch(*words).returncode == 0
    assert vmbatch(*words, "--health").returncode == 0
    assert f"$node_check_script {HOOKS}/health\n" in (mom_priv(home) / "config").read_text()
    refused = vmbatch(*words)
    assert refused.returncode == 1
    assert f"for more than that: --torque ({mom_priv(home)}) --health" in refused.stderr
    assert vmbatch("uninstall", "--yes").returncode == 0
    assert state(home) == before


def test_who_may_and_who_is_asked(vmbatch: Vmbatch, home: Path) -> None:
    before = state(home)
    words = ("install", "--torque", "--mom-priv", mom_priv(home))
    assert "only root can do that" in vmbatch(*words, before=ALICE).stderr
    assert "nobody is there to be asked" in vmbatch(*words).stderr
    assert "give --torque, --openpbs or --slurm" in vmbatch("install", "--yes").stderr
    assert vmbatch("install", "--openpbs", "--health").returncode == 2
    with open("/run/vmbatch-install.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is at work" in vmbatch(*words, "--yes").stderr
    asked = subprocess.run(["script", "-qec", " ".join(map(str, (*COMMAND, *words))), "/dev/null"], input="n\n", text=True,
                           capture_output=True, check=False)
    assert "Go on? [y/N]" in asked.stdout
    assert asked.returncode == 1
    assert state(home) == before


@pytest.mark.parametrize("count", range(1, 40, 5))
def test_killed_at_any_point(vmbatch: Vmbatch, home: Path, count: int) -> None:
    """Both ways go on from there: forwards to the whole, and back to the byte."""
    words = ("install", "--torque", "--mom-priv", mom_priv(home), "--yes")
    killed = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=rename", "-e", f"inject=rename:signal=KILL:when={count}")
    before = state(home)
    assert vmbatch(*words, before=killed).returncode != 0
    assert vmbatch(*words).returncode == 0
    assert vmbatch("install", "--yes").stdout.startswith("nothing to do\n")
    vmbatch("uninstall", "--yes", before=killed)
    if RECORD.exists():
        assert vmbatch("uninstall", "--yes").returncode == 0
    assert state(home) == before


def test_an_environment_that_users_cannot_reach(vmbatch: Vmbatch, home: Path) -> None:
    """Jobs' shells would not start: as for a clone in root's home."""
    closed = Path("/srv/closed")
    closed.mkdir(mode=0o700)
    try:
        (closed / "venv").symlink_to(place.ENVIRONMENT)
        python, option, program = (word.replace(str(place.ENVIRONMENT), f"{closed}/venv") for word in COMMAND)
        refused = subprocess.run([python, option, program, "install", "--torque", "--mom-priv", mom_priv(home), "--yes"],
                                 capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(closed)
    assert refused.returncode == 1
    assert f"users cannot reach {closed}/venv: {closed} is closed to them" in refused.stderr
    assert "umask 022" in refused.stderr


def test_another_vmbatch_is_installed(vmbatch: Vmbatch, home: Path) -> None:
    words = ("install", "--torque", "--mom-priv", mom_priv(home), "--yes")
    assert vmbatch(*words).returncode == 0
    record = RECORD.read_text()
    RECORD.write_text(record.replace(f'"prefix": "{place.ENVIRONMENT}"', '"prefix": "/opt/other"'))
    refused = vmbatch(*words)
    assert refused.returncode == 1
    assert "the VmBatch in /opt/other is installed on this node" in refused.stderr
    RECORD.write_text("{}")
    assert "record.json cannot be read" in vmbatch("uninstall", "--yes").stderr
    RECORD.write_text(record)


def test_hooks_for_another_place(vmbatch: Vmbatch, tmp_path: Path) -> None:
    assert vmbatch("hooks", "--prefix", "/opt/elsewhere", tmp_path).returncode == 0
    assert (tmp_path / "prologue").read_bytes().startswith(b"#!/opt/elsewhere/bin/python3 -I\n")
    program = (tmp_path / "remoteshell").read_bytes()
    assert b"/opt/elsewhere/bin/python3\0" in program
    assert str(place.ENVIRONMENT).encode() not in program


def test_words_are_completed(vmbatch: Vmbatch, tmp_path: Path) -> None:
    """As bash asks for it by the text that is installed."""
    text = vmbatch("completion", "bash").stdout
    assert vmbatch("completion", "zsh").stdout.startswith("#compdef vmbatch\n")
    assert "complete --no-files --command vmbatch" in vmbatch("completion", "fish").stdout
    (tmp_path / "vmbatch").write_text(f"#!/bin/sh\nexec {' '.join(COMMAND)} \"$@\"\n")
    (tmp_path / "vmbatch").chmod(0o755)
    script = f"{text}\nCOMP_WORDS=(vmbatch uni); COMP_CWORD=1; _vmbatch_completion vmbatch; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True,
                          env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert done.stdout == "uninstall\n"
