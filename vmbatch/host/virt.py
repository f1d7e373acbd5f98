"""libvirt: connections, transient domains, their events. Nothing here waits longer for libvirtd than it may."""

import contextlib
import functools
import os
import re
import select
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import libvirt

from ..errors import DeadlineError, NodeError, VmBatchError
from ..units import Deadline
from . import process

T = TypeVar("T")
_OWNER = "urn:vmbatch:job:1"
_MISSING = (libvirt.VIR_ERR_NO_DOMAIN,)
_RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_NOSTATE)
_PAUSES = {
    libvirt.VIR_DOMAIN_PAUSED_USER: " by somebody on the node",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: " by an I/O error of the node",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: " by its watchdog, as it had hung",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: ", as its kernel has died",
}
_ENDS = {
    "shutdown": "it was shut down from inside",
    "crashed": "it or its QEMU has crashed, or its watchdog has fired",
}
_STATES = {
    "qemu:///system": ("/run/libvirt/qemu", "/var/log/libvirt/qemu"),
    "qemu:///session": ("$XDG_RUNTIME_DIR/libvirt/qemu/run", "~/.cache/libvirt/qemu/log"),
}
"""Where libvirtd has the guests' pid files and logs (src/qemu/qemu_conf.c, virQEMUDriverConfigNew)."""
_TAIL_BYTES = 4096
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 30.0
"""As long libvirt itself waits for a guest that another request holds (qemu_domainjob.c, QEMU_JOB_WAIT_TIME)."""
_LOOK_AT_QEMU_SECONDS = 0.004
_START_SECONDS = 600.0
"""A guest's memory may be taken before it starts."""
_ALIVE_SECONDS = 0.2
_PAUSE_SECONDS = 0.02
_HINT = "is libvirtd running on this node?"
_connections: dict[str, "libvirt.virConnect"] = {}
_heard: dict[str, "libvirt.virConnect"] = {}
"""Those whose events are listened to."""
_listeners: list[Callable[[], None]] = []


class _Request(Generic[T]):
    """A question to libvirtd, asked in a thread of its own.

    libvirt's keep-alive bounds neither the opening of a connection nor a request that goes on. Who gives up leaves the thread,
    and the connection, to the end of the process.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._said: list[T] = []
        self._wrong: list[BaseException] = []
        self.done = threading.Event()
        threading.Thread(target=self._work, name="libvirt request", daemon=True).start()

    def _work(self) -> None:
        try:
            self._said.append(self._ask())
        except BaseException as error:
            self._wrong.append(error)
        self.done.set()

    def check(self, over: Deadline) -> None:
        """DeadlineError if libvirtd does not answer in time; asks `process.alive`."""
        try:
            process.alive()
            if over.passed():
                raise DeadlineError("libvirtd did not answer in time", "does virsh list answer on this node?", code="VB701")
        except VmBatchError:
            _connections.clear()
            raise

    def answer(self, over: Deadline) -> T:
        """What `ask` returns or raises. As `check`."""
        while not self.done.wait(min(_ALIVE_SECONDS, over.left())):
            self.check(over)
        if self._wrong:
            raise self._wrong[0]
        return self._said[0]


def within(over: Deadline, ask: Callable[[], T]) -> T:
    """What `ask` returns or raises; DeadlineError if libvirtd does not answer in time; meanwhile asks `process.alive`."""
    return _Request(ask).answer(over)


_ending: dict[str, _Request[object]] = {}
"""By the domain's uuid."""


