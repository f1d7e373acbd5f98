"""A tracer that stops a hook's session at one system call, before or after it, to do something there.

strace can inject a SIGKILL too, but counts calls for each process alone, and the hook's helpers are part of the session.
"""

import contextlib
import ctypes
import errno
import os
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from lab import mom

from . import syscalls

_CONT, _SYSCALL, _SEIZE, _INTERRUPT, _LISTEN, _MESSAGE, _INFO = 7, 24, 0x4206, 0x4207, 0x4208, 0x4201, 0x420E
_SYSGOOD, _FORK, _VFORK, _CLONE, _SECCOMP, _EXITKILL = 0x1, 0x2, 0x4, 0x8, 0x80, 0x100000
_EVENT_BIRTHS, _EVENT_SECCOMP, _EVENT_STOP = (1, 2, 3), 7, 128
_THREAD = 0x10000
_WALL = 0x40000000
_GETREGS, _SETREGS, _RAX, _ORIG_RAX = 12, 13, 10, 15
_REGISTERS = struct.Struct("=27Q")
"""struct user_regs_struct of sys/user.h, x86-64."""
_PIDFD_GETFD = 438
Wanted = Callable[[int, "Point"], bool]
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Point:
    """A system call that touches the world: the program, the call, what it is done to."""

    program: str
    call: str
    what: str

    def __str__(self) -> str:
        return f"{self.program}: {self.call} {self.what}"


@dataclass
class Trace:
    """What a session did, to its end. `reached` is the wanted point, if it came, and `number` counts it from 1."""

    points: list[Point] = field(default_factory=list)
    reached: Point | None = None
    number: int = 0
    status: int = 0


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    return int(_libc.ptrace(request, pid, address, data))


def _resume(request: int, pid: int, data: int = 0) -> None:
    _ptrace(request, pid, 0, data)  # one that was killed meanwhile is no error


