"""By paths: what a user, or another one, can do with all that root makes while a job runs."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import place
from tests.torque.pool import Worker
from tests.torque.stage import Stage
from vmbatch.host import acl

from .scene import FOOTPRINT, HOMES, as_user, nothing_left, own, prepare, started

pytestmark = pytest.mark.torque
ROOTS = ("/var/lib/vmbatch", "/run/vmbatch", "/var/log/vmbatch", "/etc/vmbatch", str(place.SHARE))
PUBLIC = {"/etc/vmbatch", "/etc/vmbatch/vmbatch.conf", "/etc/vmbatch/domains", "/etc/vmbatch/domains/crash.xml",
          "/etc/vmbatch/domains/disk.xml", "/etc/vmbatch/domains/export.xml", "/etc/vmbatch/domains/pool.xml",
          "/etc/vmbatch/domains/site.tar", "/etc/vmbatch/small.raw", "/etc/vmbatch/own.raw", "/etc/vmbatch/root.raw"}
"""What the site has for everybody to read."""
WHO = {"bob": (1501, 1501), "another": (4242, 4242), "one of alice's group": (1777, 1500)}


def everything() -> list[str]:
    """All that there is below the places of VmBatch's, as root sees it."""
    found = []
    for root in ROOTS:
        for parent, directories, files in os.walk(root):
            found += [parent, *(os.path.join(parent, name) for name in (*directories, *files))]
    return sorted(set(found))


def attempts(paths: list[str]) -> list[str]:
    """`ACT PATH` of everything that succeeded."""
    acts: dict[str, Callable[[str], object]] = {
        "list": os.listdir,
        "read": lambda path: os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 1),
        "write": lambda path: os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND),
        "make": lambda path: os.close(os.open(f"{path}/intruder", os.O_CREAT | os.O_WRONLY)),
        "link": lambda path: os.symlink("/etc/shadow", f"{path}/intruding-link"),
        "rename": lambda path: os.rename(path, f"{path}.away"),
        "change": lambda path: os.chmod(path, 0o700),
        "own": lambda path: os.chown(path, os.getuid(), -1),
        "remove": os.unlink,
        "remove directory": os.rmdir,
    }
    found = []
    for path in paths:
        for name, act in acts.items():
            try:
                act(path)
            except OSError:
                continue
            found.append(f"{name} {path}")
    return found


def what_others_can_do(stage: Stage, who: str) -> None:
    """Read what is public; of the job no more than which key its guest has, or, for a group of alice's own, where it is.

    And its image, of which they must know the name: libvirt's test driver does not say which group may have it alone.
    """
    prepare(stage)
    with started(stage, other="vbuserimage=/home/alice/image.raw") as job:
        uid, gid = WHO[who]
        paths = everything()
        assert len(paths) > 25
        found = set(as_user(uid, lambda: attempts(paths), gid))
        handover = f"/run/vmbatch/handover/{job.file_id}"
        expected = {f"read {path}" for path in PUBLIC if Path(path).is_file()}
        expected |= {f"list {path}" for path in PUBLIC if Path(path).is_dir()} | {f"read {handover}/known_hosts"}
        expected |= {f"read {path}" for path in paths if path.startswith("/var/lib/vmbatch/store/uses/") and path.endswith("vda")}
        if gid == 1500:
            expected |= {f"read {handover}/record"}
        assert found == expected


@pytest.mark.parametrize("who", WHO)
def test_what_others_can_do(nest: Worker, who: str) -> None:
    nest.play(what_others_can_do, who=who)


def what_the_user_can_do(stage: Stage) -> None:
    """Use the job's own key, and the directory for its connections; nothing that root reads or runs is the user's to change."""
    prepare(stage)
    with started(stage) as job:
        handover = f"/run/vmbatch/handover/{job.file_id}"
        paths = [path for path in everything() if not path.startswith(f"{handover}/control")]
        found = {line for line in as_user(HOMES["alice"], lambda: attempts(paths)) if line.partition(" ")[2] not in PUBLIC}
        status = next(Path("/run/vmbatch/status/alice").iterdir())
        assert found == {f"read {handover}/{name}" for name in ("id_ed25519", "known_hosts", "record")} | {
            f"change {handover}/id_ed25519", f"own {handover}/id_ed25519", f"read {status}", f"list {status.parent}",
            f"read /var/log/vmbatch/{job.file_id}.log"}


def test_what_the_user_can_do(nest: Worker) -> None:
    nest.play(what_the_user_can_do)


SECRETS = ("id_ed25519", "host_key", ".journal", ".iso", "domain.xml", ".log", ".raw", ".qcow2", "console.log")


