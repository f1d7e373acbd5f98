"""What a template's lines cost a guest's start: `python -m bench.lean [ROUNDS [CASE...]]`, as Markdown on stdout. Needs root.

Each case is a bare domain of the lab's with one thing changed. In each round it is started beside the same domain without that
change: from libvirt's create to the last line of the guest's boot on its console. What is reported is the difference, in seconds
that pass and in seconds of QEMU's own processor time; other work on the machine disturbs the latter less, but waiting is in the
former alone. By names of cases only these are measured.
"""

import contextlib
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import libvirt

from lab import __main__ as lab
from lab import guest, node, place
from lab.boot import LAST
from lab.cache import built
from lab.domain import QUICK, Parts, domain
from lab.image import MIB, partitioned_ext4
from lab.package import fetch, resolve, unpack
from lab.process import run
from vmbatch.disk.duplicate import Duplicate
from vmbatch.resource import Work
from vmbatch.units import Deadline

_SECONDS = 120.0
_SHARING = 3
_HERE = place.CLONE / "lab"
_ENDS = {"busybox": re.compile(rb"guest: \S+ devices"), "stock": re.compile(rb"Reached target .*multi-user\.target")}
"""Where a start is over. Whatever is measured with the small guest comes before that: what follows is the same."""
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "systemd-tmpfiles-clean.timer", "getty.target", "getty@tty1.service", "serial-getty@ttyS0.service",
    "systemd-logind.service", "polkit.service", "systemd-timesyncd.service", "systemd-random-seed.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-journal-flush.service",
    "systemd-pstore.service", "kmod-static-nodes.service", "systemd-modules-load.service", "systemd-sysusers.service",
    "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "dev-mqueue.mount",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
)
"""What a job's guest does without, of what Debian's cloud image starts."""
_TICKS = os.sysconf("SC_CLK_TCK")
_MEMORY_MIB = {"busybox": 192, "debian": 512, "stock": 768}
Change = Callable[[Element], None]


def _nothing(_root: Element) -> None:
    pass


class Case(NamedTuple):
    """A thing in a template: on top of `base`, which both starts of a round have, `change` is what is measured."""

    guest: str
    change: Change
    base: Change = _nothing


class Start(NamedTuple):
    """Seconds from create to the end of the guest's boot, and QEMU's processor time until then."""

    passed: float
    used: float


# Changes


def devices(root: Element) -> Element:
    """The domain's <devices>."""
    return _find(root, "devices")


def _element(text: str) -> Element:
    return ElementTree.fromstring(text)  # noqa: S314 (ours)


def _find(root: Element, path: str) -> Element:
    found = root.find(path)
    if found is None:
        raise LookupError(path)
    return found


def _line(old: str, new: str) -> Change:
    """Another kernel line."""
    def change(root: Element) -> None:
        line = _find(root, "os/cmdline")
        text = f" {line.text} "
        if f" {old} " not in text:
            raise LookupError(old)
        line.text = text.replace(f" {old} ", f" {new} " if new else " ").strip()

    return change


def _more(words: str) -> Change:
    """More on the kernel line."""
    def change(root: Element) -> None:
        line = _find(root, "os/cmdline")
        line.text = f"{line.text} {words}"

    return change


def _less(words: str) -> Change:
    """A kernel line without the words that begin so."""
    def change(root: Element) -> None:
        line = _find(root, "os/cmdline")
        line.text = " ".join(word for word in (line.text or "").split() if not word.startswith(words))

    return change


def _add(parent: str, fragment: str) -> Change:
    def change(root: Element) -> None:
        (root if parent == "." else _find(root, parent)).append(_element(fragment))

    return change


def _drop(parent: str, tag: str) -> Change:
    def change(root: Element) -> None:
        _find(root, parent).remove(_find(root, f"{parent}/{tag}"))

    return change


def _set(path: str, **attributes: str) -> Change:
    def change(root: Element) -> None:
        for name, value in attributes.items():
            _find(root, path).set(name, value)

    return change


def _text(path: str, text: str) -> Change:
    def change(root: Element) -> None:
        _find(root, path).text = text

    return change


def _all(*changes: Change) -> Change:
    def change(root: Element) -> None:
        for each in changes:
            each(root)

    return change


_ONE_GIB = _text("memory", "1024")


