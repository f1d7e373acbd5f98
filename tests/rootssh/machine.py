"""A machine to log in to: namespaces with private /etc, /home, /root and /var/lib/vmbatch, and a real sshd or dropbear."""

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

from vmbatch.host.rootssh import RootAccess

_INIT = """set -e
scratch=$1; shift
mount -t tmpfs -o mode=755 scratch "$scratch"
cp -a /etc "$scratch/etc"
mkdir -m 700 "$scratch/root" "$scratch/root/.ssh"
mkdir "$scratch/home" "$scratch/lib" "$scratch/mnt" "$scratch/run" "$scratch/run/sshd"
mount --bind "$scratch/etc" /etc
mount --bind "$scratch/root" /root
mount --bind "$scratch/home" /home
mount --bind "$scratch/lib" /var/lib/vmbatch
mount --bind "$scratch/mnt" /mnt
mount --bind "$scratch/run" /run
for name in $REPLACED; do mount --bind /usr/bin/busybox "$(readlink -f "$(command -v "$name")")"; done
echo up >/run/up
while [ ! -e /run/go ]; do sleep 0.02; done
"$@" &
while :; do wait || :; sleep 0.1; done
"""
_SSHD = """Port {port}
ListenAddress 127.0.0.1
HostKey {host_key}
PermitRootLogin prohibit-password
UsePAM no
PasswordAuthentication no
PidFile /run/sshd.pid
{more}
"""
APPLETS = "tar sh dash cp mv rm mkdir chmod chown cat setsid"
"""What a busybox guest has of busybox."""


@dataclass
class Machine:
    """Process 1 of the machine, seen from outside; `key` is root's private key on the node."""

    pid: int
    port: int
    key: Path
    host_key: str

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    @property
    def base(self) -> Path:
        return self.root / "var/lib/vmbatch"

    def go(self) -> None:
        """Starts the sshd."""
        (self.root / "run/go").touch()

    def answers(self) -> bool:
        """Whether the sshd listens."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def inside(self, *command: str) -> str:
        """What a command writes that runs in the machine."""
        return subprocess.run(
            ["nsenter", f"--target={self.pid}", "--mount", "--pid", *command], capture_output=True, text=True, check=True
        ).stdout

    def drop(self) -> None:
        """Kills the guest's end of all connections of root's."""
        self.inside("pkill", "-f", "sshd: root@notty")

    def trust(self, options: str = "") -> None:
        """Puts root's key into place."""
        keys = self.root / "root/.ssh/authorized_keys"
        keys.write_text(f"{options} {Path(f'{self.key}.pub').read_text()}".lstrip())
        keys.chmod(0o600)

    def access(self, *host_keys: str, first_use: bool = False) -> RootAccess:
        pinned = () if first_use else (host_keys or (self.host_key,))
        return RootAccess(key=str(self.key), host_keys=pinned, first_use=first_use, port=self.port)

    def processes(self) -> list[str]:
        """The command lines of all processes but the sshd's."""
        return self.inside("ps", "-eo", "args=").splitlines()


def make_key(path: Path, kind: str = "ed25519", *more: str) -> Path:
    """A key pair without passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "test", "-f", str(path), *more], check=True)
    return path


def public(path: Path) -> str:
    """The public key as OpenSSH writes it, without its comment."""
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def machine(
    place: Path,
    *,
    server: str = "openssh",
    kind: str = "ed25519",
    more: str = "",
    busybox: bool = False,
    start: bool = True,
) -> Iterator[Machine]:
    """Up, trusting root's key, with its sshd listening unless `start` is false; `more` are lines of sshd_config."""
    port = free_port()
    key = make_key(place / "root_key")
    host_key = make_key(place / f"host_{kind}", kind)
    scratch = Path(tempfile.mkdtemp(dir=place))
    if server == "openssh":
        config = place / "sshd_config"
        config.write_text(_SSHD.format(port=port, host_key=host_key, more=more))
        command = ["/usr/sbin/sshd", "-D", "-E", "/run/sshd.log", "-f", str(config)]
    else:
        made = place / "dropbear_key"
        subprocess.run(["dropbearkey", "-t", kind, "-f", str(made)], check=True, capture_output=True)
        subprocess.run(["dropbearconvert", "dropbear", "openssh", str(made), str(host_key)], check=True, capture_output=True)
        host_key.chmod(0o600)
        line = subprocess.run(["ssh-keygen", "-y", "-f", str(host_key)], check=True, capture_output=True, text=True).stdout
        Path(f"{host_key}.pub").write_text(line)
        command = [
            "/usr/sbin/dropbear",
            "-F",
            "-E",
            "-s",
            "-j",
            "-k",
            "-p",
            f"127.0.0.1:{port}",
            "-r",
            str(made),
            "-P",
            "/run/db.pid",
        ]
    Path("/var/lib/vmbatch").mkdir(exist_ok=True)
    log = place / "machine.log"
    outer = subprocess.Popen(
        [
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
            "bash",
            "-c",
            _INIT,
            "init",
            str(scratch),
            *command,
        ],
        env={"PATH": os.defpath + ":/usr/sbin:/sbin", "REPLACED": APPLETS if busybox else ""},
        stdin=subprocess.DEVNULL,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        pid = first_child(outer.pid)
        guest = Machine(pid, port, key, public(host_key))
        until(lambda: (guest.root / "run/up").exists())
        guest.trust()
        if start:
            guest.go()
            until(guest.answers)
        yield guest
    finally:
        outer.kill()
        outer.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def first_child(pid: int) -> int:
    over = time.monotonic() + 10
    while time.monotonic() < over:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise TimeoutError


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Looks every 20 ms."""
    over = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < over, "too late"
        time.sleep(0.02)