@functools.cache
def _events() -> None:
    """Starts the thread that delivers events; before the first connection, as libvirt asks."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def deliver() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=deliver, name="libvirt events", daemon=True).start()


def ask(question: Callable[[], T]) -> T:
    """What libvirtd answers. DeadlineError, and what libvirt raises."""
    return within(process.patience(_ANSWER_SECONDS), question)


def connect(uri: str, over: Deadline | None = None) -> "libvirt.virConnect":
    """The connection of this process to a hypervisor, a new one if libvirtd has gone since. NodeError, DeadlineError."""
    known = _connections.get(uri)
    if known is None or not _is_alive(known):
        try:
            known = within(over or process.patience(_ANSWER_SECONDS), lambda: _open(uri))
        except libvirt.libvirtError as error:
            raise NodeError(f"libvirt at {uri} does not answer: {error}", _HINT, code="VB701") from None
        _connections[uri] = known
    return known


def _open(uri: str) -> "libvirt.virConnect":
    _events()
    connection = libvirt.open(uri)
    try:
        connection.setKeepAlive(5, 6)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
    return connection


def node_size(uri: str) -> tuple[int, int]:
    """(processors, bytes of memory) of the node; for Xen of the machine, not of its first domain. NodeError."""
    connection = connect(uri)
    try:
        _model, mebibytes, processors, *_ = ask(connection.getInfo)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt at {uri} does not answer: {error}", code="VB701") from None
    return int(processors), int(mebibytes) << 20


def versions(uri: str) -> tuple[str, str, str]:
    """(libvirt's version, the hypervisor's name, its version). NodeError."""
    connection = connect(uri)
    try:
        library, kind, hypervisor = ask(lambda: (connection.getLibVersion(), connection.getType(), connection.getVersion()))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt at {uri} does not answer: {error}", code="VB701") from None
    return _dotted(library), str(kind), _dotted(hypervisor)


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def capabilities(uri: str) -> str:
    """The XML of what the node and its hypervisor are. NodeError."""
    try:
        connection = connect(uri)
        return str(ask(connection.getCapabilities))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt at {uri} does not answer: {error}", code="VB701") from None


def domain_capabilities(uri: str, emulator: str | None, arch: str | None, machine: str | None, kind: str) -> str:
    """The XML of what domains of a type can have here. NodeError with libvirt's reason where there can be none."""
    connection = connect(uri)
    try:
        return str(ask(lambda: connection.getDomainCapabilities(emulator, arch, machine, kind, 0)))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt has no domains of type {kind}: {error}", code="VB702") from None


def answers(uri: str) -> bool:
    """Whether there is a connection of this process that works, as far as it has seen; asks nobody."""
    known = _connections.get(uri)
    return known is not None and _is_alive(known)


