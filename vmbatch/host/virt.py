"""libvirt: transient domains, made, found and looked at."""

import contextlib
import functools
import os
import re
import threading
from collections.abc import Sequence

import libvirt

from ..errors import DeadlineError, NodeError
from ..units import Deadline
from . import libvirtd, process

_OWNER = "urn:vmbatch:job:1"
_MISSING = (libvirt.VIR_ERR_NO_DOMAIN,)
RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_NOSTATE)
_PIDS = {
    "qemu:///system": "/run/libvirt/qemu",
    "qemu:///session": "$XDG_RUNTIME_DIR/libvirt/qemu/run",
}
"""Where libvirtd has the guests' pid files (src/qemu/qemu_conf.c, virQEMUDriverConfigNew)."""
_START_SECONDS = 600.0
"""A guest's memory may be taken before it starts."""
_PAUSE_SECONDS = 0.02
_PIECE_BYTES = 4096


def create(uri: str, xml: str, *, paused: bool = False) -> None:
    """Starts a transient domain, or only lays it out. NodeError with libvirt's reason; DeadlineError, and it may still come."""
    over = process.patience(_START_SECONDS)
    connection = libvirtd.connect(uri, over.earlier(libvirtd.ANSWER_SECONDS))
    try:
        libvirtd.within(over, lambda: connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not start the guest: {error}", code="VB702") from None


def restore(uri: str, pipe: str, head: bytes, memory: int, offset: int) -> None:
    """Makes a transient domain, paused, of a saved one: `head`, and what the open file `memory` has from `offset` on.

    libvirt is given it through the named pipe at `pipe`, which is made, so that nothing is copied to a disk. NodeError,
    DeadlineError.
    """
    from . import feed

    over = process.patience(_START_SECONDS)
    connection = libvirtd.connect(uri, over.earlier(libvirtd.ANSWER_SECONDS))
    os.mkfifo(pipe, 0o600)
    feeding = feed.Feed(pipe, head, memory, offset)
    try:
        libvirtd.within(over, lambda: connection.restoreFlags(pipe, None, libvirt.VIR_DOMAIN_SAVE_PAUSED))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not restore the guest: {error}", code="VB714") from None
    finally:
        feeding.close()
        feed.remove(pipe)


def complete(uri: str, uuid: str, devices: Sequence[str]) -> None:
    """Gives a paused domain these devices, and has it go on. NodeError."""
    domain = find(uri, uuid)
    if domain is None:
        raise NodeError("the guest has ended", code="VB714")
    try:
        for xml in devices:
            libvirtd.ask(functools.partial(domain.attachDeviceFlags, xml, libvirt.VIR_DOMAIN_AFFECT_LIVE))
        libvirtd.ask(domain.resume)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not let the restored guest go on: {error}", code="VB714") from None


def laid_out(uri: str, uuid: str) -> str:
    """The XML of a running domain as libvirt has laid it out, without what is of this run alone. NodeError."""
    domain = find(uri, uuid)
    if domain is None:
        raise NodeError("the guest has ended", code="VB714")
    try:
        return str(libvirtd.ask(lambda: domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt does not describe the guest: {error}", code="VB703") from None


def detach(uri: str, uuid: str, device: str, target: str, over: Deadline) -> None:
    """Takes the disk `target` away from a running domain, and waits until the guest has let it go. NodeError, DeadlineError."""
    domain = find(uri, uuid)
    try:
        if domain is None:
            raise NodeError("the guest has ended", code="VB714")
        libvirtd.ask(lambda: domain.detachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE))
        while f"dev='{target}'" in running_xml(uri, uuid):
            if over.passed():
                raise DeadlineError(f"the guest does not let its disk {target} go",
                                    "its kernel must be able to lose a disk as it runs: hot-plug by ACPI or PCI Express",
                                    code="VB714")
            process.alive()
            threading.Event().wait(_PAUSE_SECONDS)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not take the disk {target} away: {error}", code="VB714") from None


def save(uri: str, uuid: str, path: str) -> None:
    """Writes a running domain's state to a new file, and ends it. NodeError, DeadlineError."""
    domain = find(uri, uuid)
    try:
        if domain is None:
            raise NodeError("the guest has ended", code="VB714")
        libvirtd.within(process.patience(_START_SECONDS), lambda: domain.saveFlags(path, None, 0))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not save the guest: {error}", code="VB714") from None


def find(uri: str, uuid: str, over: Deadline | None = None) -> "libvirt.virDomain | None":
    """The domain with this uuid, or None. NodeError if libvirt cannot say, DeadlineError if it does not."""
    over = over or process.patience(libvirtd.ANSWER_SECONDS)
    connection = libvirtd.connect(uri, over)
    try:
        return libvirtd.within(over, lambda: connection.lookupByUUIDString(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _MISSING:
            return None
        raise NodeError(f"libvirt at {uri} does not answer: {error}", code="VB701") from None


def owner(domain: "libvirt.virDomain", over: Deadline | None = None) -> str | None:
    """The token of the start that made a domain; None if it is not one of ours, or gone. NodeError if libvirt cannot say.

    '' for a transient domain that is just being started: libvirt's driver for Xen shows it, but not yet what it is.
    """
    try:
        text = libvirtd.within(over or process.patience(libvirtd.ANSWER_SECONDS),
                               lambda: domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, _OWNER, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, *_MISSING):
            return None
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return ""
        raise NodeError(f"libvirt does not say whose a domain is: {error}", code="VB703") from None
    match = re.search(r"\btoken=[\"']([0-9a-f]{32})[\"']", text)
    return match[1] if match else None


def running_xml(uri: str, uuid: str) -> str:
    """The XML of a running domain, with the devices that libvirt gave it. NodeError."""
    domain = find(uri, uuid)
    try:
        if domain is not None:
            return str(libvirtd.ask(domain.XMLDesc))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt does not describe the guest: {error}", code="VB703") from None
    raise NodeError("the guest has ended", code="VB706")


def number(domain: "libvirt.virDomain") -> int:
    """The hypervisor's number for a running domain, -1 if it has ended."""
    try:
        return int(domain.ID())  # asks nobody
    except libvirt.libvirtError:
        return -1


def suspend(domain: "libvirt.virDomain") -> None:
    """Pauses a running domain; QEMU flushes its disks then (softmmu/cpus.c, do_vm_stop). NodeError."""
    try:
        libvirtd.ask(domain.suspend)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not pause the guest: {error}", code="VB703") from None


def state(uri: str, uuid: str) -> str | None:
    """`running`, or in a word why not: `gone`, `crashed`, `paused`; None where libvirt cannot say now."""
    try:
        domain = find(uri, uuid)
        if domain is None:
            return "gone"
        number, _reason = libvirtd.ask(domain.state)
    except (NodeError, libvirt.libvirtError):
        return None
    if number in RUNNING:
        return "running"
    return {libvirt.VIR_DOMAIN_CRASHED: "crashed", libvirt.VIR_DOMAIN_PAUSED: "paused"}.get(number, "shut off")


def pid_of(uri: str, name: str, uuid: str) -> int | None:
    """The process of QEMU's that runs a guest, by the file that libvirtd has of it; None where that is not known.

    libvirt does not say it otherwise (src/qemu/qemu_process.c, qemuProcessPrepareHost; the file's name is NAME.pid).
    """
    if uri not in _PIDS:
        return None
    try:
        with open(os.path.expandvars(f"{_PIDS[uri]}/{name}.pid"), "rb") as file:
            pid = int(file.read(20))
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return pid if uuid.encode() in file.read() else None
    except (OSError, ValueError):
        return None


def forward(uri: str, uuid: str, interface: int) -> int:
    """The port of 127.0.0.1 that leads, through QEMU's user network at this interface, to the guest's sshd. NodeError.

    libvirt calls the network hostnetN (src/qemu/qemu_command.c); QEMU takes a free port itself for 0, and says which
    (hmp-commands.hx, hostfwd_add; net/slirp.c).
    """
    import libvirt_qemu

    domain = find(uri, uuid)
    if domain is None:
        raise NodeError("the guest has ended", code="VB706")

    def say(command: str) -> str:
        return str(libvirtd.ask(lambda: libvirt_qemu.qemuMonitorCommand(domain, command,
                                                                        libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)))

    try:
        refused = say(f"hostfwd_add hostnet{interface} tcp:127.0.0.1:0-:22").strip()
        known = say("info usernet")
    except libvirt.libvirtError as error:
        refused, known = str(error), ""
    found = re.search(r"TCP\[HOST_FORWARD\]\s+[0-9]+\s+127\.0\.0\.1\s+([0-9]+)\s+\S+\s+22\s", known)
    if refused or found is None:
        raise NodeError(f"QEMU does not open a way to the guest's sshd: {refused or 'it names no port'}",
                        "<interface type='user'> takes QEMU's own user network, without a <backend>", code="VB703")
    return int(found[1])


def ours(uri: str) -> list[tuple[str, str, str]]:
    """(name, uuid, token) of every domain that carries our mark. NodeError."""
    connection = libvirtd.connect(uri)
    try:
        domains = libvirtd.ask(connection.listAllDomains)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt at {uri} does not answer: {error}", code="VB701") from None
    found = []
    for domain in domains:
        token = owner(domain)
        if token:
            found.append((str(domain.name()), str(domain.UUIDString()), token))
    return found


class Console:
    """The first console of a running guest, for reading and writing, until it is left; nobody else has it meanwhile.

    `descriptor` is readable when there is something to `read`, and when the guest has ended, so that the console is `over`.
    """

    def __init__(self, uri: str, uuid: str) -> None:
        """NodeError."""
        domain = find(uri, uuid)
        if domain is None:
            raise NodeError("the guest has ended", code="VB703")
        self.over = False
        self.descriptor, self._sink = os.pipe2(os.O_CLOEXEC)
        self._stream = libvirtd.connect(uri).newStream(0)
        try:
            libvirtd.ask(lambda: domain.openConsole(None, self._stream, libvirt.VIR_DOMAIN_CONSOLE_SAFE))
        except libvirt.libvirtError as error:
            os.close(self.descriptor)
            os.close(self._sink)
            raise NodeError(f"libvirt does not open the guest's console: {error}",
                            "somebody else may have it open, such as virsh console", code="VB703") from None
        threading.Thread(target=self._copy, name="console", daemon=True).start()

    def __enter__(self) -> "Console":
        return self

    def _copy(self) -> None:
        with contextlib.suppress(libvirt.libvirtError, OSError):
            while data := self._stream.recv(_PIECE_BYTES):
                os.write(self._sink, data)
        self.over = True
        with contextlib.suppress(OSError):
            os.close(self._sink)

    def read(self) -> bytes:
        """What there is; waits if there is nothing."""
        return os.read(self.descriptor, _PIECE_BYTES)

    def write(self, data: bytes) -> None:
        """Types into it. NodeError."""
        try:
            while data:
                data = data[self._stream.send(data):]
        except libvirt.libvirtError as error:
            raise NodeError(f"the guest's console takes nothing more: {error}", code="VB703") from None

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._stream.abort()
        os.close(self.descriptor)
