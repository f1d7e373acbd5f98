"""The outer machine from outside: a QEMU process with Xen and dom0 in it, booted, reached by ssh, watched for its death.

Which processor it shows decides. With SMAP, SMEP or five-level page tables dom0 dies at its first page fault under TCG; with
XSAVE, or as an AMD, programs die at random, one start in thirty.
"""

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .. import node, place
from ..process import ProcessError, run
from ..progress import step
from . import parts

CPU = "max,-smap,-smep,-la57,-xsave,vendor=GenuineIntel"
MEMORY_MIB, DOM0_MIB = 2048, 768
BOOT_SECONDS = 300.0
NICE = "-10"
"""Its one processor is all that dom0 and guests have; what runs beside it is many processes."""
_XEN = "console=com1 com1=115200,8n1 bootscrub=0 spec-ctrl=no xpti=0 loglvl=warning guest_loglvl=error noreboot"
_LINUX = "console=hvc0 quiet mitigations=off net.ifnames=0 cryptomgr.notests=1"
_DEATH = re.compile(rb"Panic on CPU \d+:|Kernel panic - not syncing[^\r\n]*|Domain 0 crashed[^\r\n]*|Hardware Dom0 \w+[^\r\n]*")
_WOUND = re.compile(r"segfault at|general protection|traps: |invalid opcode|Oops:|BUG: ")


class OuterCrash(Exception):
    """The outer machine is dead or does not answer: nothing that was asked of it means anything."""


class State(NamedTuple):
    """What a running machine keeps in the lab's state directory."""

    directory: Path

    @property
    def pid(self) -> Path:
        """QEMU's."""
        return self.directory / "pid"

    @property
    def console(self) -> Path:
        """What Xen and dom0 wrote."""
        return self.directory / "console"

    @property
    def agent(self) -> Path:
        """The socket that leads to the agent in dom0."""
        return self.directory / "agent"

    @property
    def control(self) -> Path:
        """ssh's connection to dom0."""
        return self.directory / "ssh"


def state() -> State:
    """This lab's; the machine that runs in the lab's node is another one than that beside it."""
    return State(Path(f"{place.state()}-xen{'-node' if node.inside() else ''}"))