def _is_alive(connection: "libvirt.virConnect") -> bool:
    """As far as this process has seen; asks nobody."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def create(uri: str, xml: str, *, paused: bool = False) -> None:
    """Starts a transient domain, or only lays it out. NodeError with libvirt's reason; DeadlineError, and it may still come."""
    over = process.patience(_START_SECONDS)
    connection = connect(uri, over.earlier(_ANSWER_SECONDS))
    try:
        within(over, lambda: connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not start the guest: {error}", code="VB702") from None


def restore(uri: str, pipe: str, head: bytes, memory: int, offset: int) -> None:
    """Makes a transient domain, paused, of a saved one: `head`, and what the open file `memory` has from `offset` on.

    libvirt is given it through the named pipe at `pipe`, which is made, so that nothing is copied to a disk. NodeError,
    DeadlineError.
    """
    from . import feed

    over = process.patience(_START_SECONDS)
    connection = connect(uri, over.earlier(_ANSWER_SECONDS))
    os.mkfifo(pipe, 0o600)
    feeding = feed.Feed(pipe, head, memory, offset)
    try:
        within(over, lambda: connection.restoreFlags(pipe, None, libvirt.VIR_DOMAIN_SAVE_PAUSED))
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
            ask(functools.partial(domain.attachDeviceFlags, xml, libvirt.VIR_DOMAIN_AFFECT_LIVE))
        ask(domain.resume)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not let the restored guest go on: {error}", code="VB714") from None


def laid_out(uri: str, uuid: str) -> str:
    """The XML of a running domain as libvirt has laid it out, without what is of this run alone. NodeError."""
    domain = find(uri, uuid)
    if domain is None:
        raise NodeError("the guest has ended", code="VB714")
    try:
        return str(ask(lambda: domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt does not describe the guest: {error}", code="VB703") from None


def detach(uri: str, uuid: str, device: str, target: str, over: Deadline) -> None:
    """Takes the disk `target` away from a running domain, and waits until the guest has let it go. NodeError, DeadlineError."""
    domain = find(uri, uuid)
    try:
        if domain is None:
            raise NodeError("the guest has ended", code="VB714")
        ask(lambda: domain.detachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE))
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
        within(process.patience(_START_SECONDS), lambda: domain.saveFlags(path, None, 0))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not save the guest: {error}", code="VB714") from None


def find(uri: str, uuid: str, over: Deadline | None = None) -> "libvirt.virDomain | None":
    """The domain with this uuid, or None. NodeError if libvirt cannot say, DeadlineError if it does not."""
    over = over or process.patience(_ANSWER_SECONDS)
    connection = connect(uri, over)
    try:
        return within(over, lambda: connection.lookupByUUIDString(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _MISSING:
            return None
        raise NodeError(f"libvirt at {uri} does not answer: {error}", code="VB701") from None


def owner(domain: "libvirt.virDomain", over: Deadline | None = None) -> str | None:
    """The token of the start that made a domain; None if it is not one of ours, or gone. NodeError if libvirt cannot say.

    '' for a transient domain that is just being started: libvirt's driver for Xen shows it, but not yet what it is.
    """
    try:
        text = within(over or process.patience(_ANSWER_SECONDS),
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
            return str(ask(domain.XMLDesc))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt does not describe the guest: {error}", code="VB703") from None
    raise NodeError("the guest has ended", code="VB706")


def number(domain: "libvirt.virDomain") -> int:
    """The hypervisor's number for a running domain, -1 if it has ended."""
    try:
        return int(domain.ID())  # asks nobody
    except libvirt.libvirtError:
        return -1


def destroy(domain: "libvirt.virDomain", uri: str, over: Deadline) -> bool:
    """Ends a domain at once; gone is success. NodeError if it will not die, DeadlineError if it does not in time.

    True if its QEMU has ended and libvirt has still to notice: it looks each 0.2 s only (src/util/virprocess.c,
    virProcessKillPainfullyDelay). `settle` waits for that.
    """
    uuid = domain.UUIDString()
    handle = _qemu(uri, domain.name(), uuid)
    try:
        request = _Request(domain.destroy)
        while handle != -1 and not request.done.wait(_LOOK_AT_QEMU_SECONDS):
            if select.select([handle], [], [], 0)[0]:
                _ending[uuid] = request
                return True
            request.check(over)
    finally:
        if handle != -1:
            os.close(handle)
    _ended(request, over)
    return False


def settle(uuid: str, over: Deadline) -> None:
    """Waits until libvirt has let go of a domain that this process has ended. As `destroy`."""
    request = _ending.pop(uuid, None)
    if request is not None:
        _ended(request, over)


def _ended(request: _Request[object], over: Deadline) -> None:
    try:
        request.answer(over)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise NodeError(f"libvirt did not end the guest: {error}", code="VB713") from None


def _qemu(uri: str, name: str, uuid: str) -> int:
    """A descriptor of a guest's process, -1 where it is not known."""
    pid = pid_of(uri, name, uuid)
    if pid is None:
        return -1
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return -1
    if pid_of(uri, name, uuid) == pid:  # it was not another's by the time it was opened
        return handle
    os.close(handle)
    return -1


def suspend(domain: "libvirt.virDomain") -> None:
    """Pauses a running domain; QEMU flushes its disks then (softmmu/cpus.c, do_vm_stop). NodeError."""
    try:
        ask(domain.suspend)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not pause the guest: {error}", code="VB703") from None


def shut_down(uri: str, uuid: str, deadline: Deadline) -> None:
    """Has a running guest's power button pressed, and waits until the guest is gone; asks once. NodeError."""
    changed = threading.Event()
    with contextlib.ExitStack() as at_end:
        at_end.callback(on_event(uri, changed.set))
        domain = find(uri, uuid, deadline)
        try:
            if domain is None or within(deadline, domain.state)[0] not in _RUNNING:
                return
            within(deadline, lambda: domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))
        except libvirt.libvirtError as error:
            raise NodeError(f"libvirt did not ask the guest to shut down: {error}", code="VB703") from None
        while not deadline.passed() and state(uri, uuid) != "gone":
            changed.wait(min(_LOOK_SECONDS, deadline.left()))
            changed.clear()


def state(uri: str, uuid: str) -> str | None:
    """`running`, or in a word why not: `gone`, `crashed`, `paused`; None where libvirt cannot say now."""
    try:
        domain = find(uri, uuid)
        if domain is None:
            return "gone"
        number, _reason = ask(domain.state)
    except (NodeError, libvirt.libvirtError):
        return None
    if number in _RUNNING:
        return "running"
    return {libvirt.VIR_DOMAIN_CRASHED: "crashed", libvirt.VIR_DOMAIN_PAUSED: "paused"}.get(number, "shut off")


def guest_group(uri: str) -> int | None:
    """The group of the hypervisor's processes, which can so read what is not for everybody; None where libvirt does not say.

    Of QEMU: what virQEMUDriverCreateCapabilities (src/qemu/qemu_conf.c) has of the model `dac`, `+UID:+GID`. NodeError.
    """
    text = capabilities(uri)
    model = re.search(r"<secmodel>\s*<model>dac</model>.*?</secmodel>", text, re.DOTALL)
    label = re.search(r"<baselabel type='qemu'>\+[0-9]+:\+([0-9]+)</baselabel>", model[0]) if model else None
    return int(label[1]) if label else None


def pid_of(uri: str, name: str, uuid: str) -> int | None:
    """The process of QEMU's that runs a guest, by the file that libvirtd has of it; None where that is not known.

    libvirt does not say it otherwise (src/qemu/qemu_process.c, qemuProcessPrepareHost; the file's name is NAME.pid).
    """
    if uri not in _STATES:
        return None
    try:
        with open(os.path.expandvars(f"{_STATES[uri][0]}/{name}.pid"), "rb") as file:
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
        return str(ask(lambda: libvirt_qemu.qemuMonitorCommand(domain, command,
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


def trouble(uri: str, name: str, uuid: str) -> str:
    """Why a guest that is wanted does not run, in words; '' if it runs, if it was destroyed, as we do it, or if nobody knows."""
    try:
        domain = find(uri, uuid)
        if domain is None:
            return _end(uri, name)
        number, reason = ask(domain.state)
        if number != libvirt.VIR_DOMAIN_PAUSED:
            return "" if number in _RUNNING else _end(uri, name)
        disks = ask(lambda: domain.diskErrors(0)) if reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR else {}
    except (NodeError, libvirt.libvirtError):
        return ""
    full = [disk for disk, error in disks.items() if error == libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE]
    space = f": the node has no space left for its disk {' '.join(full)}" if full else ""
    return f"it is paused{_PAUSES.get(reason, '')}{space}"


def _end(uri: str, name: str) -> str:
    """How a guest of QEMU's has ended, from the last line that libvirtd has written of it (src/qemu/qemu_process.c)."""
    if uri not in _STATES:
        return ""
    try:
        with open(os.path.expanduser(f"{_STATES[uri][1]}/{name}.log"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            found = re.findall(rb"shutting down, reason=([a-z]+)", file.read(_TAIL_BYTES))
    except OSError:
        return ""
    return _ENDS.get(found[-1].decode(), "") if found else ""


def on_event(uri: str, call: Callable[[], None]) -> Callable[[], None]:
    """Calls `call`, in another thread, whenever a domain changes its state; what it returns ends that. NodeError.

    A connection takes one such callback, and no second one.
    """
    connection = connect(uri)
    if _heard.get(uri) is not connection:
        try:
            ask(lambda: connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, _tell, None))
        except libvirt.libvirtError as error:
            raise NodeError(f"libvirt at {uri} gives no events: {error}", code="VB701") from None
        _heard[uri] = connection
    _listeners.append(call)
    return functools.partial(_listeners.remove, call)


def _tell(*_event: object) -> None:
    for call in tuple(_listeners):
        call()


def ours(uri: str) -> list[tuple[str, str, str]]:
    """(name, uuid, token) of every domain that carries our mark. NodeError."""
    connection = connect(uri)
    try:
        domains = ask(connection.listAllDomains)
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
        self._stream = connect(uri).newStream(0)
        try:
            ask(lambda: domain.openConsole(None, self._stream, libvirt.VIR_DOMAIN_CONSOLE_SAFE))
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
            while data := self._stream.recv(_TAIL_BYTES):
                os.write(self._sink, data)
        self.over = True
        with contextlib.suppress(OSError):
            os.close(self._sink)

    def read(self) -> bytes:
        """What there is; waits if there is nothing."""
        return os.read(self.descriptor, _TAIL_BYTES)

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
