"""A guest without a machine: namespaces with a real sshd on the loopback and the kit, and the hand-over record of a job in it.

For what is about the job's shell and not about guests: it is there in a quarter of a second. Inside the lab's node only.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vmbatch import digest, handover, sshargs
from vmbatch.batch.account import parse_user
from vmbatch.batch.script import identify
from vmbatch.job import slug

from .mom import Job, Mom
from .place import CLONE

ADDRESS = "127.0.0.2"
ALIAS = "vmbatch-loopback"
_INIT = """set -e
scratch=$1; shift
mount -t tmpfs -o mode=755 scratch "$scratch"
cp -a /etc "$scratch/etc"
mkdir "$scratch/home" "$scratch/lib" "$scratch/run" "$scratch/run/sshd"
mount --bind "$scratch/etc" /etc
mount --bind "$scratch/home" /home
mount --bind "$scratch/lib" /var/lib/vmbatch
mount --bind "$scratch/run" /run
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts /dev/pts
touch /run/up
while [ ! -e /run/go ]; do sleep 0.01; done
"$@" &
while :; do wait || :; sleep 0.05; done
"""
_UNSHARE = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
_SSHD = """Port 22
ListenAddress {address}
HostKey {host_key}
UsePAM no
PasswordAuthentication no
X11Forwarding yes
PidFile /run/sshd.pid
MaxStartups 100
"""


@dataclass
class Guest:
    """Process 1 of the guest, seen from outside, and the keys of the user and of the guest."""

    pid: int
    user: str
    key: Path
    host_key: Path

    @property
    def root(self) -> Path:
        """The guest's files."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def base(self) -> Path:
        """The kit's place."""
        return self.root / "var/lib/vmbatch"

    def inside(self, *command: str) -> str:
        """What a command writes that runs in the guest."""
        return subprocess.run(["nsenter", f"--target={self.pid}", "--mount", "--pid", *command], capture_output=True, text=True,
                              check=True).stdout

    def processes(self) -> list[str]:
        """The command lines of the guest's processes."""
        return self.inside("ps", "-eo", "args=").splitlines()

    def hand_over(self, mom: Mom, job: Job, *, leader: handover.Mark | None = None, x11: bool = False,
                  runs: handover.Mark | None = None) -> Path:
        """Leaves for remoteshell what a prologue leaves; the directory. `runs` is the process that runs the guest."""
        place = Path(sshargs.HANDOVER) / slug(job.id)
        place.mkdir(parents=True)
        uid, gid = job.person.pw_uid, job.person.pw_gid
        key = place / "id_ed25519"
        shutil.copy(self.key, key)
        key.chmod(0o400)
        os.chown(key, uid, gid)
        (place / "known_hosts").write_text(f"{ALIAS} {Path(f'{self.host_key}.pub').read_text()}")
        (place / "control").mkdir(mode=0o700)
        os.chown(place / "control", uid, gid)
        if job.script.exists():
            script = self.base / "job/script"
            shutil.copy(job.script, script)
            os.chown(script, uid, gid)
        write_record(mom, job, leader=leader, x11=x11, runs=runs)
        return place

    def take_back(self, mom: Mom, job: Job) -> None:
        """Ends the job as an epilogue does."""
        shutil.rmtree(Path(sshargs.HANDOVER) / slug(job.id), ignore_errors=True)
        mom.forget(job)


def write_record(mom: Mom, job: Job, *, console: str = "", leader: handover.Mark | None = None, x11: bool = False,
                 runs: handover.Mark | None = None) -> None:
    """The record of this start of the job, as the prologue writes it."""
    person = parse_user(job.user, job.user)
    script = identify(str(job.script), person)
    record = handover.Handover(
        job=job.id, token="0" * 32, user=job.user, uid=person.uid, address="" if console else ADDRESS, alias=ALIAS,
        console=console, template="loopback", node_file=False, leader=leader, x11=x11, guest=runs,
        script=None if script is None else handover.ScriptMark(script.path, script.device, script.inode, script.mtime_ns),
        environment={name: digest.of_text(value) for name, value in mom.environment(job).items()},
    )
    path = Path(sshargs.HANDOVER) / slug(job.id) / "record"
    path.write_bytes(record.encode())
    os.chown(path, 0, person.group.gid)
    path.chmod(0o440)


def make_key(path: Path) -> Path:
    """A key pair without passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)], check=True)
    return path


@contextlib.contextmanager
def guest(user: str = "alice", *, sshd: str = "") -> Iterator[Guest]:
    """Up, with its sshd listening, and with a job directory of the user's; `sshd` are more lines of sshd_config."""
    place = Path(tempfile.mkdtemp(prefix="loopback-", dir="/srv"))
    key, host_key = make_key(place / "key"), make_key(place / "host_key")
    config = place / "sshd_config"
    config.write_text(_SSHD.format(address=ADDRESS, host_key=host_key) + sshd)
    scratch = place / "scratch"
    scratch.mkdir()
    Path("/var/lib/vmbatch").mkdir(mode=0o711, exist_ok=True)
    with open(place / "log", "wb") as log:
        outer = subprocess.Popen(
            [*sshargs.WITH_PARENT, *_UNSHARE, "bash", "-c", _INIT, "init", str(scratch),
             "/usr/sbin/sshd", "-D", "-E", "/run/sshd.log", "-f", str(config)],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )
    try:
        made = Guest(_first_child(outer.pid), user, key, host_key)
        _until(lambda: (made.root / "run/up").exists())
        _furnish(made)
        (made.root / "run/go").touch()
        _until(_answers)
        yield made
    finally:
        outer.kill()
        outer.wait()
        shutil.rmtree(place, ignore_errors=True)


def _furnish(made: Guest) -> None:
    """The kit, and the user's home and key."""
    person = parse_user(made.user, made.user)
    shutil.copytree(CLONE / "vmbatch/kit", made.base / "kit")
    made.base.chmod(0o755)
    (made.base / "job").mkdir(mode=0o700)
    home = made.root / person.home.lstrip("/")
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    shutil.copy(f"{made.key}.pub", home / ".ssh/authorized_keys")
    shadow = made.root / "etc/shadow"  # an account without password is not a locked one
    lines = [line for line in shadow.read_text().splitlines() if not line.startswith(f"{made.user}:")]
    shadow.write_text("\n".join([*lines, f"{made.user}:*:19000:0:99999:7:::", ""]))
    for path in (made.base / "job", home, home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, person.uid, person.group.gid)


def _answers() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, 22)) == 0


def _first_child(pid: int) -> int:
    def child() -> str:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text()

    _until(lambda: bool(child()))
    return int(child().split()[0])


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    over = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > over:
            raise TimeoutError("the guest on the loopback does not come up")
        time.sleep(0.01)