def _disk(bus: str, target: str, device: str = "cdrom") -> Change:
    """The medium as another device."""
    def change(root: Element) -> None:
        for disk in root.findall("devices/disk"):
            where = _find(disk, "target")
            if where.get("dev") == "vdz":
                disk.set("device", device)
                where.set("dev", target)
                where.set("bus", bus)

    return change


def _packed(root: Element) -> None:
    """Debian's kernel as it comes, which unpacks itself."""
    _find(root, "os/kernel").text = str(_parts() / "vmlinuz")


def _own_boot(root: Element) -> None:
    """By SeaBIOS and GRUB, which waits for nobody, from a disk with the same kernel and initial memory disk."""
    system = _find(root, "os")
    for tag in ("kernel", "initrd", "cmdline"):
        system.remove(_find(system, tag))
    SubElement(system, "boot", dev="hd")
    disk = _element("<disk type='file' device='disk'><driver name='qemu' type='raw'/><target dev='vda' bus='virtio'/>"
                    "<readonly/></disk>")
    SubElement(disk, "source", file=str(_parts() / "grub.raw"))
    devices(root).insert(0, disk)


def _first(device: str) -> Change:
    """What the firmware tries first."""
    def change(root: Element) -> None:
        _find(root, "os").insert(1, Element("boot", dev=device))

    return change


def _uefi(root: Element) -> None:
    system = _find(root, "os")
    SubElement(system, "loader", readonly="yes", type="pflash").text = str(_parts() / "OVMF_CODE_4M.fd")
    SubElement(system, "nvram", template=str(_parts() / "OVMF_VARS_4M.fd")).text = "/var/lib/libvirt/qemu/nvram/lean.fd"


_UNSAFE = _set("devices/disk/driver", cache="unsafe")
_VNC = "<graphics type='vnc'><listen type='none'/></graphics>"
CASES = {
    # the kernel's line
    "no-quiet": Case("busybox", _line("quiet", "")),
    "no-quiet-debian": Case("debian", _line("quiet", "")),
    "debug": Case("debian", _line("quiet", "debug ignore_loglevel")),
    # firmware
    "boot-menu": Case("busybox", _add("os", "<bootmenu enable='yes'/>")),
    "rom": Case("busybox", _drop("devices/interface", "rom")),
    "packed-kernel": Case("busybox", _packed),
    "boot-loader": Case("busybox", _own_boot, _packed),
    "network-boot": Case("busybox", _all(_drop("devices/interface", "rom"), _first("network")), _all(_packed, _own_boot)),
    "uefi": Case("busybox", _uefi, _packed),
    # devices
    "usb": Case("busybox", _drop("devices", "controller")),
    "graphics": Case("busybox", _add("devices", _VNC)),
    "sound": Case("busybox", _add("devices", "<sound model='ich9'/>")),
    "balloon": Case("busybox", _drop("devices", "memballoon")),
    "no-rng": Case("debian", _drop("devices", "rng")),
    # machine, processor, memory
    "pc": Case("busybox", _set("os/type", machine="pc")),
    "cpu-default": Case("busybox", _drop(".", "cpu")),
    "memory-immediate": Case("busybox", _add(".", "<memoryBacking><allocation mode='immediate'/></memoryBacking>"), _ONE_GIB),
    "memory-locked": Case("busybox", _add(".", "<memoryBacking><locked/></memoryBacking>"), _ONE_GIB),
    # disks
    "medium-scsi": Case("busybox", _all(_disk("scsi", "sda"), _add("devices", "<controller type='scsi' model='virtio-scsi'/>"))),
    "medium-ide": Case("busybox", _disk("ide", "hda"), _set("os/type", machine="pc")),
    "cache-none": Case("debian", _set("devices/disk/driver", cache="none"), _UNSAFE),
    "cache-writeback": Case("debian", _set("devices/disk/driver", cache="writeback"), _UNSAFE),
    "cache-writethrough": Case("debian", _set("devices/disk/driver", cache="writethrough"), _UNSAFE),
    "cache-directsync": Case("debian", _set("devices/disk/driver", cache="directsync"), _UNSAFE),
    # the image: Debian's for clouds, with its own disk and a kernel of the node
    "services": Case("stock", _all(_less("systemd.mask="), _more("systemd.mask=ssh.service")),
                     _more(" ".join(["systemd.show_status=1", *(f"systemd.mask={unit}" for unit in ("ssh.service", *_MASKED))]))),
}

