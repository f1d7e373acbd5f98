"""Process 1 of the node: makes the node's private view of the host's files, starts its daemons, then reaps and keeps the log.

Run by `node.up` in new mount, network, pid, ipc and uts namespaces. All that it mounts and all its processes die with it.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from . import place
from .process import run

DAEMONS = place.CLONE / "lab/daemons"
LOG = Path("/var/log/lab")
USERS = {"alice": 1500, "bob": 1501}
"""Name and uid, which is the gid of a group of that name too."""
GROUPS = "physics:x:1600:alice\n"
HOMES = Path("/srv/vmbatch/home")
"""The users' homes, on disk, as the NFS server cannot export what lies on an overlay; they are at /home/NAME too."""
OVERLAID = ("/etc", "/home", "/srv", "/usr/local", "/var/lib", "/var/log", "/var/cache", "/var/spool")
"""What the node sees as the host has it, but changes for itself only."""
DEVICES = (
    *("null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "stdout", "stderr"),
    *("fuse", "net", "vhost-net", "loop-control"),
    *(f"loop{number}" for number in range(8)),
)
"""The host's devices that the node has too. Not kvm: libvirt must not offer what may hang."""
MOM_DIRECTORIES = {"mom_priv": 0o751, "mom_priv/jobs": 0o751, "spool": 0o1777, "undelivered": 0o1777, "aux": 0o755}


def mount(*arguments: str | Path) -> None:
    """mount(8)."""
    run(["mount", *arguments])


def bind(source: Path, target: str | Path, *, read_only: bool = False) -> None:
    """Show `source` at `target`, made if missing."""
    Path(target).mkdir(parents=True, exist_ok=True)
    mount("--bind", source, target)
    if read_only:
        mount("-o", "remount,bind,ro", target)


def mount_all(state: Path) -> None:
    """The node's file system: overlays whose changes go to a tmpfs, and on disk what is large or must be synced."""
    scratch = state / "scratch"
    mount("-t", "tmpfs", "-o", "mode=755", "scratch", scratch)
    ours = {path: scratch / "ours" / path.name for path in (place.CLONE, place.CACHE)}
    for path, kept in ours.items():
        bind(path, kept)
    mount_dev(scratch / "dev")
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "sysfs", "sysfs", "/sys")
    for covered in OVERLAID:
        overlay(covered, scratch)
    mount("-t", "tmpfs", "-o", "mode=755", "run", "/run")
    for path, kept in ours.items():  # below an overlay, what is written there would be lost
        bind(kept, path)
    bind(place.CACHE, place.IMAGES, read_only=True)
    bind(place.CLONE / ".venv", place.ENVIRONMENT)
    bind(state / "share", place.SHARE)
    place.SHARE.chmod(0o711)
    (state / "homes").mkdir()
    bind(state / "homes", HOMES)
    bind(state / "vmbatch", "/var/lib/vmbatch")
    for name in ("libvirt", "vmbatch", "lab"):
        bind(state / "log" / name, f"/var/log/{name}")
    for hidden in ("/etc/libvirt", "/var/lib/libvirt"):  # else the host's own networks and domains would start here
        empty = scratch / hidden.replace("/", "_")
        empty.mkdir()
        bind(empty, hidden)
    bind(place.CACHE / "libvirt", "/var/cache/libvirt")
    run(["umount", "--recursive", "--lazy", scratch])  # lives on below the overlays, without a name


def overlay(path: str, scratch: Path) -> None:
    """Changes below `path` go to the scratch tmpfs."""
    upper, work = Path(f"{scratch}/upper{path}"), Path(f"{scratch}/work{path}")
    upper.mkdir(parents=True)
    work.mkdir(parents=True)
    mount("-t", "overlay", "-o", f"lowerdir={path},upperdir={upper},workdir={work}", "overlay", path)


def mount_dev(new: Path) -> None:
    """A private /dev: for the node's own /dev/log, and to leave devices out."""
    new.mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "dev", new)
    devices = [f"/dev/{name}" for name in DEVICES if os.path.lexists(f"/dev/{name}")]
    run(["cp", "-a", *devices, new])
    (new / "shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777", "shm", new / "shm")
    bind(Path("/dev/pts"), new / "pts")
    mount("--rbind", new, "/dev")


