"""One run of a job in its guest over ssh: its streams, the signals that mom sends, and its exit status."""

from __future__ import annotations

import os

from . import LOST, RefusedError, say
from .connection import FAILURE, Connection
from .guest import Guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..handover import Handover
    from .call import Call

_AGAIN_SECONDS = 0.2
_AGAIN_LIMIT = 5.0
_HANGUP_SECONDS = 2.0
_LAST_SECONDS = 2.0
"""For what a guest that has ended said before."""
_PIECE_BYTES = 64 << 10
_TURN_SECONDS = 30.0
_TURN_LOOK_SECONDS = 0.02
_WITNESS_SECONDS = 0.05


def without_terminal(place: str, handover: Handover, understand: Callable[[], Call], *, of_many: bool = False) -> int:
    """The job's exit status; if the guest was lost 255, 253 or 252 and a message. What is to be run is found while ssh connects.

    `of_many`: one of many runs at once, as Slurm's tasks are; Slurm signals a task alone, its process group, or all below it.
    """
    source, sink = os.pipe()
    connection = Connection(place, handover)
    if of_many:
        _take_turn(place, connection)
    child = connection.start(source, close=(sink,), blocked=forwarded() if of_many else ())
    os.close(source)
    guest = Guest(place, handover)
    signals = Signals(connection, guest, witnessed=of_many)
    call = understand()
    request = call.request()
    if call.uses_input or len(request) > _PIECE_BYTES:
        import _thread

        _thread.start_new_thread(_pump, (request, sink, call.uses_input))
    else:
        _write(sink, request)  # and the pipe stays open: in the guest its end is ours
    return _result(connection, guest, signals.wait(child))


def on_terminal(place: str, handover: Handover, call: Call, environ: dict[str, str], *, of_many: bool = False) -> int:
    """The same for an interactive job: ssh has the terminal, its size, and all that is typed."""
    connection = Connection(place, handover)
    if of_many:
        _take_turn(place, connection)
    guest = Guest(place, handover)
    signals = Signals(connection, guest)
    if not connection.give_request(call.request()):
        raise RefusedError("its guest cannot be reached", code="VB802")
    with signals.ignored():
        child = connection.start_on_terminal(environ)
    return _result(connection, guest, signals.wait(child, hangs_up=True))


def _take_turn(place: str, connection: Connection) -> None:
    """Waits until it is ours to connect, and lets the next one when we are connected."""
    import _thread
    import time

    from ..turn import Turn

    turn = Turn(f"{place}/control")

    def give_back() -> None:
        limit = time.monotonic() + _TURN_SECONDS
        while not connection.up and time.monotonic() < limit:
            time.sleep(_TURN_LOOK_SECONDS)
        turn.over()

    _thread.start_new_thread(give_back, ())


def forwarded() -> dict[int, str]:
    """The signals that are passed on to the job, and their names."""
    import signal

    return {number: number.name.removeprefix("SIG") for number in (
        signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
        signal.SIGCONT, signal.SIGTSTP)}


def _result(connection: Connection, guest: Guest, code: int) -> int:
    """ssh says 255 for a lost connection as for a job that exits so: the guest knows which."""
    if 0 <= code < FAILURE:
        return code
    status = None if guest.ended() else connection.status()
    if status is not None:
        return status
    if guest.ended():
        return guest.judge()
    silent = guest.descriptor >= 0 and not connection.answered
    why = ": it is there, but hangs, is paused, or has lost its network" if silent else ""
    say(f"the connection to the job's guest was lost (ssh: {code}){why}; the job may not have ended", LOST)
    return FAILURE


class Signals:
    """What mom sends to the job's session, to be passed on: each counts once until that is done, as some come several times."""

    def __init__(self, connection: Connection, guest: Guest, *, witnessed: bool = False) -> None:
        """`witnessed`: a signal that the connection, which blocks all, was not sent is for the job's first process alone."""
        import signal

        self._connection = connection
        self._guest = guest
        self._witnessed = witnessed
        self._got: dict[int, None] = {}
        self._watcher = 0
        self._names = forwarded()
        self._wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in self._names:
            signal.signal(number, lambda number, _frame: self._got.update({number: None}))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._names)

    def ignored(self) -> _Ignored:
        """For a child in our session: it is to leave signals to us."""
        return _Ignored(list(self._names))

    def wait(self, child: int, *, hangs_up: bool = False) -> int:
        """Passes signals on until the child ends; its exit code, negative if it died of a signal.

        It is ended some moments behind the guest. `hangs_up`: SIGHUP means that the terminal is gone, and ends the connection if
        the job does not end by itself.
        """
        import select
        import signal
        import time

        handle = os.pidfd_open(child)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        guest = self._guest.descriptor
        if guest >= 0:
            poll.register(guest, select.POLLIN)
        pause, over = _AGAIN_SECONDS, None
        while True:
            wait = pause if self._got or over is not None else None
            ready = [descriptor for descriptor, _ in poll.poll(None if wait is None else wait * 1000)]
            if handle in ready:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if self._wake in ready:
                os.read(self._wake, 4096)
                pause = _AGAIN_SECONDS
            if hangs_up and over is None and signal.SIGHUP in self._got:
                over = time.monotonic() + _HANGUP_SECONDS
            if guest in ready:
                poll.unregister(guest)
                pause, over = _AGAIN_SECONDS, time.monotonic() + _LAST_SECONDS
            for number in () if self._guest.ended() else list(self._got):
                if self._pass_on(number, child):
                    self._got.pop(number, None)
            pause = min(2 * pause, _AGAIN_LIMIT)
            if over is not None and time.monotonic() > over:
                signal.pidfd_send_signal(handle, signal.SIGKILL)

    def _pass_on(self, number: int, child: int) -> bool:
        """Whether that is done; the job may only be being started. What follows a suspension waits for it."""
        from . import suspension

        name = self._names[number]
        if self._watcher and not suspension.is_over(self._watcher):
            return False
        self._watcher = 0
        if name == "TSTP":
            self._watcher = suspension.begin(self._connection)
            return True
        return self._connection.signal(name, alone=self._witnessed and not _was_sent(child, number))


def _was_sent(child: int, number: int) -> bool:
    """Whether a process of our group that blocks the signal was sent it, too, some moments behind us (proc(5), ShdPnd)."""
    import time

    time.sleep(_WITNESS_SECONDS)
    with open(f"/proc/{child}/status", "rb") as status:
        fields = dict(line.split(b":", 1) for line in status)
    return bool(int(fields[b"ShdPnd"], 16) >> (number - 1) & 1)


class _Ignored:
    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers

    def __enter__(self) -> None:
        import signal

        self._before = {number: signal.signal(number, signal.SIG_IGN) for number in self._numbers}

    def __exit__(self, *_: object) -> None:
        import signal

        for number, handler in self._before.items():
            signal.signal(number, handler)


def _pump(request: bytes, sink: int, uses_input: bool) -> None:
    """The request, then all of our standard input if it is the job's."""
    try:
        _write(sink, request)
        if not uses_input:
            return
        while data := os.read(0, _PIECE_BYTES):
            _write(sink, data)
    except OSError:
        pass
    os.close(sink)


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]