@contextlib.contextmanager
def _locked() -> Iterator[State]:
    found = state()
    with contextlib.suppress(FileExistsError):
        found.directory.mkdir(mode=0o700)
    if found.directory.stat(follow_symlinks=False).st_uid != 0 or found.directory.is_symlink():
        raise SystemExit(f"{found.directory} is not root's own directory; remove it")
    with open(found.directory / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield found


def pid() -> int | None:
    """QEMU's process, if it runs."""
    with contextlib.suppress(OSError, ValueError):
        number = int(state().pid.read_text())
        if b"vmbatch-xen" in Path(f"/proc/{number}/cmdline").read_bytes():
            return number
    return None


def up() -> None:
    """Boots the machine unless it runs, of the parts that the clone has now. ProcessError, OuterCrash."""
    wanted = parts.directories()
    with _locked() as found:
        if pid() and (found.directory / "parts").read_text() == repr(wanted) and state().agent.exists():
            return
        end(found)
        with step(f"Xen machine {place.name()} up"):
            _boot(wanted, found)


def down() -> None:
    """Ends the machine at once; its console's log stays."""
    with _locked() as found:
        end(found)


def end(found: State) -> None:
    """Kills QEMU and ssh, and waits."""
    if found.control.exists():
        subprocess.run([*ssh(found), "-O", "exit", "dom0"], capture_output=True, check=False)
    running = pid()
    if running:
        handle = os.pidfd_open(running)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        _wait_for(lambda: not Path(f"/proc/{running}/cmdline").exists() or pid() is None, 30)
        os.close(handle)
    for path in found.directory.iterdir():
        if path.name not in (".lock", "console"):
            path.unlink()


def _boot(wanted: parts.Parts, found: State) -> None:
    port = _free_port()
    found.console.unlink(missing_ok=True)
    _write_ssh_config(wanted, found, port)
    with open(found.directory / "qemu.out", "wb") as out:
        process = subprocess.Popen(_command(wanted, found, port), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   start_new_session=True, cwd="/")
    with contextlib.suppress(OSError):  # a kernel without autogroups (sched(7))
        Path(f"/proc/{process.pid}/autogroup").write_text(NICE)
    found.pid.write_text(str(process.pid))
    deadline = time.monotonic() + BOOT_SECONDS
    while b" ready\r" not in _console(found):
        check(found, process)
        if time.monotonic() > deadline:
            raise OuterCrash(f"the Xen machine was not ready after {BOOT_SECONDS:g} s; it said at last:\n{last_words(found)}")
        time.sleep(0.1)
    run([*ssh(found), "-f", "-N", "-M", "-o", "ControlPersist=yes", "-L", f"{found.agent}:/run/agent", "dom0"], timeout=60)
    (found.directory / "parts").write_text(repr(wanted))


def check(found: State, process: "subprocess.Popen[bytes] | None" = None) -> None:
    """OuterCrash if the machine is dead."""
    death = _DEATH.search(_console(found))
    if death:
        raise OuterCrash(f"the Xen machine died: {death[0].decode(errors='replace')}\n{last_words(found)}")
    if (process.poll() is not None) if process else (pid() is None):
        said = _read(found.directory / "qemu.out").decode(errors="replace")
        raise OuterCrash(f"the Xen machine's QEMU has ended: {said.strip()}\n{last_words(found)}")


def wounds(kernel_log: str) -> list[str]:
    """What dom0's kernel says of programs that died as programs do not: a sign that the emulation is at fault."""
    return [line for line in kernel_log.splitlines() if _WOUND.search(line)]


def last_words(found: State) -> str:
    """The end of the console's log."""
    return "\n".join(_console(found).decode(errors="replace").replace("\r", "").splitlines()[-15:])


def _console(found: State) -> bytes:
    return _read(found.console)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _command(wanted: parts.Parts, found: State, port: int) -> list[str]:
    disks: list[str] = []
    for number, image in enumerate((wanted.dom0 / "disk.raw", wanted.guests / "disk.raw", wanted.software / "disk.raw")):
        overlay = found.directory / f"disk{number}.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", overlay])
        disks += ["-drive", f"if=none,id=d{number},file={overlay},format=qcow2,cache=unsafe",
                  "-device", f"virtio-blk-pci,drive=d{number}"]
    memory = f"dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M"
    return [
        "nice", "-n", NICE, "qemu-system-x86_64", "-name", "vmbatch-xen", "-accel", "tcg,tb-size=1024", "-cpu", CPU,
        "-m", str(MEMORY_MIB), "-smp", "1", "-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults",
        "-kernel", str(wanted.dom0 / "xen.elf"), "-append", f"{_XEN} {memory}",
        "-initrd", f"{wanted.dom0 / 'vmlinux'} {_LINUX},{wanted.dom0 / 'initrd.cpio'}", *disks,
        "-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=n0,romfile=",
        "-device", "virtio-rng-pci", "-serial", f"file:{found.console}",
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_ssh_config(wanted: parts.Parts, found: State, port: int) -> None:
    kind, key, _ = (wanted.dom0 / "host_key.pub").read_text().split(maxsplit=2)
    (found.directory / "known_hosts").write_text(f"dom0 {kind} {key}\n")
    (found.directory / "ssh_config").write_text(
        f"Host dom0\n HostName 127.0.0.1\n Port {port}\n User root\n HostKeyAlias dom0\n BatchMode yes\n"
        f" IdentityFile {wanted.dom0 / 'key'}\n IdentitiesOnly yes\n UserKnownHostsFile {found.directory / 'known_hosts'}\n"
        f" StrictHostKeyChecking yes\n LogLevel ERROR\n ControlPath {found.control}\n ConnectTimeout 60\n"
        " ServerAliveInterval 30\n ServerAliveCountMax 10\n")


def ssh(found: State) -> list[str]:
    """The begin of a command line for dom0."""
    return ["ssh", "-F", str(found.directory / "ssh_config")]


def _wait_for(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise ProcessError("the Xen machine's QEMU does not end")
        time.sleep(0.05)
