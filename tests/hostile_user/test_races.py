"""By races: a process of the user's changes something without a pause while root's hooks run."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.hostile.corpus import qcow2_file
from tests.torque.pool import Worker
from tests.torque.stage import MOM_CONFIG, Stage
from vmbatch.format import FormatError
from vmbatch.image.inspect import inspect

from .scene import CONFIG, HOMES, SECRET, accept, as_user, begin, end, finish, meanwhile, own, prepare, started

pytestmark = pytest.mark.torque
HOME = Path("/home/alice")
STORE = Path("/var/lib/vmbatch/store/users/1500/content")
TIMES = 4


def replaced(name: str, target: str) -> None:
    """A link, in one step."""
    os.symlink(target, HOME / "next")
    os.rename(HOME / "next", HOME / name)


def a_link_that_changes(stage: Stage) -> None:
    """Between one's own image and a secret of root's: only the own one is ever read."""
    prepare(stage)

    def swap() -> None:
        for target in ("image.raw", "secret.raw", "/etc/shadow", "/proc/self/mem"):
            replaced("swapped.raw", target)

    answers = []
    for _ in range(TIMES):
        job = accept(stage, other=f"vbuserimage={HOME}/swapped.raw")
        with meanwhile(HOMES["alice"], swap) as turns:
            before = turns()
            answers.append(begin(stage, job))
            assert turns() > before
        finish(stage, job)
    assert set(answers) <= {"run", "abort"}
    assert {path.read_bytes() for path in STORE.iterdir()} <= {(HOME / "image.raw").read_bytes()}


def test_a_link_that_changes(nest: Worker) -> None:
    nest.play(a_link_that_changes)


def an_image_that_changes(stage: Stage) -> None:
    """Between a good header and one that names root's secret: what the store has is whole, and names nothing."""
    prepare(stage)
    headers = []
    for name, backing in (("good", b""), ("bad", b"/home/alice/secret.raw")):
        qcow2_file(HOME / name, backing=backing)
        headers.append((HOME / name).read_bytes())
    image = own(HOME / "changing.qcow2", headers[0], HOMES["alice"])

    def change() -> None:
        for header in headers:
            fd = os.open(image, os.O_WRONLY)
            os.pwrite(fd, header[:2048], 0)
            os.close(fd)

    answers = []
    for _ in range(TIMES):
        job = accept(stage, other=f"vbuserimage={image}")
        with meanwhile(HOMES["alice"], change):
            answers.append(begin(stage, job))
        finish(stage, job)
    assert set(answers) <= {"run", "abort"}
    for path in STORE.iterdir() if STORE.exists() else ():
        assert SECRET[:64] not in path.read_bytes()
        with path.open("rb") as made:
            try:
                inspect(made.fileno(), "qcow2", 1 << 40)
            except FormatError as error:
                raise AssertionError(str(error)) from None


def test_an_image_that_changes(nest: Worker) -> None:
    nest.play(an_image_that_changes)


def a_script_that_changes(stage: Stage) -> None:
    """The job's script is its user's file: written anew while root reads it, it goes back, or is whole and does not run."""
    prepare(stage)
    for _ in range(TIMES):
        job = accept(stage)

        def change(script: Path = job.script) -> None:
            fd = os.open(script, os.O_WRONLY | os.O_TRUNC)
            os.write(fd, b"#!/bin/sh\n" * 1000)
            os.close(fd)

        with meanwhile(HOMES["alice"], change):
            verdict = begin(stage, job)
            assert verdict in ("run", "requeue")
            if verdict == "run":
                assert stage.house.start_shell(job, way="starter").wait(60) == 255
            else:
                assert f"{job.script} has been replaced while the job was being started" in job.errors.decode()
        finish(stage, job)


def test_a_script_that_changes(nest: Worker) -> None:
    nest.play(a_script_that_changes)


