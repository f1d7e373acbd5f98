"""A node of its own inside the lab's: its files, network, libvirtd with the test driver, and guests that are played.

`enter` must be called in new mount, network and pid namespaces; all that it makes ends with them.
"""

import io
import json
import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from . import place
from .process import run

URI = "test+unix:///default?socket=/run/libvirt/libvirt-sock"
QUEUE = "crash"
DISK_QUEUE = "crashdisk"
"""Whose jobs have their context in the guest's disk."""
EXPORT_QUEUE = "crashexport"
"""Whose guests must give signs of life; for a node that exports the share, by EXPORTING."""
POOL_QUEUE = "crashpool"
"""Whose guests can wait for jobs."""
PORT = "/run/libvirt/port"
"""Of such a guest, of which there is one at a time."""
OWN = "vbuserimage=/etc/vmbatch/own.raw"
KEEPING = "vbkeep=1h"
"""What a job may ask for."""
FAILING = "bob"
"""The user whose guests fail."""
TIMEOUTS = '[timeouts]\nboot = "20s"\n'
CONFIG = f"""[queues]
{QUEUE} = "crash.xml"
{DISK_QUEUE} = "disk.xml"
{EXPORT_QUEUE} = "export.xml"
{POOL_QUEUE} = "pool.xml"
[libvirt]
uri = "{URI}"
[share]
source = "10.77.0.1:/share"
[spool]
keep_free = "0"
[images]
keep_free = "0"
[userimages]
sources = ["/etc/vmbatch/"]
[admission]
cores = "none"
memory = "none"
{TIMEOUTS}[requests]
keep = 2
[torque]
pause = "0s"
"""
EXPORTING = CONFIG.replace('source = "10.77.0.1:/share"', f'source = "10.78.0.1:{place.SHARE}"\nexport = "exportfs"')
REQUESTS = "<vbrequests><vbrequest name='vbkeep' max='2h'/></vbrequests>"
ONCE = """    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='cache' create='once' size='1'/>
      <target dev='vde' bus='virtio'/>
    </disk>
"""
"""While a user's first job has this disk, the user's other jobs wait."""
TEMPLATE = f"""<domain type='test'>
  <vbconfig>
    <vbhypervisor>TEST</vbhypervisor>
    <vbtarfiles><vbtarfile tarfile='site.tar' path='/opt'/></vbtarfiles>
    {REQUESTS}
  </vbconfig>
  <memory unit='MiB'>16</memory>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='/etc/vmbatch/small.raw' copy_method='cow' format='qemu-img-qcow2'/>
      <vbuserimage/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='/etc/vmbatch/small.raw' copy_method='copy'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
{ONCE}    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbpreparecdrom source='context.iso'/>
      <target dev='vdc' bus='virtio'/>
      <readonly/>
    </disk>
    <interface type='network'>
      <vbnetwork method='static' first='10.78.0.100' count='100' prefix='24'/>
      <source network='default'/>
    </interface>
  </devices>
</domain>
"""
_LEASED = """<interface type='network'>
      <vbnetwork method='dhcp' filter='no'/>
      <source network='default'/>
    </interface>"""
"""The addresses of played guests are not DHCP's, so a filter would stay closed."""
EXPORT_TEMPLATE = (TEMPLATE.replace("<vbconfig>", "<vbconfig>\n    <vbheartbeat seconds='60'/>")
                   .replace("</devices>", f"{_LEASED}\n  </devices>"))
POOL_TEMPLATE = (TEMPLATE.replace(ONCE, "").replace("<vbconfig>", "<vbconfig>\n    <vbstart jobs='3'>POOL</vbstart>")
                 .replace("</devices>", f"""  <channel type='unix'>
      <source mode='bind' path='{PORT}'/><target type='virtio' name='org.vmbatch.0'/>
    </channel>
  </devices>"""))