NETWORK = """<network><name>lean</name><bridge name='leanbr0' stp='off' delay='0'/><dns enable='no'/>
<ip address='10.79.0.1' netmask='255.255.255.0'><dhcp><range start='10.79.0.100' end='10.79.0.249'/></dhcp></ip></network>"""
"""As the lab's own, without dnsmasq's no-ping."""


# Parts


def _parts() -> Path:
    """Where the node has what `_build` makes: vmlinuz, grub.raw, OVMF."""
    return place.IMAGES / built("lean", [_HERE / "package.py", *guest.GUESTS["busybox"].inputs], _build).name


def _build(directory: Path) -> None:
    tree, tools = directory / "tree", directory / "tools"
    for name in ("bin", "sbin", "lib", "lib64"):  # /usr is merged
        (tools / "usr" / name).mkdir(parents=True)
        (tools / name).symlink_to(f"usr/{name}")
    unpack(fetch(resolve(["grub-common", "grub-pc-bin"])), tools)
    for names in (["ovmf"], ["linux-image-cloud-amd64"]):
        unpack(fetch(found for found in resolve(names) if found.name.startswith(("ovmf", "linux-image-6"))), tools)
    run(["chroot", tools, "grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", "/core.img",
         "biosdisk", "part_msdos", "ext2", "linux", "normal", "configfile"])
    (linux,) = (tools / "boot").glob("vmlinuz-*")
    (tree / "boot/grub").mkdir(parents=True)
    for target in (directory / "vmlinuz", tree / "boot/vmlinuz"):
        shutil.copy2(linux, target)
    shutil.copy2(guest.directory("busybox") / "guest.cpio", tree / "boot")
    (tree / "boot/grub/grub.cfg").write_text(f"linux /boot/vmlinuz {QUICK}\ninitrd /boot/guest.cpio\nboot\n")
    partitioned_ext4(tree, directory / "grub.raw", 96 * MIB)
    with open(directory / "grub.raw", "r+b") as disk:
        disk.write((tools / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440])
        disk.seek(512)
        disk.write((tools / "core.img").read_bytes())
    for name in ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"):
        shutil.copy2(tools / "usr/share/OVMF" / name, directory)
    for image in directory.glob("*.*"):
        image.chmod(0o444)
    shutil.rmtree(tree)
    shutil.rmtree(tools)


# Starts


class Bench:
    """Guests of the lab's, one at a time."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.libvirt = libvirt.open("qemu:///system")
        self.medium = work / "medium.raw"
        self.medium.write_bytes(bytes(1 << 20))
        self.medium.chmod(0o644)

    def start(self, case: Case, change: Change) -> Start:
        """One start of the case's guest with this change."""
        images = place.IMAGES / guest.directory(case.guest).name
        name = f"lean-{os.getpid()}"
        disk = None
        if not (images / "guest.cpio").exists():
            disk = self.work / "disk.qcow2"
            disk.unlink(missing_ok=True)
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", images / "disk.raw", "-F", "raw", disk])
        console = Path("/var/log/libvirt") / f"{name}.console"
        console.unlink(missing_ok=True)
        root = _element(domain(name, _MEMORY_MIB[case.guest], Parts(images, disk, self.medium, console, "")))
        case.base(root)
        change(root)
        begin = time.monotonic()
        running = self.libvirt.createXML(ElementTree.tostring(root, encoding="unicode"))
        try:
            wait(console, _ENDS.get(case.guest, LAST), begin)
            passed = time.monotonic() - begin
            return Start(passed, _used(int(Path(f"/run/libvirt/qemu/{name}.pid").read_text())))
        finally:
            running.destroy()


def wait(console: Path, end: re.Pattern[bytes], begin: float) -> None:
    """Until the guest has come so far."""
    while time.monotonic() - begin < _SECONDS:
        if console.exists() and end.search(console.read_bytes()):
            return
        time.sleep(0.005)
    raise TimeoutError(console.read_text(errors="replace")[-2000:])


