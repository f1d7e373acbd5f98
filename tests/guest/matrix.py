"""Templates for the context matrix: each guest of the lab, prepared in each way, with DHCP or a static address."""

from pathlib import Path

from lab.domain import QUICK

from .disks import DOMAINS

KEY = "/etc/vmbatch/rootssh/id_ed25519"
POOL = "first='10.77.0.20' count='20' prefix='24' gateway='10.77.0.1'"
PATIENCE = "systemd.default_timeout_start_sec=600"
"""systemd's own is 90 s, which may be too short for an emulated guest to find its disks in, beside other guests."""
GUESTS = {
    "busybox": ("bare", "disk.raw", "root=/dev/vda1 rw", 192),
    "sysv": ("sysv", "disk.raw", "root=/dev/vda1 rw", 256),
    "systemd": ("debian", "disk.raw", "root=/dev/vda1 rw", 512),
    "stock": ("stock", "disk.raw", "root=/dev/vda1 ro", 512),
}
"""Of each: the lab's guest, its disk, the kernel line, memory in MiB.

All have one processor: with several, QEMU 7.2 that emulates can die of SIGSEGV while its guest boots, in
memory_region_dispatch_write: one of them changes what is where while another writes to a device (softmmu/physmem.c, tcg_commit).
"""
WITH_KIT = {"busybox": ("busybox", "disk.raw"), "sysv": ("sysv", "kit.raw"), "systemd": ("debian", "disk.raw")}
"""Guests in which the product's kit is installed, as CDROM needs it, and an address before anybody can come by ssh."""


def directory(guest: str) -> Path:
    """Where the node has the images of a guest of the lab."""
    return Path(dict(line.split() for line in Path("/etc/vmbatch/guests").read_text().splitlines())[guest])


def template(guest: str, method: str, network: str, *, medium: str = "", root_key: str = "", config: str = "") -> str:
    """The domain; `medium` are further attributes of <vbpreparecdrom>, `config` further tags in <vbconfig>."""
    name, disk, line, memory = GUESTS[guest]
    early = method == "ROOTSSH" and network == "static"
    if guest in WITH_KIT and (method == "CDROM" or early):
        name, disk = WITH_KIT[guest]
    images = directory(name)
    rootssh = f"<vbrootssh key='{KEY}' firstuse='yes' give='{'image' if root_key else 'credential'}'/>"
    layout = "<vbdisks><vbdisk name='rootdisk' dev='vda' partition='vda1'/></vbdisks>"
    cd = f"""<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><vbpreparecdrom source='context.iso' {medium}/>
      <target dev='vdb' bus='virtio'/><readonly/>
    </disk>"""
    return f"""<domain type='qemu'>
  <name>{guest}</name>
  <vbconfig>
    <vbpreparemethod>{method}</vbpreparemethod>
    <vbhypervisor>QEMU</vbhypervisor>
    <vbtarfiles><vbtarfile tarfile='matrix.tar' path='/opt/matrix'/></vbtarfiles>
    {rootssh if method == "ROOTSSH" else ""}{"<vbkernelline>yes</vbkernelline>" if early else ""}{config}
  </vbconfig>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{images}/vmlinux</kernel>
    <initrd>{images}/initrd.cpio</initrd>
    <cmdline>{QUICK} {PATIENCE} {line} {f"lab.rootkey={root_key}" if root_key else ""}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>
  <clock offset='utc'/>
  <devices>
    {layout if method == "DISK" else ""}
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='unsafe'/>
      <vbdisksource source='{images}/{disk}' copy_method='cow'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    {cd if method == "CDROM" else ""}
    <interface type='network'>
      <vbnetwork method='{network}' {POOL if network == "static" else ""}/>
      <source network='lab'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='pty'/>
    <memballoon model='none'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""


def write(name: str, text: str) -> None:
    """Puts a template where the node's configuration looks for it."""
    (DOMAINS / f"{name}.xml").write_text(text)