def owners_and_modes(stage: Stage) -> None:
    """Nothing that root makes can be changed by others, and no secret can be read by them."""
    prepare(stage)
    with started(stage, other="vbuserimage=/home/alice/image.raw") as job:
        handover = f"/run/vmbatch/handover/{job.file_id}"
        seen = set()
        for path in everything():
            if path.startswith("/etc/vmbatch"):
                continue
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode)
            assert stat.S_ISLNK(status.st_mode) or not mode & 0o022, (path, oct(mode))
            if path in (f"{handover}/id_ed25519", f"{handover}/control"):
                assert (status.st_uid, mode) == (1500, 0o400 if path.endswith("9") else 0o700)
            elif path.endswith("/guest"):
                assert (status.st_uid, mode) == (65534, 0o700), path
            elif not path.startswith(f"{place.SHARE}/{job.file_id}@"):
                assert status.st_uid == 0, path
            if stat.S_ISDIR(status.st_mode):
                assert mode in (0o700, 0o710, 0o711, 0o750), (path, oct(mode))
            elif path.endswith(SECRETS) and "/store/" not in path and path != f"{handover}/id_ed25519":
                seen.add(next(end for end in SECRETS if path.endswith(end)))
                shown = path == f"/var/log/vmbatch/{job.file_id}.log"  # to its user, by an access control list
                assert mode & 0o077 == (0o040 if shown else 0), (path, oct(mode))
                assert acl.reader(path) == (1500 if shown else None), path
        assert seen == {"id_ed25519", "host_key", ".journal", ".iso", "domain.xml", ".log", ".raw", ".qcow2"}


def test_owners_and_modes(nest: Worker) -> None:
    nest.play(owners_and_modes)


def keys_when_the_job_is_over(stage: Stage) -> None:
    """The job's keys go first of all that goes; a shell that comes too late finds none."""
    prepare(stage)
    with started(stage) as job:
        keys = [path for path in everything() if "id_ed25519" in path or "host_key" in path]
        assert len(keys) >= 3
    assert not [path for path in keys if os.path.lexists(path)]
    assert not Path(f"/run/vmbatch/handover/{job.file_id}").exists()


def test_keys_when_the_job_is_over(nest: Worker) -> None:
    nest.play(keys_when_the_job_is_over)


CHANGEABLE = {
    "the configuration": ("/etc/vmbatch/vmbatch.conf", 0o666, "vmbatch.conf can be changed by others than root (mode 0666)"),
    "the directory of the configuration": ("/etc/vmbatch", 0o777, "/etc/vmbatch can be changed by others than root (mode 0777)"),
    "the template": ("/etc/vmbatch/domains/crash.xml", 0o664, "crash.xml can be changed by others than root (mode 0664)"),
    "an archive": ("/etc/vmbatch/domains/site.tar", 0o606, "site.tar can be changed by others than root (mode 0606)"),
    "an image": ("/etc/vmbatch/small.raw", 0o646, "small.raw can be changed by others than root (mode 0646)"),
    "the hook itself": (f"{place.MOM}/mom_priv/prologue", 0o757, "/prologue can be changed by others than root (mode 0757)"),
    "the directory of the hooks": (f"{place.MOM}/mom_priv", 0o777, "/mom_priv can be changed by others than root (mode 0777)"),
    "the site's hook": (f"{place.MOM}/mom_priv/prologue.site", 0o757, "prologue.site must be a regular file of root, executable"),
    "a script for guests": ("/etc/vmbatch/guest.d/prolog.d/10-site", 0o757, "10-site can be changed by others than root"),
    "the spool": ("/var/lib/vmbatch/spool", 0o777, "/var/lib/vmbatch/spool is not a directory that only root can write"),
    "the journals": ("/var/lib/vmbatch/jobs", 0o777, "/var/lib/vmbatch/jobs is not a directory that only root can write"),
    "a directory above them": ("/var/lib/vmbatch", 0o777, "/var/lib/vmbatch is not a directory that only root can write"),
    "the hand-over directory": ("/run/vmbatch/handover", 0o777, "handover is not a directory that only root can write"),
    "the share": (str(place.SHARE), 0o777, f"the share {place.SHARE} must be root's"),
}


def what_others_could_change(stage: Stage, what: str) -> None:
    """Root runs nothing from it, reads nothing of it, and makes nothing in it."""
    prepare(stage)
    path, mode, why = Path(CHANGEABLE[what][0]), CHANGEABLE[what][1], CHANGEABLE[what][2]
    if not path.exists() and path.suffix in (".site", ""):
        path.parent.mkdir(parents=True, exist_ok=True)
        if "vmbatch/guest.d" in str(path) or path.suffix == ".site":
            own(path, f"#!/bin/sh\ntouch {FOOTPRINT}\n".encode(), 0, 0o755)
        else:
            path.mkdir()
    before = stat.S_IMODE(path.stat().st_mode)
    job = stage.house.accept(b"#!/bin/sh\n", queue="crash")
    path.chmod(mode)
    try:
        verdict = stage.house.finish_prologue(stage.house.start_prologue(job))
        assert (verdict, why in job.errors.decode()) == ("requeue", True), (verdict, job.errors.decode())
    finally:
        path.chmod(before)
        if path.suffix == ".site":
            path.unlink()
        shutil.rmtree("/etc/vmbatch/guest.d", ignore_errors=True)
    nothing_left(stage, job)


@pytest.mark.parametrize("what", CHANGEABLE)
def test_what_others_could_change(nest: Worker, what: str) -> None:
    nest.play(what_others_could_change, what=what)