DISK_TEMPLATE = f"""<domain type='test'>
  <vbconfig>
    <vbhypervisor>TEST</vbhypervisor>
    <vbpreparemethod>DISK</vbpreparemethod>
    <vbtarfiles><vbtarfile tarfile='site.tar' path='/opt'/></vbtarfiles>
  </vbconfig>
  <memory unit='MiB'>16</memory>
  <os><type>hvm</type></os>
  <devices>
    <vbdisks><vbdisk name='rootdisk' dev='vda' init='busybox'/></vbdisks>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='/etc/vmbatch/root.raw' copy_method='copy'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    {_LEASED}
  </devices>
</domain>
"""

ON_DISK = {"/var/lib/vmbatch": 0o711, str(place.SHARE): 0o711}
"""What a site has on a disk, whose directories list names in another order than a tmpfs does; with its mode."""
IN_MEMORY = {"/run/vmbatch": 0o711, "/run/libvirt": 0o755, "/var/lib/libvirt": 0o755, "/var/log/vmbatch": 0o711,
             "/etc/vmbatch": 0o755, "/var/lib/nfs": 0o755}
"""As a first job leaves them, so that the points of all jobs have the same numbers."""
SPOOL = Path("/var/lib/vmbatch/spool")
SOCKET = Path("/run/libvirt/libvirt-sock")
_SAID = Path("/run/libvirt/daemons.log")
_PID = Path("/run/libvirt/crash.pid")


def apart(module: str, *words: str) -> Any:
    """Runs `python -m MODULE SCRATCH WORDS` in new namespaces, to `enter` there; the JSON that it prints."""
    with tempfile.TemporaryDirectory(prefix="vmbatch-nest-") as scratch:
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", sys.executable, "-m", module, scratch,
             *words], cwd=place.CLONE, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def answers() -> TextIO:
    """Where to print that JSON, in place of stdout, which becomes stderr: what the node's programs may say is not an answer."""
    found = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.set_inheritable(found.fileno(), False)
    return found


def enter(scratch: Path, config: str = CONFIG, socket: Path | None = None) -> None:
    """Makes the node around this process, with its large things in a directory that others remove.

    With a `socket`, guests have no sshd, and lab.fakessh is in the place of ssh.
    """
    run(["mount", "--make-rprivate", "/"])
    run(["mount", "-t", "proc", "proc", "/proc"])
    for number, (path, mode) in enumerate(ON_DISK.items()):
        (scratch / str(number)).mkdir()
        (scratch / str(number)).chmod(mode)
        run(["mount", "--bind", scratch / str(number), path])
    for path, mode in IN_MEMORY.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", f"mode={mode:o}", "crash", path])
    _own_hooks()
    _populate(Path("/etc/vmbatch"), config)
    if socket is not None:
        socket.parent.mkdir(exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "crash", socket.parent])
        run(["mount", "--bind", place.CLONE / "lab/fakessh.py", "/usr/bin/ssh"])
    Path("/var/lib/nfs/etab").touch()
    run(["ip", "link", "set", "lo", "up"])
    run(["ip", "address", "add", "10.78.0.1/16", "dev", "lo"])  # makes the whole network local
    _without_drivers()
    start_daemons([] if socket is None else ["--socket", socket])


def _own_hooks() -> None:
    """A mom's home of our own, with the hooks as the lab has installed them."""
    copy = Path("/var/lib/libvirt/torque")
    shutil.copytree(place.MOM, copy, symlinks=True)
    run(["mount", "--bind", copy, place.MOM])
    (place.MOM / "spool").chmod(0o1777)


def _populate(etc: Path, config: str) -> None:
    (etc / "domains").mkdir()
    (etc / "vmbatch.conf").write_text(config)
    (etc / "domains/crash.xml").write_text(TEMPLATE)
    (etc / "domains/disk.xml").write_text(DISK_TEMPLATE)
    (etc / "domains/export.xml").write_text(EXPORT_TEMPLATE)
    (etc / "domains/pool.xml").write_text(POOL_TEMPLATE)
    _root_disk(etc / "root.raw")
    (etc / "small.raw").write_bytes(b"raw" * 4096)
    (etc / "own.raw").write_bytes(b"own" * 4096)
    with tarfile.open(etc / "domains/site.tar", "w") as archive:
        member = tarfile.TarInfo("site/file")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"site\n"))