def flood(control: Path) -> None:
    """Directories in directories, files, links: as fast as it goes."""
    here = os.open(control, os.O_RDONLY)
    for number in range(50):
        name = os.urandom(4).hex()
        os.mkdir(name, dir_fd=here)
        os.symlink("/home/alice", f"{name}.link", dir_fd=here)
        os.close(os.open(f"{name}.file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        if number % 5 == 4:
            inner = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
    os.close(here)


def a_directory_that_is_filled(stage: Stage) -> None:
    """The only one below root's that is the user's, filled while the epilogue removes it: it ends, and nothing is left."""
    prepare(stage)
    for _ in range(TIMES):
        job = accept(stage)
        assert begin(stage, job) == "run", job.errors.decode()
        with meanwhile(HOMES["alice"], partial(flood, Path(f"/run/vmbatch/handover/{job.file_id}/control"))):
            end(stage, job)
        assert stage.node.left() == []
    assert (HOME / "image.raw").exists()


def test_a_directory_that_is_filled(nest: Worker) -> None:
    nest.play(a_directory_that_is_filled)


def deep(control: Path) -> list[str]:
    """Deeper than a path, a process's descriptors, or Python's stack reach."""
    here = os.open(control, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.fchmod(here, 0)
    return []


def a_directory_without_an_end(stage: Stage) -> None:
    """It holds up neither the job's release nor, by the sweep, any later prologue."""
    prepare(stage)
    with started(stage) as job:
        assert as_user(HOMES["alice"], lambda: deep(Path(f"/run/vmbatch/handover/{job.file_id}/control"))) == []
    with started(stage):
        pass


def test_a_directory_without_an_end(nest: Worker) -> None:
    nest.play(a_directory_without_an_end)


def traps(control: Path, kind: str) -> list[str]:
    """In the place of the directory's content, or of the directory itself."""
    if kind == "links":
        for number, target in enumerate(("/", "/home/alice", "..", ".", "/etc/shadow", "nowhere")):
            os.symlink(target, control / str(number))
    elif kind == "special files":
        os.mkfifo(control / "fifo")
        os.mknod(control / "socket", 0o140600)
    elif kind == "names":
        for name in ("-rf", " ", "\n", "é", "\x1b[2J", ".vmbatch", "x" * 255):
            (control / name).mkdir()
    elif kind == "closed":
        (control / "a/b").mkdir(parents=True)
        (control / "a/b").chmod(0)
        (control / "a").chmod(0)
        control.chmod(0)
    elif kind == "hard links":
        os.link(control.parent / "id_ed25519", control / "key")
    return []


def what_lies_in_the_users_directory(stage: Stage, kind: str) -> None:
    """It is removed as what it is, and nothing that it leads to."""
    prepare(stage)
    with started(stage) as job:
        failed = as_user(HOMES["alice"], lambda: traps(Path(f"/run/vmbatch/handover/{job.file_id}/control"), kind))
        assert failed == []
    assert (HOME / "image.raw").read_bytes() == b"raw!" * 4096


@pytest.mark.parametrize("kind", ["links", "special files", "names", "closed", "hard links"])
def test_what_lies_in_the_users_directory(nest: Worker, kind: str) -> None:
    nest.play(what_lies_in_the_users_directory, kind=kind)


def known_names(job_id: str) -> list[str]:
    """Those that can be guessed, for they have no token."""
    return [f"/run/vmbatch/handover/{job_id}/{name}" for name in ("id_ed25519", "record", "stage", "control/x", ".vmbatch")] + [
        f"/var/lib/vmbatch/jobs/{job_id}.journal", f"/run/vmbatch/ended/{job_id}", f"/var/log/vmbatch/{job_id}.log"]


def files_in_the_moment_they_are_made(stage: Stage) -> None:
    """Another user opens, or makes, every name that can be guessed, as often as it goes: never with success."""
    prepare(stage)
    success = Path("/run/fakeguest/success")
    for _ in range(TIMES):
        job = accept(stage)

        def spy(name: str = job.file_id) -> None:
            for path in known_names(name):
                for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT):
                    try:
                        os.close(os.open(path, flags | os.O_NONBLOCK, 0o666))
                    except OSError:
                        continue
                    success.write_text(path)
            os.symlink("/home/bob", f"/run/vmbatch/handover/{name}")
            success.write_text("a link")

        with meanwhile(HOMES["bob"], spy) as turns:
            before = turns()
            assert begin(stage, job) == "run", job.errors.decode()
            assert turns() > before
        finish(stage, job)
    assert not success.exists(), success.read_text()


def test_files_in_the_moment_they_are_made(nest: Worker) -> None:
    nest.play(files_in_the_moment_they_are_made)


def processes_that_are_killed(stage: Stage, number: int) -> None:
    """Those that root runs with the user's rights, such as the login's proof, are the user's to kill: his job pays for it."""
    prepare(stage)
    (stage.hooks / "config").write_text(MOM_CONFIG.replace("300", "24"))
    Path("/etc/vmbatch/vmbatch.conf").write_text(f'{CONFIG}[timeouts]\nmargin = "10s"\n')
    for wish in ("", f"vbuserimage={HOME}/image.raw"):
        job = accept(stage, other=wish)
        with meanwhile(HOMES["alice"], partial(os.kill, -1, number)):
            assert begin(stage, job) in ("run", "abort", "requeue")
        finish(stage, job)
    prepare(stage)
    (stage.hooks / "config").write_text(MOM_CONFIG)
    with started(stage):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_processes_that_are_killed(nest: Worker, number: int) -> None:
    nest.play(processes_that_are_killed, number=int(number))
