"""Shares of every kind, in real guests: NFS 3 and 4, homes, and directories of the node without any server."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mom import Ended, Mom

from . import matrix
from .conftest import CONFIG
from .disks import DOMAINS
from .test_context_matrix import archive, run
from .test_disk_context import template

__all__ = ["archive"]
pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "archive")]

ROOT = "<vbdisk name='rootdisk' dev='vda' partition='vda1'/>"


def shares(text: str, tags: str) -> str:
    return text.replace("</vbconfig>", f"<vbshares>{tags}</vbshares></vbconfig>", 1)


def ran(mom: Mom, text: str, script: str, settings: str = "") -> Ended:
    before = CONFIG.read_text()
    if settings:
        CONFIG.write_text(re.sub(r"\[share\].*", f"[share]\n{settings}\n", before, flags=re.DOTALL))
    try:
        ended = run(mom, text, f"#!/bin/sh\n{script}\n".encode())
    finally:
        CONFIG.write_text(before)
    assert ended.verdict == "run", ended.errors.decode()
    return ended


@pytest.fixture
def software() -> Iterator[Path]:
    """A directory of the node for guests."""
    path = Path("/srv/software")
    path.mkdir()
    (path / "tool").write_text("of the node\n")
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(("kind", "version"), [("nfs4", "4."), ("nfs", "3")])
def test_homes_on_nfs(mom: Mom, kind: str, version: str) -> None:
    """Which the guest's root may not even read: alice's is 0700, and root is nobody there."""
    mine, made = (Path(f"/home/alice/{kind}-{number}") for number in (os.urandom(4).hex(), os.urandom(4).hex()))  # no server knew
    mine.write_text("at home\n")
    os.chown(mine, 1500, 1500)
    text = shares(matrix.template("systemd", "CDROM", "dhcp"),
                  f"<vbshare type='{kind}' source='10.77.0.1:/home' target='/home'/>")
    ended = ran(mom, text, f"cat ~/{mine.name}; pwd; echo new > ~/{made.name}; grep ' /home ' /proc/mounts; exit 3")
    assert (ended.status, ended.errors) == (3, b"")
    home, directory, mount = ended.output.decode().splitlines()
    assert (home, directory) == ("at home", "/home/alice")
    assert f"vers={version}" in mount
    assert (made.read_text(), made.stat().st_uid) == ("new\n", 1500)
    assert not Path("/home/alice/.ssh").exists(), "the job's key was elsewhere"
    mine.unlink()
    made.unlink()


def test_a_share_that_is_not_there(mom: Mom) -> None:
    text = shares(matrix.template("busybox", "CDROM", "dhcp"),
                  "<vbshare type='nfs4' source='10.77.0.1:/nothing' target='/opt/x'/>")
    ended = run(mom, text)
    assert ended.verdict == "requeue"
    assert "while mounting 10.77.0.1:/nothing" in ended.errors.decode()


@pytest.mark.parametrize(("disk", "kind"), [("mbr", "virtiofs"), ("generic", "9p")])
def test_directories_of_the_node(mom: Mom, software: Path, disk: str, kind: str) -> None:
    readonly = "readonly='yes'" if kind == "9p" else ""
    text = shares(template(disk, ROOT), f"<vbshare type='{kind}' source='{software}' target='/opt/software' {readonly}/>")
    ended = ran(mom, text, "cat /opt/software/tool; echo x 2>/dev/null > /opt/software/new || echo refused")
    assert (ended.status, ended.output, ended.errors) == (0, b"of the node\nrefused\n", b"")


def test_the_end_of_a_file_is_not_that_of_the_output(mom: Mom, software: Path) -> None:
    """With dropbear, which takes a pipe for ended that 9p has shown for a moment as if there were something in it."""
    text = shares(template("generic", ROOT), f"<vbshare type='9p' source='{software}' target='/opt/software' readonly='yes'/>")
    script = "i=0; while [ $i -lt 300 ]; do cat /opt/software/tool; cat /opt/software/tool >&2; i=$((i + 1)); done; exit 3"
    ended = ran(mom, text, script)
    assert (ended.status, ended.output, ended.errors) == (3, b"of the node\n" * 300, b"of the node\n" * 300)


def test_no_server_at_all(mom: Mom) -> None:
    """The messages' own share by virtiofs."""
    ended = ran(mom, template("mbr", ROOT), "grep ' /mnt/vmbatch ' /proc/mounts | cut -d ' ' -f 1-3",
                'directory = "/srv/vmbatch/share"\ntype = "virtiofs"\noptions = ""')
    assert ended.output == b"vmbatch /mnt/vmbatch virtiofs\n"
    assert (DOMAINS / "matrix.xml").exists() is False


def test_the_share_by_version_3(mom: Mom) -> None:
    ended = ran(mom, matrix.template("busybox", "DISK", "dhcp"), "grep ' /mnt/vmbatch ' /proc/mounts",
                'source = "10.77.0.1:/share"\ntype = "nfs"\noptions = "soft,timeo=100,actimeo=1"')
    assert b" nfs rw" in ended.output
    assert b"vers=3" in ended.output


def test_a_share_that_is_filled(mom: Mom) -> None:
    """By root of the guest, before it is ready: it has no more than its limit, and no program there counts on the node."""
    scripts = Path("/etc/vmbatch/filling.d/epilog.d")
    scripts.mkdir(parents=True)
    (scripts / "fill").write_text("#!/bin/sh\ncd /mnt/vmbatch\ncp /bin/busybox shell && chmod 6755 shell && chmod 755 .\n"
                                  "cat /dev/zero >fill 2>/dev/null\nwc -c <fill >/filled\nrm fill\n")
    job = mom.accept(b"#!/bin/sh\ncat /filled\n", queue="matrix")
    own = '\n[share]\ndirectory = "/srv/vmbatch/share"\ntype = "virtiofs"\noptions = ""\nlimit = "4M"\n'
    before = CONFIG.read_text()
    matrix.write("matrix", template("mbr", ROOT))
    others = re.sub(r"\[share\].*", "", before, flags=re.DOTALL).replace("[queues]\n", '[queues]\nmatrix = "matrix.xml"\n')
    CONFIG.write_text(f'{others}{own}[guest]\nscripts = "{scripts.parent}"\n')
    try:
        assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors.decode()
        [place] = [path for path in Path("/srv/vmbatch/share").iterdir() if path.name.startswith(job.id)]
        flags = os.statvfs(place / "guest").f_flag
        shown = (place / "guest/shell").stat().st_mode
        entered = subprocess.run(["setpriv", "--reuid=1500", "--regid=1500", "--clear-groups", "ls", place], capture_output=True,
                                 text=True, check=False)
        shell = mom.start_shell(job)
        assert shell.wait() == 0
        filled = int(job.output)
        assert mom.start_epilogue(job).wait() == 0
    finally:
        CONFIG.write_text(before)
        (DOMAINS / "matrix.xml").unlink()
        shutil.rmtree(scripts.parent)
        mom.forget(job)
    assert flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC) == os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    assert shown & 0o7777 == 0o6755
    assert entered.stderr.endswith("Permission denied\n")
    assert 1 << 20 < filled < 4 << 20