def _used(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """With a network more."""
    with tempfile.TemporaryDirectory(prefix="vmbatch-lean-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        found = Bench(Path(name))
        network = found.libvirt.networkCreateXML(NETWORK)
        try:
            yield found
        finally:
            network.destroy()


def measure(names: list[str], rounds: int) -> dict[str, list[tuple[Start, Start]]]:
    """Pairs of each case: without and with it. Up to three cases of the same guest and base share the start without."""
    alike: dict[tuple[str, Change], list[str]] = {}
    for name in names:
        alike.setdefault((CASES[name].guest, CASES[name].base), []).append(name)
    blocks = [block[at:at + _SHARING] for block in alike.values() for at in range(0, len(block), _SHARING)]
    found: dict[str, list[tuple[Start, Start]]] = {name: [] for name in names}
    with bench() as machine:
        for number in range(rounds):
            for block in blocks:
                without = machine.start(CASES[block[0]], _nothing)
                for at in range(len(block)):
                    name = block[(at + number) % len(block)]
                    pair = without, machine.start(CASES[name], CASES[name].change)
                    found[name].append(pair)
                    said = " and ".join(f"{start.passed:.2f} s, {start.used:.2f} s of the processor" for start in pair)
                    print(f"round {number + 1}, without and with {name}: {said}", file=sys.stderr)
    return found


def addresses(rounds: int) -> dict[str, list[float]]:
    """Seconds until the DHCP of libvirt's networks has given an address to a MAC that it has not seen."""
    found: dict[str, list[float]] = {"labbr0": [], "leanbr0": []}
    with bench():
        for bridge, seconds in [*found.items()] * rounds:
            run(["ip", "link", "add", "lean0", "type", "veth", "peer", "name", "lean1"])
            try:
                run(["ip", "link", "set", "lean0", "master", bridge, "up"])
                run(["ip", "link", "set", "lean1", "up"])
                begin = time.monotonic()
                run(["busybox", "udhcpc", "-i", "lean1", "-n", "-q", "-f", "-t", "20", "-T", "1", "-s", "/bin/true"])
                seconds.append(time.monotonic() - begin)
            finally:
                run(["ip", "link", "delete", "lean0"])
    return found


def copies(rounds: int) -> list[float]:
    """Seconds for a full copy of 1 GiB without holes, where jobs have their disks."""
    with tempfile.TemporaryDirectory(dir="/var/lib/vmbatch") as name:
        image, copy = f"{name}/image", f"{name}/copy"
        with open(image, "wb") as file:
            for _ in range(1024):
                file.write(os.urandom(MIB))
        found = []
        for _ in range(rounds):
            begin = time.monotonic()
            Duplicate(image, copy).make(Work(Deadline(1e6), lambda: None, lambda _line: None))
            found.append(time.monotonic() - begin)
            os.unlink(copy)
        return found


def show(found: dict[str, list[tuple[Start, Start]]]) -> str:
    """Markdown."""
    lines = ["| case | without it, s | more with it, s: median | middle half | least | of QEMU's processor, s: median | least |",
             "|---|---|---|---|---|---|---|"]
    for name, pairs in found.items():
        more = sorted(after.passed - before.passed for before, after in pairs)
        quarter = len(more) // 4
        used = statistics.median(after.used - before.used for before, after in pairs)
        without, with_it = ([start.passed for start in starts] for starts in zip(*pairs, strict=True))
        least = min(with_it) - min(without)
        least_used = min(after.used for _, after in pairs) - min(before.used for before, _ in pairs)
        lines.append(f"| {name} | {statistics.median(without):.2f} | {statistics.median(more):+.2f} | "
                     f"{more[quarter]:+.2f} to {more[-1 - quarter]:+.2f} | {least:+.2f} | {used:+.2f} | {least_used:+.2f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Prints the report."""
    rounds, names = int(arguments[0]) if arguments else 5, arguments[1:] or [*CASES, "address", "copy"]
    if not node.inside():
        _parts()  # the node has no way to Debian's packages
        lab.execute([sys.executable, "-m", "bench.lean", *arguments])
    print(show(measure([name for name in names if name in CASES], rounds)))
    if "address" in names:
        found = addresses(rounds)
        print(f"An address by DHCP: {statistics.median(found['labbr0']):.2f} s, and without no-ping "
              f"{statistics.median(found['leanbr0']):.2f} s.\n")
    if "copy" in names:
        print(f"A full copy of 1 GiB: {statistics.median(copies(rounds)):.1f} s.\n")


if __name__ == "__main__":
    main(sys.argv[1:])
