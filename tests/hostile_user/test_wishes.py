"""By words: the job's name, its account, its resources, and `-l other`."""

import os
import re
from pathlib import Path

import pytest

from tests.hostile.corpus import qcow2_file
from tests.torque.pool import Worker
from tests.torque.stage import Stage
from vmbatch.batch.system import Call
from vmbatch.batch.torque import Torque
from vmbatch.job import slug

from .scene import FOOTPRINT, accept, begin, finish, nothing_left, own, prepare

pytestmark = pytest.mark.torque
HOME = "/home/alice"
UNREADABLE = " (the image must be readable for you)"
NEITHER = (": not an absolute path, and not a URL with http:// or https:// "
           "(write for instance -l other=vbuserimage=/home/alice/image.qcow2)")
NOT_THERE = ": images may not come from there (this site allows /home/)"
STAY = ", and images may not come from there (a link does not change where an image lies)"
OFFERED = "(they can ask for vbuserimage, vbmemory, vbcores, vbstagein, vbstageout, vbkeep)"
BELOW = " is not a path below the job's working directory (write for instance {0}=data:run/input.txt, without '..')"

NAMES = {
    "a command": f"$(touch {FOOTPRINT})`touch {FOOTPRINT}`;touch {FOOTPRINT}|touch {FOOTPRINT}&",
    "quotes and XML": "'/><disk type='file'><source file='/etc/shadow'/></disk><!--\"]]>&lt;&amp;",
    "lines of a log": "x\nvmbatch: all is well\r\n2024-01-01T00:00:00.000Z prologue: guest is ready",
    "a terminal's escapes": "\x1b]0;x\x07\x1b[2J\x9b1A\u202e",
    "a path": "../../../../etc/cron.d/x",
    "an option": "--help -rf /",
    "a very long one": "A" * 50_000,
    "no text": b"\xff\xfe\x80".decode(errors="surrogateescape"),
}


def a_name(stage: Stage, name: str) -> None:
    """Of the job and of its account. Harmless: the job runs, and neither its guest's XML nor its log have any of it."""
    prepare(stage)
    job = accept(stage, name=NAMES[name], account=NAMES[name])
    assert begin(stage, job) == "run", job.errors.decode()
    [spool] = Path("/var/lib/vmbatch/spool").iterdir()
    said = (spool / "domain.xml").read_bytes() + stage.log(job.id).encode()
    assert os.fsencode(NAMES[name])[:20] not in said
    assert all(line.isprintable() for line in stage.log(job.id).splitlines())
    finish(stage, job)


@pytest.mark.parametrize("name", NAMES)
def test_a_name(nest: Worker, name: str) -> None:
    nest.play(a_name, name=name)


