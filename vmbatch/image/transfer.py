"""One image from one of its servers into one file: hashed and unpacked on the way, and gone on with where it was cut."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterator
from email.utils import parsedate_to_datetime

import msgspec

from ..errors import DeadlineError, NodeError
from ..format import FormatError
from ..host import clock, file, http
from ..units import Deadline, format_size
from .record import Validators as Validators
from .unpack import unpack

_PIECE = 1 << 20
_ROOM_STEP = 64 << 20
_PATIENCE = 5
"""Attempts in a row that bring nothing, and times that an object may turn out to be another one."""
_PAUSE_SECONDS = 0.3
_PULSE_SECONDS = 0.1
_LARGEST = "see [images] largest, and [userimages] largest, in vmbatch.conf"


class Source(msgspec.Struct, frozen=True):
    """The URLs of one object, and how it is packed: '', `gz`, `bz2`, `xz`, `zst`."""

    urls: tuple[str, ...]
    compression: str


class Transferred(msgspec.Struct, frozen=True):
    """`size` and `content` (SHA-256) of what is there now, `digests` of what was published, `moved` bytes over the net now."""

    size: int
    digests: dict[str, str]
    content: str
    validators: Validators
    moved: int


class _Partial(msgspec.Struct, frozen=True):
    """What is known of a file that is not whole yet; after a reboot its content is not to be trusted.

    `condition` is what If-Range takes, and '' where the server gives nothing by which the rest can be asked for.
    """

    validators: Validators
    condition: str
    total: int | None
    boot: str


class _RestartError(Exception):
    """What is there is not the beginning of what the server has; `answer` begins with it, if there is one."""

    def __init__(self, why: str, answer: http.Response | None = None) -> None:
        super().__init__(why)
        self.answer = answer


class _UnchangedError(Exception):
    """The server has nothing newer than what is known."""


class _NoRoomError(Exception):
    """The caller has no room; the error is the caller's."""


def fetch(
    source: Source, partial: str, target: str, *, access: http.Access, allowed: tuple[str, ...] | None,
    algorithms: tuple[str, ...], limit: int, deadline: Deadline, alive: Callable[[], None], room: Callable[[int], None],
    known: Validators | None, progress: Callable[[int, int | None], None],
) -> Transferred | None:
    """Downloads to `target`; None if the server has nothing newer than `known`. Who calls holds the right to both files.

    What came until a deadline, a cut or the end of the job stays in `partial`, for the next call. NodeError names every server
    that failed; FormatError, DeadlineError, and whatever `alive` and `room` raise.
    """
    begun = _read(partial)
    first = [begun.validators.url] if begun and begun.validators.url in source.urls else []
    failures: list[http.ServerError] = []
    for url in dict.fromkeys([*first, *source.urls]):
        download = _Download(url, source.compression, partial, target, access, allowed, algorithms, limit, deadline, alive, room,
                             known, progress)
        try:
            return download.run()
        except _UnchangedError:
            return None
        except _NoRoomError as error:
            forget(partial)
            raise (error.__cause__ or error) from None
        except FormatError:
            forget(partial)
            raise
        except http.ServerError as error:
            failures.append(error)
        except OSError as error:
            forget(partial)
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise NodeError(f"{http.shown(url)} cannot be written to {os.path.dirname(partial)}: {reason}",
                            code="VB310") from None
        finally:
            if download.separate:
                download.drop_target()
            if _read(partial) is None:
                forget(partial)
    if len(failures) == 1:
        raise failures[0]
    raise NodeError("no server has the image: " + "; ".join(failure.what for failure in failures),
                    next((failure.hint for failure in failures if failure.hint), ""), code="VB304")