def populate() -> None:
    """Users, homes, the batch system's directories and the daemons' configuration."""
    host = socket.gethostname()
    Path("/etc/hostname").write_text(f"{host}\n")
    append("/etc/hosts", f"{place.ADDRESS} {host}\n")
    for user, uid in USERS.items():
        append("/etc/passwd", f"{user}:x:{uid}:{uid}::/home/{user}:/bin/bash\n")
        append("/etc/group", f"{user}:x:{uid}:\n")
        append("/etc/shadow", f"{user}:*:19000:0:99999:7:::\n")
        home = HOMES / user
        home.mkdir(mode=0o700)
        os.chown(home, uid, uid)
        bind(home, f"/home/{user}")
    append("/etc/group", GROUPS)
    shutil.copytree(DAEMONS / "libvirt", "/etc/libvirt", dirs_exist_ok=True)
    for name, mode in MOM_DIRECTORIES.items():
        (place.MOM / name).mkdir(parents=True)
        (place.MOM / name).chmod(mode)
    (place.MOM / "mom_priv/config").write_text("$prologalarm 300\n")
    for path, mode in (("/run/lock", 0o1777), ("/run/ganesha", 0o755)):
        os.mkdir(path)
        os.chmod(path, mode)


def append(path: str, lines: str) -> None:
    """Add whole lines to a file that may lack its last newline."""
    with open(path, "r+") as file:
        text = file.read()
        file.write(lines if not text or text.endswith("\n") else f"\n{lines}")


def start_daemons() -> None:
    """libvirtd with its network, and the NFS server, which wants rpcbind there for version 3; returns when all answer."""
    start("virtlogd", ["virtlogd"])
    wait_for("virtlogd", lambda: Path("/run/libvirt/virtlogd-sock").is_socket())
    start("libvirtd", ["libvirtd", "--timeout", "0"])
    start("rpcbind", ["rpcbind", "-f"])
    wait_for("rpcbind", lambda: answers("127.0.0.1", 111))
    start("ganesha", ["ganesha.nfsd", "-F", "-L", LOG / "ganesha.log", "-f", DAEMONS / "ganesha.conf", "-p", "/run/ganesha/pid"])
    wait_for("libvirtd", lambda: Path("/run/libvirt/libvirt-sock").is_socket())
    run(["virsh", "-q", "net-create", DAEMONS / "network.xml"])
    wait_for("ganesha", lambda: answers(place.ADDRESS, 2049))


def start(name: str, command: list[str | Path]) -> None:
    """A daemon in the foreground of its own session, with what it says in NAME.out."""
    with open(LOG / f"{name}.out", "wb") as out:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def answers(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def wait_for(name: str, ready: Callable[[], bool], seconds: float = 30) -> None:
    """Look every 10 ms."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} does not answer after {seconds:g} s; see its log")
        time.sleep(0.01)


def keep_syslog() -> None:
    """Write what comes to /dev/log to a file, each message a line that begins with its <priority> as sent."""
    sink = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sink.bind("/dev/log")
    os.chmod("/dev/log", 0o666)  # noqa: S103 (any process may log)
    log = os.open(place.SYSLOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def forward() -> None:
        while True:
            os.write(log, sink.recv(65536).rstrip(b"\0\n").replace(b"\n", b"\\n") + b"\n")

    threading.Thread(target=forward, daemon=True).start()


def finish(state: Path, host_pid: str) -> int:
    """The rest of the set-up, in a child of process 1; then `state/pid` says that the node is up. The exit status."""
    try:
        start_daemons()
        place.INSIDE.write_text(place.name())
        (state / "pid.new").write_text(host_pid)
        os.rename(state / "pid.new", state / "pid")
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> int:
    """Process 1 reaps from the first daemon on: libvirt waits until the QEMUs that it probes have vanished."""
    state = Path(sys.argv[1])
    host_pid = os.readlink("/proc/self")  # this /proc still is the host's
    mount_all(state)
    run(["ip", "link", "set", "lo", "up"])
    socket.sethostname("node")
    populate()
    keep_syslog()
    child = os.fork()
    if child == 0:
        os._exit(finish(state, host_pid))
    while True:
        ended, status = os.wait()
        if ended == child and status:
            return 1


if __name__ == "__main__":
    sys.exit(main())
