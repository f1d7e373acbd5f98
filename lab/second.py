"""A second node beside the lab's own, for jobs on several nodes: host name, places, libvirtd and bridge differ, and nothing else.

    python -m lab.second DIRECTORY        inside the lab's node; ends when its standard input does

Namespaces (mount, net, uts) inside the lab's node, around one process; the bridges of both nodes are one network. `DIRECTORY` has
all that the node keeps on its disk, mom's directory among it, and is at the same path for both nodes.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import init, place
from .mom import Mom
from .process import run

NAME = "node2"
ADDRESS = "10.77.0.2"
NETWORK = "<network><name>lab</name><forward mode='bridge'/><bridge name='labbr0'/></network>"
PRIVATE = {
    "/var/lib/vmbatch": "vmbatch", "/var/log/vmbatch": "log", "/var/lib/libvirt": "libvirt", "/var/log/libvirt": "libvirt-log",
}
"""What the node has for itself, by its place below DIRECTORY."""


class Second:
    """The second node, as long as its process lives."""

    def __init__(self, directory: Path, process: "subprocess.Popen[bytes]") -> None:
        self.directory = directory
        self.process = process
        self.mom = Mom(directory / "torque", NAME, self.enter())

    def enter(self) -> list[str]:
        """What runs a command there."""
        return ["nsenter", f"--target={self.process.pid}", "--mount", "--net", "--uts"]

    def run(self, command: Sequence[str | Path]) -> str:
        """What a command there writes."""
        return run([*self.enter(), f"--wdns={place.CLONE}", "--", *command])


@contextlib.contextmanager
def second(directory: Path) -> Iterator[Second]:
    """A second node for a while; `directory` must not be there yet."""
    directory.mkdir(mode=0o755)
    process = subprocess.Popen(
        ["unshare", "--mount", "--net", "--uts", "--propagation", "private", sys.executable, "-m", "lab.second", str(directory)],
        cwd=place.CLONE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"up\n":
            raise RuntimeError(f"the second node does not start; see {place.state()}/log/lab")
        yield Second(directory, process)
    finally:
        with process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
        shutil.rmtree(directory, ignore_errors=True)


def _make(directory: Path) -> None:
    """The node's view of the files: all as the lab's node has it, but for what is private."""
    names = (place.INSIDE.read_text(), NAME)
    for target, name in PRIVATE.items():
        (directory / name).mkdir()
        init.bind(directory / name, target)
    init.mount("-t", "tmpfs", "-o", "mode=755", "run", "/run")
    place.INSIDE.write_text(names[0])
    Path("/run/lock").mkdir(mode=0o1777)
    socket.sethostname(names[1])
    for name, mode in init.MOM_DIRECTORIES.items():
        (directory / "torque" / name).mkdir(parents=True)
        (directory / "torque" / name).chmod(mode)
    (directory / "torque/mom_priv/config").write_text("$prologalarm 300\n")
    for hook in (place.MOM / "mom_priv").iterdir():
        if hook.is_file() and hook.name != "config":
            shutil.copy(hook, directory / "torque/mom_priv")


def _connect() -> None:
    """A bridge of its own, of which a cable goes to that of the lab's node."""
    init.mount("-t", "sysfs", "sysfs", "/sys")
    for command in (
        "ip link set lo up",
        "ip link add labbr0 type bridge",
        f"ip addr add {ADDRESS}/24 dev labbr0",
        "ip link set labbr0 up",
        f"ip link add uplink type veth peer name {NAME} netns 1",
        "ip link set uplink master labbr0 up",
        f"nsenter --target=1 --net ip link set {NAME} master labbr0 up",
    ):
        run(command.split())


def main() -> int:
    """The process around which the node is; it ends with its daemons when standard input does."""
    directory = Path(sys.argv[1])
    _make(directory)
    _connect()
    with open("/var/log/lab/libvirtd-2.out", "wb") as out:
        logs, daemon = (subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
                        for command in (["virtlogd"], ["libvirtd", "--timeout", "0"]))
    try:
        init.wait_for("the second libvirtd", lambda: Path("/run/libvirt/libvirt-sock").is_socket())
        (directory / "network.xml").write_text(NETWORK)
        run(["virsh", "-q", "net-create", directory / "network.xml"])
        print("up", flush=True)
        sys.stdin.read()
    finally:
        for each in (daemon, logs):
            each.terminate()
            each.wait()
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