def forget(partial: str) -> None:
    """Removes a file that is not whole."""
    for path in (partial, _record_path(partial)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _record_path(partial: str) -> str:
    return f"{partial}.json"


def _read(partial: str) -> _Partial | None:
    """The record of a file that can be gone on with."""
    try:
        with open(_record_path(partial), "rb") as opened:
            record = msgspec.json.decode(opened.read(), type=_Partial)
        status = os.lstat(partial)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    usable = stat.S_ISREG(status.st_mode) and status.st_size and (record.total is None or status.st_size <= record.total)
    return record if usable and record.condition and record.boot == clock.boot_id() else None


def _condition(headers: dict[str, str]) -> str:
    """For If-Range: a strong ETag, or a date before the answer's own second, in which more may change (RFC 9110, 8.8.2.2)."""
    etag, changed = headers.get("etag", ""), headers.get("last-modified", "")
    if etag and not etag.startswith("W/"):
        return etag
    try:
        settled = parsedate_to_datetime(changed) < parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return ""
    return changed if settled else ""


class _Download:
    """From one URL; `separate`: what is published and what is wanted are two files."""

    def __init__(
        self, url: str, compression: str, partial: str, target: str, access: http.Access, allowed: tuple[str, ...] | None,
        algorithms: tuple[str, ...], limit: int, deadline: Deadline, alive: Callable[[], None], room: Callable[[int], None],
        known: Validators | None, progress: Callable[[int, int | None], None],
    ) -> None:
        self.url = url
        self.compression = compression
        self.separate = bool(compression)
        self.partial = partial
        self.target = target
        self.access = access
        self.allowed = allowed
        self.algorithms = algorithms
        self.limit = limit
        self.deadline = deadline
        self.alive = alive
        self.room = room
        self.known = known
        self.progress = progress
        self.most = limit + (limit // 8 + _PIECE if compression else 0)
        self.record = _Partial(Validators(url, "", ""), "", None, "")
        self.offset = 0
        self.moved = 0
        self._pulse_at = 0.0
        self._unasked = 0

    def run(self) -> Transferred:
        """Until all is there, or cannot come."""
        answer: http.Response | None = None
        why = ""
        for _ in range(_PATIENCE):
            self.drop_target()
            used = answer
            try:
                return self._take(answer)
            except _RestartError as error:
                answer, why = error.answer, str(error)
                forget(self.partial)
            finally:
                if used is not None:
                    used.close()
        if answer is not None:
            answer.close()
        raise http.ServerError(self.url, f"{why}, {_PATIENCE} times", "try again later, or tell whoever runs the server",
                               code="VB305")

    def drop_target(self) -> None:
        """Removes what was unpacked of an object that is not whole."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.target)

    def _take(self, answer: http.Response | None) -> Transferred:
        """From the beginning of the object: what is there and then the rest of it, or all of it from an answer that has begun."""
        digests = {name: hashlib.new(name, usedforsecurity=False) for name in self.algorithms}
        content = hashlib.sha256() if self.separate else digests.setdefault("sha256", hashlib.sha256())
        size = 0
        unpacked = _create(self.target) if self.separate else contextlib.nullcontext()
        with contextlib.ExitStack() as last:
            partial = last.enter_context(_create(self.partial, keep=True))
            own = last.enter_context(unpacked)
            chunks = last.enter_context(contextlib.closing(self._chunks(partial, answer)))

            def published() -> Iterator[bytes]:
                for chunk in chunks:
                    for digest in digests.values():
                        digest.update(chunk)
                    yield chunk

            for piece in unpack(published(), self.compression, self.limit):
                if own is not None:
                    self._pulse()
                    content.update(piece)
                    file.write_sparse(own, piece, size)
                    self._written(len(piece))
                size += len(piece)
            if own is not None:
                os.ftruncate(own, size)
        if not self.separate:
            os.rename(self.partial, self.target)
        self.separate = False  # the target is whole, and stays
        forget(self.partial)
        return Transferred(size, {name: digests[name].hexdigest() for name in self.algorithms}, content.hexdigest(),
                           self.record.validators, self.moved)

    def _chunks(self, partial: int, answer: http.Response | None) -> Generator[bytes, None, None]:
        """The object from its beginning: what is there, then what comes; cuts are mended on the way."""
        self.offset = 0
        record = _read(self.partial) if answer is None else None
        if record is not None and record.validators.url == self.url:
            self.record = record
            while piece := os.pread(partial, _PIECE, self.offset):
                self.offset += len(piece)
                self._pulse()
                yield piece
        else:
            self.record = _Partial(Validators(self.url, "", ""), "", None, "")
        useless = 0
        while self.record.total is None or self.offset < self.record.total:
            before = self.offset
            try:
                yield from self._body(partial, answer)
                return
            except http.ServerError as error:
                if not self._passes(error):
                    raise
                useless = 0 if self.offset > before else useless + 1
                if useless >= _PATIENCE:
                    raise
                if self.offset and not self.record.condition:
                    raise _RestartError(error.reason) from None
            answer = None
            http.sleep(_PAUSE_SECONDS, self.deadline, self.alive)

    def _passes(self, error: http.ServerError) -> bool:
        """Whether it is worth while to go on with this server: after a cut, or after its outage if it has sent something."""
        if isinstance(error, http.CutError):
            return True
        return bool(self.moved) and (isinstance(error, http.ReachError) or (
            isinstance(error, http.StatusError) and error.status >= 500))

    def _body(self, partial: int, answer: http.Response | None) -> Iterator[bytes]:
        """What one answer brings."""
        if answer is None:
            answer = http.open_url(self.url, self._headers(), self.access, allowed=self.allowed, deadline=self.deadline,
                                   alive=self.alive)
        with contextlib.ExitStack() as last:
            last.callback(answer.close)
            try:
                complete = self._judge(partial, answer)
            except _RestartError as error:
                if error.answer is not None:
                    last.pop_all()
                raise
            if complete:
                return
            for chunk in answer.chunks(self.deadline, self.alive):
                if self.record.total is not None and self.offset + len(chunk) > self.record.total:
                    raise _RestartError("the server sends more than it says")
                if self.offset + len(chunk) > self.most:
                    raise FormatError(f"has more than {format_size(self.limit)}", _LARGEST)
                file.write_sparse(partial, chunk, self.offset)
                self.offset += len(chunk)
                self.moved += len(chunk)
                os.ftruncate(partial, self.offset)
                self._written(len(chunk))
                self.progress(self.offset, self.record.total)
                yield chunk
        if self.record.total is not None and self.offset < self.record.total:
            raise http.CutError(self.url, f"the server ended {self.record.total - self.offset} bytes too early")

    def _headers(self) -> dict[str, str]:
        if self.offset:
            return {"Range": f"bytes={self.offset}-", "If-Range": self.record.condition}
        known = self.known if self.known is not None and self.known.url == self.url else None
        headers = {}
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        if known is not None and known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
        return headers

    def _judge(self, partial: int, answer: http.Response) -> bool:
        """Whether nothing is missing. _RestartError if the answer does not go on with what is there."""
        if answer.status == 304 and self.known is not None and not self.offset:
            raise _UnchangedError
        span = answer.headers.get("content-range", "")
        if self.offset and answer.status == 416 and self.record.total is None and span == f"bytes */{self.offset}":
            return True
        if self.offset and answer.status == 416:
            raise _RestartError("the server does not have the rest of what it began to send")
        if self.offset and answer.status == 200:
            raise _RestartError("the server begins again instead of going on", answer)
        if self.offset and answer.status == 206:
            self._judge_range(span, answer.headers)
        elif answer.status == 200:
            self._begin(partial, answer.headers)
        else:
            raise http.StatusError(self.url, answer.status)
        if self.record.total is not None:
            self._ask_room(self.record.total - self.offset)
        return False

    def _begin(self, partial: int, headers: dict[str, str]) -> None:
        """Writes down of what the bytes to come are the beginning."""
        packed = headers.get("content-encoding", "").lower()
        if packed not in ("", "identity") and not self.compression:
            raise http.ServerError(self.url, f"the server packs what it sends ({packed[:20]}), though asked not to")
        length = headers.get("content-length", "")
        total = int(length) if re.fullmatch(r"[0-9]{1,18}", length) and "transfer-encoding" not in headers else None
        if total is not None and total > self.most:
            raise FormatError(f"has {format_size(total)}, more than {format_size(self.limit)}", _LARGEST)
        validators = Validators(self.url, headers.get("etag", ""), headers.get("last-modified", ""))
        self.record = _Partial(validators, _condition(headers), total, clock.boot_id())
        os.ftruncate(partial, 0)
        file.replace(_record_path(self.partial), msgspec.json.encode(self.record), 0o600)

    def _judge_range(self, text: str, headers: dict[str, str]) -> None:
        """_RestartError unless the range begins where we are, in the same object."""
        span = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", text)
        known = self.record.validators
        etag, changed = headers.get("etag", known.etag), headers.get("last-modified", known.last_modified)
        if not span or int(span[1]) != self.offset:
            raise _RestartError("the server sends another part than was asked for")
        if (etag, changed) != (known.etag, known.last_modified):
            raise _RestartError("the image changes while it is downloaded")
        if span[3] != "*" and self.record.total is not None and int(span[3]) != self.record.total:
            raise _RestartError("the image changes its size while it is downloaded")
        if span[3] != "*":
            self.record = msgspec.structs.replace(self.record, total=int(span[3]))

    def _pulse(self) -> None:
        """Now and then, wherever much is computed."""
        if time.monotonic() >= self._pulse_at:
            self.alive()
            if self.deadline.passed():
                raise DeadlineError(f"{http.shown(self.url)} was not downloaded and unpacked in time", "see [images] transfer",
                                    code="VB311")
            self._pulse_at = time.monotonic() + _PULSE_SECONDS

    def _written(self, count: int) -> None:
        self._unasked += count
        if self._unasked >= _ROOM_STEP:
            left = 0 if self.record.total is None else self.record.total - self.offset
            self._ask_room(left if self.record.total is not None and not self.separate else max(left, _ROOM_STEP))
            self._unasked = 0

    def _ask_room(self, coming: int) -> None:
        try:
            self.room(coming)
        except Exception as error:
            raise _NoRoomError from error


@contextlib.contextmanager
def _create(path: str, *, keep: bool = False) -> Iterator[int]:
    """A file for us alone, open for reading and writing; what is in it stays if `keep`, else there must be none."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if keep else os.O_EXCL)
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