def start_daemons(more: Sequence[str | Path] = ()) -> set[int]:
    """libvirtd, and the guests that it does not have, which die with it; their process ids. `more`: options of lab.fakeguest."""
    daemon = start_libvirtd()
    with open(_SAID, "ab") as out:
        guests = subprocess.Popen(
            [sys.executable, "-m", "lab.fakeguest", "--uri", URI, "--share", place.SHARE, "--spool", SPOOL, "--network", "10.78",
             "--failing", FAILING, "--port", PORT, *more],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out, start_new_session=True, cwd=place.CLONE,
        )
    if guests.stdout is None or guests.stdout.readline() != b"up\n":
        raise RuntimeError(_SAID.read_text())
    guests.stdout.close()  # a worker's forks must not find it open in `guests`, which subprocess keeps
    return {daemon, guests.pid}


def _root_disk(path: Path) -> None:
    """A file system with what a guest of BusyBox's has."""
    tree = path.with_suffix(".tree")
    for name in ("etc/init.d", "sbin", "bin", "var/lib"):
        (tree / name).mkdir(parents=True)
    (tree / "bin/busybox").write_text("ELF")
    (tree / "sbin/init").symlink_to("/bin/busybox")
    (tree / "etc/inittab").write_text("::sysinit:/etc/init.d/rcS\n")
    (tree / "etc/init.d/rcS").write_text("#!/bin/sh\n")
    (tree / "etc/init.d/rcS").chmod(0o755)
    with path.open("wb") as file:
        file.truncate(8 << 20)
    run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tree, path])
    shutil.rmtree(tree)


def start_libvirtd() -> int:
    """The process, once it answers."""
    SOCKET.unlink(missing_ok=True)
    with open(_SAID, "ab") as out:
        daemon = subprocess.Popen(["libvirtd", "--timeout", "0", "--pid-file", _PID],
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    over = time.monotonic() + 30
    while not answers_at(SOCKET):
        if time.monotonic() > over or daemon.poll() is not None:
            raise TimeoutError(f"libvirtd does not answer (status {daemon.poll()}): {_SAID.read_text()}")
        time.sleep(0.01)
    return daemon.pid


def kill_libvirtd() -> int:
    """The process that was killed, and is gone: as long as it dies it has its lock, and another one cannot start."""
    daemon = libvirtd()
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    return daemon


def answers_at(path: Path) -> bool:
    """Whether somebody listens: between bind() and listen() the socket is there, and refuses."""
    with sockets.socket(sockets.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


def libvirtd() -> int:
    """Its process."""
    return int(_PID.read_text())


def serve_share() -> int:
    """From now on the share is on a server, which can be stopped: its process."""
    with open(_SAID, "ab") as out:
        server = subprocess.Popen(["bindfs", "-f", place.SHARE, place.SHARE], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                  start_new_session=True)
    over = time.monotonic() + 30
    while f" {place.SHARE} fuse" not in Path("/proc/self/mounts").read_text():
        if time.monotonic() > over:
            raise TimeoutError(_SAID.read_text())
        time.sleep(0.01)
    return server.pid


def unserve_share() -> None:
    """The server ends, and the share is as before."""
    run(["umount", "--lazy", place.SHARE])


def _without_drivers() -> None:
    """The test driver is part of libvirt itself; the others only take time to start."""
    for directory in Path("/usr/lib").glob("*/libvirt/connection-driver"):
        run(["mount", "-t", "tmpfs", "none", directory])


def daemons() -> set[int]:
    """The processes that belong to the node: this one, and all there are before the first hook."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}