REFUSED = {
    "an image of the node": ("vbuserimage=/etc/shadow", f"vbuserimage=/etc/shadow{NOT_THERE}"),
    "a device": ("vbuserimage=/dev/sda", f"vbuserimage=/dev/sda{NOT_THERE}"),
    "upwards": (f"vbuserimage={HOME}/../../etc/shadow", f"vbuserimage={HOME}/../../etc/shadow{NEITHER}"),
    "a pseudo protocol of QEMU's": ("vbuserimage=nbd:127.0.0.1:10809", f"vbuserimage=nbd:127.0.0.1:10809{NEITHER}"),
    "QEMU's options as JSON": ('vbuserimage=json:{"file.driver":"file"}', f'vbuserimage=json:{{"file.driver":"file"}}{NEITHER}'),
    "a file by its URL": ("vbuserimage=file:///etc/shadow", f"vbuserimage=file:///etc/shadow{NEITHER}"),
    "a relative path": ("vbuserimage=../bob/image.raw", f"vbuserimage=../bob/image.raw{NEITHER}"),
    "a server of the site's": ("vbuserimage=http://169.254.169.254/user-data",
                               f"vbuserimage=http://169.254.169.254/user-data{NOT_THERE}"),
    "a control character": ("vbuserimage=/home/alice/\x1b[2J", "vbuserimage: this is not the path or URL of an image"),
    "a very long path": (f"vbuserimage=/home/{'x' * 3000}", "vbuserimage: this is not the path or URL of an image"),
    "a command as a path": (f"vbuserimage={HOME}/$(touch {FOOTPRINT})",
                            f"{HOME}/$(touch {FOOTPRINT}): No such file or directory{UNREADABLE}"),
    "a secret of root's": (f"vbuserimage={HOME}/secret.raw", f"{HOME}/secret.raw: Permission denied{UNREADABLE}"),
    "another user's image": ("vbuserimage=/home/bob/image.raw", f"/home/bob/image.raw: Permission denied{UNREADABLE}"),
    "a link to root's secret": (f"vbuserimage={HOME}/shadow.raw", f"{HOME}/shadow.raw: Permission denied{UNREADABLE}"),
    "a link to a file of the node": (f"vbuserimage={HOME}/passwd.raw",
                                     f"the image {HOME}/passwd.raw really lies at /etc/passwd{STAY}"),
    "a link into the environment of a process": (f"vbuserimage={HOME}/environ.raw",
                                                 rf"the image {HOME}/environ.raw really lies at /proc/[0-9]+/environ{STAY}"),
    "a link to a device": (f"vbuserimage={HOME}/zero.raw", f"the image {HOME}/zero.raw is not a regular file"),
    "a FIFO": (f"vbuserimage={HOME}/fifo.raw", f"the image {HOME}/fifo.raw is not a regular file"),
    "a directory": (f"vbuserimage={HOME}/directory.raw", f"the image {HOME}/directory.raw is not a regular file"),
    "a socket": (f"vbuserimage={HOME}/socket.raw", f"{HOME}/socket.raw: No such device or address{UNREADABLE}"),
    "an endless link": (f"vbuserimage={HOME}/loop.raw", f"{HOME}/loop.raw: Too many levels of symbolic links{UNREADABLE}"),
    "a backing file": (f"vbuserimage={HOME}/backing.qcow2",
                       f"the image {HOME}/backing.qcow2 has a backing file (qemu-img convert makes a complete image of it)"),
    "qcow2 that is called raw": (f"vbuserimage={HOME}/called.raw",
                                 f"the image {HOME}/called.raw is qcow2, not raw (its name must end in its format: "
                                 ".raw, .img, .qcow2, .qcow or .vhd)"),
    "terabytes of holes": (f"vbuserimage={HOME}/huge.raw", f"the image {HOME}/huge.raw has 4398046511104 bytes; "
                            "it may have 1 to 20G"),
    "another template": ("vbtemplate=../../etc/passwd",
                         "vbtemplate=../../etc/passwd: queue crash has no such template (it has crash)"),
    "a template of one's own": (f"vbtemplate={HOME}/own",
                                f"vbtemplate={HOME}/own: queue crash has no such template (it has crash)"),
    "too many cores": ("vbcores=9999", "vbcores=9999: guests of this template can have 1 to 2 cores"),
    "no number of cores": ("vbcores=1e3", "vbcores=1e3: not a number of cores (write for instance vbcores=4)"),
    "a negative amount": ("vbmemory=-1", "vbmemory=-1: not a size (write for instance vbmemory=8G)"),
    "too much memory": ("vbmemory=999999999999999T",
                        "vbmemory=999999999999999T: guests of this template can have 1M to 1G"),
    "disks kept for ever": ("vbkeep=999999999d",
                            "vbkeep: this site keeps nothing of failed jobs (its admins set [requests] keep)"),
    "a file of root's into the guest": ("vbstagein=/etc/shadow", "vbstagein: '/etc/shadow'" + BELOW.format("vbstagein")),
    "upwards into the guest": ("vbstagein=a/../../x", "vbstagein: 'a/../../x'" + BELOW.format("vbstagein")),
    "upwards out of the guest": ("vbstageout=../.ssh/authorized_keys",
                                 "vbstageout: '../.ssh/authorized_keys'" + BELOW.format("vbstageout")),
    "a setting of the site's": ("vbxml=/home/alice/own.xml", f"vbxml: jobs of this queue cannot ask for that {OFFERED}"),
    "one wish twice": ("vbmemory=1M;vbmemory=1G", "-l other: vbmemory is asked for twice"),
    "no value": ("vbuserimage=", "-l other=vbuserimage: a value is missing (write -l other=vbuserimage=VALUE)"),
}


