"""libvirt: ends of domains, those that we bring about and those that come of themselves."""

import contextlib
import os
import re
import select
import threading

import libvirt

from ..errors import NodeError
from ..units import Deadline
from . import libvirtd, virt, virtevent

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
_LOGS = {
    "qemu:///system": "/var/log/libvirt/qemu",
    "qemu:///session": "~/.cache/libvirt/qemu/log",
}
"""Where libvirtd has the guests' logs (src/qemu/qemu_conf.c, virQEMUDriverConfigNew)."""
_TAIL_BYTES = 4096
_LOOK_SECONDS = 1.0
_LOOK_AT_QEMU_SECONDS = 0.004
_ending: dict[str, libvirtd.Request[object]] = {}
"""By the domain's uuid."""


def destroy(domain: "libvirt.virDomain", uri: str, over: Deadline) -> bool:
    """Ends a domain at once; gone is success. NodeError if it will not die, DeadlineError if it does not in time.

    True if its QEMU has ended and libvirt has still to notice: it looks each 0.2 s only (src/util/virprocess.c,
    virProcessKillPainfullyDelay). `settle` waits for that.
    """
    uuid = domain.UUIDString()
    handle = _qemu(uri, domain.name(), uuid)
    try:
        request = libvirtd.Request(domain.destroy)
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


def _ended(request: libvirtd.Request[object], over: Deadline) -> None:
    try:
        request.answer(over)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise NodeError(f"libvirt did not end the guest: {error}", code="VB713") from None


def _qemu(uri: str, name: str, uuid: str) -> int:
    """A descriptor of a guest's process, -1 where it is not known."""
    pid = virt.pid_of(uri, name, uuid)
    if pid is None:
        return -1
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return -1
    if virt.pid_of(uri, name, uuid) == pid:  # it was not another's by the time it was opened
        return handle
    os.close(handle)
    return -1


def shut_down(uri: str, uuid: str, deadline: Deadline) -> None:
    """Has a running guest's power button pressed, and waits until the guest is gone; asks once. NodeError."""
    changed = threading.Event()
    with contextlib.ExitStack() as at_end:
        at_end.callback(virtevent.on_event(uri, changed.set))
        domain = virt.find(uri, uuid, deadline)
        try:
            if domain is None or libvirtd.within(deadline, domain.state)[0] not in virt.RUNNING:
                return
            libvirtd.within(deadline, lambda: domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))
        except libvirt.libvirtError as error:
            raise NodeError(f"libvirt did not ask the guest to shut down: {error}", code="VB703") from None
        while not deadline.passed() and virt.state(uri, uuid) != "gone":
            changed.wait(min(_LOOK_SECONDS, deadline.left()))
            changed.clear()


def trouble(uri: str, name: str, uuid: str) -> str:
    """Why a guest that is wanted does not run, in words; '' if it runs, if it was destroyed, as we do it, or if nobody knows."""
    try:
        domain = virt.find(uri, uuid)
        if domain is None:
            return _end(uri, name)
        number, reason = libvirtd.ask(domain.state)
        if number != libvirt.VIR_DOMAIN_PAUSED:
            return "" if number in virt.RUNNING else _end(uri, name)
        disks = libvirtd.ask(lambda: domain.diskErrors(0)) if reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR else {}
    except (NodeError, libvirt.libvirtError):
        return ""
    full = [disk for disk, error in disks.items() if error == libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE]
    space = f": the node has no space left for its disk {' '.join(full)}" if full else ""
    return f"it is paused{_PAUSES.get(reason, '')}{space}"


def _end(uri: str, name: str) -> str:
    """How a guest of QEMU's has ended, from the last line that libvirtd has written of it (src/qemu/qemu_process.c)."""
    if uri not in _LOGS:
        return ""
    try:
        with open(os.path.expanduser(f"{_LOGS[uri]}/{name}.log"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            found = re.findall(rb"shutting down, reason=([a-z]+)", file.read(_TAIL_BYTES))
    except OSError:
        return ""
    return _ENDS.get(found[-1].decode(), "") if found else ""
