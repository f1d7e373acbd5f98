"""libvirtd: the connection to it, and what the node is. Nothing here waits longer for an answer than it may."""

import functools
import re
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import libvirt

from ..errors import DeadlineError, NodeError, VmBatchError
from ..units import Deadline
from . import process

T = TypeVar("T")
ANSWER_SECONDS = 30.0
"""As long libvirt itself waits for a guest that another request holds (qemu_domainjob.c, QEMU_JOB_WAIT_TIME)."""
_ALIVE_SECONDS = 0.2
_HINT = "is libvirtd running on this node?"
_connections: dict[str, "libvirt.virConnect"] = {}


class Request(Generic[T]):
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
    return Request(ask).answer(over)


def ask(question: Callable[[], T]) -> T:
    """What libvirtd answers. DeadlineError, and what libvirt raises."""
    return within(process.patience(ANSWER_SECONDS), question)


@functools.cache
def _events() -> None:
    """Starts the thread that delivers events; before the first connection, as libvirt asks."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def deliver() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=deliver, name="libvirt events", daemon=True).start()


def connect(uri: str, over: Deadline | None = None) -> "libvirt.virConnect":
    """The connection of this process to a hypervisor, a new one if libvirtd has gone since. NodeError, DeadlineError."""
    known = _connections.get(uri)
    if known is None or not _is_alive(known):
        try:
            known = within(over or process.patience(ANSWER_SECONDS), lambda: _open(uri))
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


def guest_group(uri: str) -> int | None:
    """The group of the hypervisor's processes, which can so read what is not for everybody; None where libvirt does not say.

    Of QEMU: what virQEMUDriverCreateCapabilities (src/qemu/qemu_conf.c) has of the model `dac`, `+UID:+GID`. NodeError.
    """
    text = capabilities(uri)
    model = re.search(r"<secmodel>\s*<model>dac</model>.*?</secmodel>", text, re.DOTALL)
    label = re.search(r"<baselabel type='qemu'>\+[0-9]+:\+([0-9]+)</baselabel>", model[0]) if model else None
    return int(label[1]) if label else None