def links(uid: int = 1500) -> None:
    """What the paths above lead to."""
    home = Path(HOME)
    for name, target in {"shadow": "/etc/shadow", "passwd": "/etc/passwd", "environ": "/proc/self/environ", "zero": "/dev/zero",
                         "loop": "loop.raw"}.items():
        (home / f"{name}.raw").symlink_to(target)
    os.mkfifo(home / "fifo.raw")
    (home / "directory.raw").mkdir()
    os.mknod(home / "socket.raw", 0o140600)
    for name in ("fifo", "directory", "socket"):
        os.chown(home / f"{name}.raw", uid, uid)
    for name in ("backing.qcow2", "called.raw"):
        qcow2_file(home / name, backing=b"/etc/shadow" if name.startswith("backing") else b"")
        os.chown(home / name, uid, uid)
    os.truncate(own(home / "huge.raw", b"", uid), 1 << 42)


def a_wish_that_is_refused(stage: Stage, what: str) -> None:
    """The job is aborted, its user is told why, and nothing has been made."""
    prepare(stage)
    links()
    wish, why = REFUSED[what]
    job = accept(stage, other=wish)
    assert begin(stage, job) == "abort", job.errors.decode()
    first = job.errors.decode().splitlines()[0]
    if "/proc/" in why:
        assert re.fullmatch(re.escape(f"vmbatch: job {slug(job.id)} could not start: ")
                            + re.escape(why).replace(re.escape("[0-9]+"), "[0-9]+"), first), first
    else:
        assert first == f"vmbatch: job {slug(job.id)} could not start: {why}"
    nothing_left(stage, job)


@pytest.mark.parametrize("what", REFUSED)
def test_a_wish_that_is_refused(nest: Worker, what: str) -> None:
    nest.play(a_wish_that_is_refused, what=what)


WORDS = {
    "an id that is a path": (0, "../../etc/passwd", 2, "the prologue of job '../../etc/passwd' cannot run: JobError("),
    "an id with a line break": (0, "42.lab\n", 2, "the prologue of job '42.lab\\n' cannot run: JobError("),
    "an id that leads upwards": (0, "42.a..b", 2, "the prologue of job '42.a..b' cannot run: JobError("),
    "a user who is an option": (1, "-lroot", 1, "'-lroot' is not the name of a user"),
    "a user who is a path": (1, "../root", 1, "'../root' is not the name of a user"),
    "root": (1, "root", 1, "jobs of root do not run in queue crash (ask the site's admins)"),
    "another user's script": (7, "/home/bob/image.raw", 1, "/home/bob/image.raw is not a regular file of alice with one name"),
    "a script by a link": (7, "/home/alice/link", 1, "/home/alice/link is not a regular file of alice with one name"),
    "a script with two names": (7, "/home/alice/hard", 1, "/home/alice/hard is not a regular file of alice with one name"),
}


def words_that_no_batch_system_should_give(stage: Stage, what: str) -> None:
    """Refused, should a batch system let through what a user can name there."""
    prepare(stage)
    Path(f"{HOME}/link").symlink_to("image.raw")
    os.link(f"{HOME}/image.raw", f"{HOME}/hard")
    place, word, status, why = WORDS[what]
    job = accept(stage)
    if word == "root":
        os.chown(job.script, 0, 0)
    words = stage.house.prologue_words(job)
    words[place] = word
    hook = stage.house._hook(job, "prologue", words, 0o077)
    assert (hook.wait(60), why in job.errors.decode()) == (status, True), job.errors.decode()
    nothing_left(stage, job)


@pytest.mark.parametrize("what", WORDS)
def test_words_that_no_batch_system_should_give(nest: Worker, what: str) -> None:
    nest.play(words_that_no_batch_system_should_give, what=what)


def a_node_file_that_the_user_names(stage: Stage, path: str) -> None:
    """Harmless, should a batch system take PBS_NODEFILE from `-v`: only mom's own, called as the job, goes into the guest."""
    prepare(stage)
    job = accept(stage)
    environ = stage.house.environment(job) | {"PBS_NODEFILE": path}
    found = Torque().parse(Call(["prologue", *stage.house.prologue_words(job)], environ, ""), "0" * 32, None)
    assert found.node_file is None
    stage.house.forget(job)


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/vmbatch/vmbatch.conf", "/home/alice/secret.raw", "/proc/1/environ", ""])
def test_a_node_file_that_the_user_names(nest: Worker, path: str) -> None:
    nest.play(a_node_file_that_the_user_names, path=path)
