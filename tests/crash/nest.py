"""A worker's own node inside the lab's: its files, network, libvirtd with the test driver, and guests that are played.

`enter` must be called in new mount, network and pid namespaces; all that it makes ends with them.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from lab import place
from lab.process import run

URI = "test+unix:///default?socket=/run/libvirt/libvirt-sock"
QUEUE = "crash"
OWN = "vbuserimage=/etc/vmbatch/own.raw"
"""What a job may ask for."""
FAILING = "bob"
"""The user whose guests fail."""
CONFIG = f"""[queues]
{QUEUE} = "crash.xml"
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
[torque]
pause = "0s"
"""
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

HELD = f"""#!{place.ENVIRONMENT}/bin/python3 -IS
import sys
sys.path.insert(0, {str(place.CLONE)!r})
from tests.crash.held import main
main()
"""
MUTANT = f"""#!{place.ENVIRONMENT}/bin/python3 -I
import sys
sys.path.append({str(place.CLONE)!r})
from tests.crash.mutant import run
run("%s")
"""
ON_DISK = {"/var/lib/vmbatch": 0o711, str(place.SHARE): 0o711}
"""What a site has on a disk, whose directories list names in another order than a tmpfs does; with its mode."""
IN_MEMORY = {"/run/vmbatch": 0o711, "/run/libvirt": 0o755, "/var/lib/libvirt": 0o755, "/var/log/vmbatch": 0o750,
             "/etc/vmbatch": 0o755}
"""As a first job leaves them, so that the points of all jobs have the same numbers."""
SPOOL = Path("/var/lib/vmbatch/spool")


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
    run(["ip", "link", "set", "lo", "up"])
    run(["ip", "address", "add", "10.78.0.1/16", "dev", "lo"])  # makes the whole network local
    _start_daemons([] if socket is None else ["--socket", socket])


def _own_hooks() -> None:
    """A mom's home of our own, with the hooks as the lab has installed them."""
    copy = Path("/var/lib/libvirt/torque")
    shutil.copytree(place.MOM, copy, symlinks=True)
    run(["mount", "--bind", copy, place.MOM])
    (place.MOM / "spool").chmod(0o1777)


def hook(name: str, mutation: str = "") -> str:
    """The name in mom_priv of a hook, or a mutated one, that waits for its tracer."""
    mutated = f"{mutation}.{name}" if mutation else name
    if mutation:
        _script(mutated, MUTANT % mutation)
    _script(f"held.{mutated}", HELD)
    return f"held.{mutated}"


def mutated(name: str, mutation: str) -> str:
    """The name of a mutated hook that does not wait."""
    return hook(name, mutation).removeprefix("held.")


def _script(name: str, text: str) -> None:
    path = place.MOM / "mom_priv" / name
    if not path.exists():
        path.write_text(text)
        path.chmod(0o755)


def _populate(etc: Path, config: str) -> None:
    (etc / "domains").mkdir()
    (etc / "vmbatch.conf").write_text(config)
    (etc / "domains/crash.xml").write_text(TEMPLATE)
    (etc / "small.raw").write_bytes(b"raw" * 4096)
    (etc / "own.raw").write_bytes(b"own" * 4096)
    with tarfile.open(etc / "domains/site.tar", "w") as archive:
        member = tarfile.TarInfo("site/file")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"site\n"))


def _start_daemons(more: list[str | Path]) -> None:
    _without_drivers()
    with open("/var/log/vmbatch/.daemons", "wb") as out:
        subprocess.Popen(["libvirtd", "--timeout", "0", "--pid-file", "/run/libvirt/crash.pid"],
                         stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        over = time.monotonic() + 30
        while not Path("/run/libvirt/libvirt-sock").is_socket():
            if time.monotonic() > over:
                raise TimeoutError("libvirtd does not answer")
            time.sleep(0.01)
        guests = subprocess.Popen(
            [sys.executable, "-m", "lab.fakeguest", "--uri", URI, "--share", place.SHARE, "--spool", SPOOL, "--network", "10.78",
             "--failing", FAILING, *more],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out, start_new_session=True, cwd=place.CLONE,
        )
    if guests.stdout is None or guests.stdout.readline() != b"up\n":
        raise RuntimeError(Path("/var/log/vmbatch/.daemons").read_text())
    guests.stdout.close()  # a worker's forks must not find it open in `guests`, which subprocess keeps


def _without_drivers() -> None:
    """The test driver is part of libvirt itself; the others only take time to start."""
    for directory in Path("/usr/lib").glob("*/libvirt/connection-driver"):
        run(["mount", "-t", "tmpfs", "none", directory])


def daemons() -> set[int]:
    """The processes that belong to the node: this one, and all there are before the first hook."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}