class Tracer:
    """Follows the session of `leader` and calls `before` and `after` around the first point that is `wanted`.

    A point that is `refused` is not made: the kernel answers that the disk is full. `ended` is called when the leader has ended.
    What the hook has put into another session outlives it, but does nothing more: without its tracer no call of it would succeed.
    """

    def __init__(self, leader: int, wanted: Wanted) -> None:
        self.leader = leader
        self.wanted = wanted
        self.before: Callable[[], None] | None = None
        self.after: Callable[[], None] | None = None
        self.refused: Wanted | None = None
        self.ended: Callable[[], None] | None = None
        self.trace = Trace()
        self.others: dict[int, int] = {}
        self._alive = {leader}
        self._leaving: set[int] = set()
        self.killed = False
        options = _SYSGOOD | _FORK | _VFORK | _CLONE | _SECCOMP | _EXITKILL
        if _ptrace(_SEIZE, leader, 0, options):
            raise OSError(ctypes.get_errno(), "cannot trace the hook")

    def kill(self) -> None:
        """As mom kills a prologue: all its session at once."""
        self.killed = True
        mom.kill_session(self.leader)
        self._stop_others()

    def run(self) -> Trace:
        """Until every process of the session has ended."""
        while self._alive or self._has_missed():
            pid, status = os.waitpid(-1, _WALL)
            if os.WIFSTOPPED(status):
                self._alive.add(pid)
                if self._is_over() and self._is_apart(pid):
                    self._alive.discard(pid)
                else:
                    self._stopped(pid, os.WSTOPSIG(status), status >> 16)
            else:
                self._alive.discard(pid)
                self.others[pid] = os.waitstatus_to_exitcode(status)
                if pid == self.leader:
                    self.trace.status = self.others[pid]
                    if self.ended is not None:
                        self.ended()
                    self._stop_others()
        return self.trace

    def _has_missed(self) -> bool:
        """Whether a process was born while its session was being killed: its parent did not live to tell us."""
        return self.killed and bool(mom.session_members(self.leader))

    def _is_over(self) -> bool:
        return self.killed or self.leader in self.others

    def _is_apart(self, pid: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            return os.getsid(pid) != self.leader
        return False

    def _stop_others(self) -> None:
        for pid in self._alive:
            if self._is_apart(pid):
                _ptrace(_INTERRUPT, pid)

    def _stopped(self, pid: int, number: int, event: int) -> None:
        if self.killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _resume(_CONT, pid)
        elif event == _EVENT_SECCOMP:
            _resume(_SYSCALL if self._entering(pid) else _CONT, pid)
        elif event in _EVENT_BIRTHS or number == signal.SIGTRAP | 0x80:
            if event and (child := _born(pid)) not in self.others:
                self._alive.add(child)  # its own first stop may come after its parent's death
            if pid in self._leaving:
                self._leaving.discard(pid)
                if self.after is not None:
                    self.after()
            _resume(_CONT, pid)
        elif event == _EVENT_STOP:
            _resume(_LISTEN if number != signal.SIGTRAP else _CONT, pid)
        else:
            _resume(_CONT, pid, number)

    def _entering(self, pid: int) -> bool:
        """Whether the call's end is wanted too."""
        point = _look(pid)
        if point is None:
            return False
        self.trace.points.append(point)
        if self.refused is not None and self.refused(len(self.trace.points), point):
            self._reached(point)
            _refuse(pid)
            return False
        if self.trace.reached is not None or not self.wanted(len(self.trace.points), point):
            return False
        self._reached(point)
        if self.before is not None:
            self.before()
        if self.after is not None:
            self._leaving.add(pid)
        return self.after is not None

    def _reached(self, point: Point) -> None:
        if self.trace.reached is None:
            self.trace.reached = point
            self.trace.number = len(self.trace.points)


def _born(pid: int) -> int:
    """The child of a birth (ptrace(2), PTRACE_GETEVENTMSG)."""
    number = ctypes.c_ulong()
    _ptrace(_MESSAGE, pid, 0, ctypes.addressof(number))
    return number.value


def _refuse(pid: int) -> None:
    """Has the kernel skip the call that a process is about to make (seccomp(2), SECCOMP_RET_TRACE): ENOSPC."""
    buffer = ctypes.create_string_buffer(_REGISTERS.size)
    _ptrace(_GETREGS, pid, 0, ctypes.addressof(buffer))
    registers = list(_REGISTERS.unpack(buffer.raw))
    registers[_ORIG_RAX], registers[_RAX] = (1 << 64) - 1, (1 << 64) - errno.ENOSPC
    changed = ctypes.create_string_buffer(_REGISTERS.pack(*registers), _REGISTERS.size)
    _ptrace(_SETREGS, pid, 0, ctypes.addressof(changed))


def _look(pid: int) -> Point | None:
    """The call that a process is about to make; None if it does not touch the world."""
    buffer = ctypes.create_string_buffer(88)
    if _ptrace(_INFO, pid, len(buffer), ctypes.addressof(buffer)) < 0:
        return None
    number, *arguments = struct.unpack_from("=7Q", buffer, 24)
    call = syscalls.CALLS.get(number)
    try:
        if call is None or (call in syscalls.BIRTHS and _is_thread(pid, call, arguments[0])):
            return None
        what = _target(pid, call, arguments)
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return None if what is None else Point(file.read().strip(), call, what)
    except (OSError, ValueError):
        return None


def _is_thread(pid: int, call: str, first: int) -> bool:
    if call == "clone3":
        first = struct.unpack("=Q", _memory(pid, first, 8))[0]
    return call.startswith("clone") and bool(first & _THREAD)


def _target(pid: int, call: str, arguments: list[int]) -> str | None:
    if call in syscalls.ON_DESCRIPTOR:
        return _open_file(pid, call, arguments)
    if call in syscalls.SECOND_PATH or call in syscalls.FIRST_PATH:
        text = _memory(pid, arguments[1 if call in syscalls.SECOND_PATH else 0], 256).split(b"\0")[0].decode(errors="replace")
        return None if text.startswith(("/dev/", "/proc/")) else text
    return ""


def _open_file(pid: int, call: str, arguments: list[int]) -> str | None:
    """What a descriptor stands for; None for pipes, devices, and sockets but those to libvirt and to guests."""
    target = os.readlink(f"/proc/{pid}/fd/{arguments[0]}")
    if call == "connect":
        family, rest = struct.unpack("=H14s", _memory(pid, arguments[1], 16))
        name = _memory(pid, arguments[1] + 2, max(1, arguments[2] - 2)).split(b"\0")[0].decode(errors="replace")
        return {socket.AF_UNIX: None if "nscd" in name or name == "/dev/log" else name,
                socket.AF_INET: f"port {rest[0] << 8 | rest[1]}"}.get(family)
    if target.startswith("socket:"):
        return _peer(pid, arguments[0])
    return target if target.startswith("/") and not target.startswith(("/dev/", "/proc/")) else None


def _peer(pid: int, descriptor: int) -> str | None:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        process = next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))
    handle = os.pidfd_open(process)
    try:
        fd = _libc.syscall(_PIDFD_GETFD, handle, descriptor, 0)
    finally:
        os.close(handle)
    if fd < 0:
        return None
    with socket.socket(fileno=fd) as copy:
        peer = copy.getpeername()
    return None if peer in ("/dev/log", "") else str(peer if isinstance(peer, str) else f"port {peer[1]}")


def _memory(pid: int, address: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        file.seek(address)
        try:
            return file.read(size)
        except OSError:  # across the end of a mapping
            file.seek(address)
            return file.read(min(size, 4096 - address % 4096))
