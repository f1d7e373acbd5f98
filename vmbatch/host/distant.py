"""File calls where a server may not answer: made by a process of our own, which may hang in our stead."""

import contextlib
import ctypes
import gc
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from ..errors import Fault, UnreachableError, VmBatchError
from ..units import Deadline
from . import process

T = TypeVar("T")
_ANSWER_SECONDS = 30.0
_AGAIN_SECONDS = 1.0
"""Once a server has not answered, and it may be the same."""
_ALIVE_SECONDS = 0.2
_END_SECONDS = 0.5
_PAUSE_SECONDS = 0.001
_PIECE = 1 << 16
_LENGTH = 8
"""Bytes in front of an answer that say how long it is."""
_PDEATHSIG = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
_silent: set[str] = set()


class _Wrong(msgspec.Struct, frozen=True):
    """What the other process raised: an OSError, if it has a `number`, an error of ours by the name of its class, or a defect."""

    name: str = ""
    number: int = 0
    path: str | None = None
    what: str = ""
    hint: str = ""
    fault: Fault = Fault.NODE
    detail: tuple[str, ...] = ()
    code: str = ""


class _Answer(msgspec.Struct, frozen=True):
    """The result, or what was raised."""

    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    wrong: _Wrong | None = None


def call(place: str, act: Callable[[], T], kind: Any = None, deadline: Deadline | None = None) -> T:
    """What `act` returns, of the type `kind`, or raises; it works on files in `place`.

    UnreachableError if they do not answer by the deadline; without one, 30 s are enough. Asks `process.alive` meanwhile. The
    other process has our locks, and dies with us: so nobody who gets a lock of ours meets what it may still do.
    """
    pid, source = _start(act)
    try:
        answer = _answer(place, source, deadline or process.patience(_ANSWER_SECONDS))
    finally:
        os.close(source)
        _end(pid)
    return cast(T, _result(answer, kind))


class Question:
    """A call that goes on beside others, in a process of its own, from now on."""

    def __init__(self, place: str, act: Callable[[], object]) -> None:
        self._place = place
        self._pid, self._source = _start(act)

    def answer(self, kind: Any, deadline: Deadline) -> Any:
        """As `call`, once; what others do not answer says nothing of this."""
        try:
            return _result(_wait(self._place, self._source, deadline), kind)
        finally:
            os.close(self._source)
            _end(self._pid)

    def signal(self, number: int) -> None:
        """To its process, as long as that has not answered."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)


def _start(act: Callable[[], object]) -> tuple[int, int]:
    """(process, where its answer comes)."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(sink)
        return pid, source
    try:
        gc.disable()  # nothing of the hook's is finished here, such as its connections
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.close(source)
            data = _tried(act)
            _write(sink, len(data).to_bytes(_LENGTH) + data)
    finally:
        os._exit(0)


def _tried(act: Callable[[], object]) -> bytes:
    try:
        answer = _Answer(result=msgspec.Raw(msgspec.msgpack.encode(act())))
    except OSError as error:
        path = error.filename if isinstance(error.filename, str) else None
        answer = _Answer(wrong=_Wrong(number=error.errno or 0, path=path, what=error.strerror or str(error)))
    except VmBatchError as error:
        answer = _Answer(wrong=_Wrong(type(error).__name__, what=error.what, hint=error.hint, fault=error.fault,
                                      detail=error.detail, code=error.code))
    except BaseException:
        answer = _Answer(wrong=_Wrong(what=traceback.format_exc()))
    return msgspec.msgpack.encode(answer)


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view):]


def _answer(place: str, source: int, over: Deadline) -> _Answer:
    """What comes, and less patience with places that have not answered before."""
    if _silent:
        over = over.earlier(_AGAIN_SECONDS)
    try:
        found = _wait(place, source, over)
    except UnreachableError:
        if over.passed():
            _silent.add(place)
        raise
    _silent.discard(place)
    return found


def _wait(place: str, source: int, over: Deadline) -> _Answer:
    """What comes; another thread's process may keep its end open. UnreachableError, what `process.alive` raises."""
    data = b""
    while len(data) < _LENGTH or len(data) < _LENGTH + int.from_bytes(data[:_LENGTH]):
        if select.select([source], [], [], min(_ALIVE_SECONDS, over.left()))[0]:
            piece = os.read(source, _PIECE)
            data += piece
            if not piece:
                raise UnreachableError(f"the process that works in {place} was killed")
        elif over.passed():
            raise UnreachableError(f"{place} does not answer", "is its server up, and can this node reach it?")
        else:
            process.alive()
    return msgspec.msgpack.decode(data[_LENGTH:], type=_Answer)


def _result(answer: _Answer, kind: Any) -> Any:
    wrong = answer.wrong
    if wrong is None:
        return msgspec.msgpack.decode(answer.result, type=kind)
    if wrong.number:
        raise OSError(wrong.number, wrong.what, wrong.path)
    for known in _errors(VmBatchError):
        if known.__name__ == wrong.name:
            error = known.__new__(known)
            VmBatchError.__init__(error, wrong.what, wrong.hint, code=wrong.code, fault=wrong.fault, detail=wrong.detail)
            raise error
    raise RuntimeError(wrong.what)


def _errors(kind: type[VmBatchError]) -> list[type[VmBatchError]]:
    return [kind, *(below for known in kind.__subclasses__() for below in _errors(known))]


def _end(pid: int) -> None:
    """Kills the other process, and waits for it a little: what hangs ends once the kernel lets it."""
    os.kill(pid, signal.SIGKILL)
    over = Deadline(_END_SECONDS)
    while not os.waitpid(pid, os.WNOHANG)[0] and not over.passed():
        time.sleep(_PAUSE_SECONDS)
