"""An HTTP server for images that behaves as badly as it is told to, and counts what it sends.

    python -m lab.imageserver --directory D --port P --rate BYTES_A_SECOND

serves the files of a directory well, prints its port on a line, and answers /.counts with its counts as JSON.
"""

import argparse
import base64
import hashlib
import json
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Protocol

_PIECE = 64 << 10
_ALWAYS = 1 << 30
_LONG_AGO = formatdate(1_600_000_000, usegmt=True)


class Content(Protocol):
    """The bytes of an object, which need not be in memory."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """As os.pread."""
        ...


class Plain:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


class OnDisk:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


class Generated:
    """Bytes made when they are asked for: blocks of 64 KiB that differ from each other, every other one zero if `sparse`."""

    def __init__(self, size: int, seed: bytes = b"", *, sparse: bool = False) -> None:
        self.size = size
        self._sparse = sparse
        self._stem = hashlib.shake_128(seed).digest(_PIECE - 8)

    def _block(self, number: int) -> bytes:
        return bytes(_PIECE) if self._sparse and number % 2 else number.to_bytes(8, "big") + self._stem

    def read(self, offset: int, length: int) -> bytes:
        end = min(self.size, offset + length)
        blocks = b"".join(self._block(number) for number in range(offset // _PIECE, -(-end // _PIECE)))
        return blocks[offset % _PIECE :][: max(0, end - offset)]

    @cached_property
    def sha256(self) -> str:
        """The digest of all, made a block at a time."""
        total = hashlib.sha256()
        for at in range(0, self.size, _PIECE):
            total.update(self.read(at, _PIECE))
        return total.hexdigest()


@dataclass(frozen=True)
class Page:
    """An object and how it is served. Offsets in bytes of the object, `rate` in bytes a second; None and 0 mean: does not.

    `cut_after`, `stall_after`: so much of the body of one answer is sent, in the first `times` answers. `more`: the length that
    is announced is so much too long (or too short). `login`: the USER:PASSWORD that is asked for. `range_*`: what is wrong in
    partial answers. `then`: the page from request number `after` + 1 on.
    """

    content: Content = field(default_factory=lambda: Plain(b""))
    etag: str | None = None
    last_modified: str = _LONG_AGO
    ranges: bool = True
    status: int = 0
    redirect: str = ""
    flood: int = 0
    cut_after: int | None = None
    stall_after: int | None = None
    times: int = _ALWAYS
    silent: bool = False
    trickle: float = 0.0
    rate: float = 0.0
    corrupt_at: int | None = None
    more: int = 0
    chunked: bool = False
    terminated: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    range_etag: str | None = None
    range_shift: int = 0
    range_total: int | None = None
    login: str = ""
    then: "Page | None" = None
    after: int = 1

    @cached_property
    def tag(self) -> str:
        """The ETag; '' for none."""
        if self.etag is not None:
            return self.etag
        return f'"{hashlib.sha256(self.content.read(0, _PIECE)).hexdigest()[:16]}-{self.content.size}"'

    def read(self, offset: int, length: int) -> bytes:
        """The object as it is sent."""
        data = self.content.read(offset, length)
        if self.corrupt_at is not None and offset <= self.corrupt_at < offset + len(data):
            at = self.corrupt_at - offset
            return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        return data


@dataclass
class Count:
    """Of one path: `starts` are the requests from the beginning of the object, `bytes` what was sent of bodies."""

    requests: int = 0
    starts: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Asked:
    """A request: header names in lower case."""

    path: str
    headers: dict[str, str]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """One request."""
        owner = self.server.owner
        path = self.path.partition("?")[0]
        if path == "/.counts":
            self._whole(200, json.dumps({name: asdict(count) for name, count in owner.counts.items()}).encode())
            return
        page = owner.page(path)
        with owner.lock:
            count = owner.counts.setdefault(path, Count())
            count.requests += 1
            number = count.requests
            owner.asked.append(Asked(self.path, {name.lower(): value for name, value in self.headers.items()}))
        while page is not None and page.then is not None and number > page.after:
            number -= page.after
            page = page.then
        if page is None:
            self._whole(404, b"there is no such page\n")
            return
        try:
            self._answer(page, count, number)
        except (ConnectionError, TimeoutError, ssl.SSLError):
            self.close_connection = True

    def _whole(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self._headers(*headers, ("Content-Length", str(len(body))))
        self.wfile.write(body)

    def _headers(self, *headers: tuple[str, str]) -> None:
        for name, value in headers:
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _answer(self, page: Page, count: Count, number: int) -> None:
        if page.silent:
            self._stall()
            return
        if page.trickle:
            self._trickle(page.trickle)
            return
        wanted = base64.b64encode(page.login.encode()).decode()
        if page.login and self.headers.get("Authorization") != f"Basic {wanted}":
            self._whole(401, b"who are you?\n", ("WWW-Authenticate", 'Basic realm="images"'))
            return
        if page.redirect:
            self._redirect(page, count)
            return
        if page.status:
            self._whole(page.status, b"no\n", *page.headers)
            return
        validators = (("ETag", page.tag), ("Last-Modified", page.last_modified), *page.headers)
        if self._is_known(page):
            self.send_response(304)
            self._headers(*validators)
            return
        begin = self._begin(page)
        if begin is not None and begin >= page.content.size:
            self._whole(416, b"no such bytes\n", ("Content-Range", f"bytes */{page.content.size}"), *validators)
            return
        self._body(page, count, number, begin, validators)

    def _is_known(self, page: Page) -> bool:
        if "If-None-Match" in self.headers:
            return bool(page.tag) and page.tag.removeprefix("W/") in self.headers["If-None-Match"]
        return bool(page.last_modified) and self.headers.get("If-Modified-Since") == page.last_modified

    def _begin(self, page: Page) -> int | None:
        """Where a partial answer begins; None for a whole one."""
        asked = self.headers.get("Range", "")
        condition = self.headers.get("If-Range")
        if not page.ranges or not asked.startswith("bytes=") or not asked.endswith("-"):
            return None
        strong = "" if page.tag.startswith("W/") else page.tag
        if page.range_etag is None and condition is not None and condition not in (strong, page.last_modified):
            return None
        return int(asked[6:-1])

    def _redirect(self, page: Page, count: Count) -> None:
        self.send_response(302)
        self.send_header("Location", page.redirect)
        self._headers(("Content-Length", str(page.flood)))
        for at in range(0, page.flood, _PIECE):
            self._send(bytes(min(_PIECE, page.flood - at)), count)

    def _body(self, page: Page, count: Count, number: int, begin: int | None, validators: tuple[tuple[str, str], ...]) -> None:
        size = page.content.size
        with self.server.owner.lock:
            count.starts += not begin
        self.send_response(200 if begin is None else 206)
        if begin is not None:
            total = size if page.range_total is None else page.range_total
            self.send_header("Content-Range", f"bytes {begin + page.range_shift}-{size - 1}/{total}")
            if page.range_etag is not None:
                validators = (("ETag", page.range_etag), *validators[1:])
        if page.chunked:
            self._headers(("Transfer-Encoding", "chunked"), *validators)
        else:
            self._headers(("Content-Length", str(size - (begin or 0) + page.more)), *validators)
        stop = page.cut_after if page.cut_after is not None else page.stall_after
        bad = stop is not None and number <= page.times
        for piece in self._pieces(page, begin or 0, stop if bad else None):
            self._send(b"%x\r\n%b\r\n" % (len(piece), piece) if page.chunked else piece, count, len(piece))
            if page.rate:
                time.sleep(len(piece) / page.rate)
        if bad and page.stall_after is not None:
            self._stall()
        elif page.chunked and page.terminated and not bad:
            self.wfile.write(b"0\r\n\r\n")
        if bad or page.more or not page.terminated:
            self.close_connection = True

    def _pieces(self, page: Page, begin: int, stop: int | None) -> Iterator[bytes]:
        end = page.content.size + min(page.more, 0)
        if stop is not None:
            end = min(end, begin + stop)
        step = max(1, min(_PIECE, int(page.rate / 20))) if page.rate else _PIECE
        for at in range(begin, end, step):
            yield page.read(at, min(step, end - at))

    def _send(self, data: bytes, count: Count, counted: int | None = None) -> None:
        self.wfile.write(data)
        with self.server.owner.lock:
            count.bytes += len(data) if counted is None else counted

    def _stall(self) -> None:
        self.server.owner.closing.wait()
        self.close_connection = True

    def _trickle(self, seconds: float) -> None:
        """Headers without an end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Wait: ")
        while not self.server.owner.closing.wait(seconds):
            self.wfile.write(b"x")
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    owner: "ImageServer"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away, or that does not trust our certificate, is nothing to talk about."""


class ImageServer:
    """A server on the loopback, running from `with` on; pages by path, and the files of `directory` at `rate`."""

    def __init__(
        self, pages: dict[str, Page] | None = None, *, directory: Path | None = None, port: int = 0, rate: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.pages = dict(pages or {})
        self.counts: dict[str, Count] = {}
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._directory = directory
        self._rate = rate
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.owner = self
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Of a page."""
        return f"{self._scheme}://{host}:{self.port}{path}"

    def page(self, path: str) -> Page | None:
        """The page of a path, or the file."""
        if path in self.pages or self._directory is None:
            return self.pages.get(path)
        place = self._directory / path.lstrip("/")
        if not place.is_file() or self._directory.resolve() not in place.resolve().parents:
            return None
        status = place.stat()
        return Page(OnDisk(place), etag=f'"{status.st_mtime_ns:x}-{status.st_size:x}"',
                    last_modified=formatdate(status.st_mtime, usegmt=True), rate=self._rate)

    def count(self, path: str) -> Count:
        """What was asked and sent so far."""
        with self.lock:
            found = self.counts.get(path, Count())
            return Count(found.requests, found.starts, found.bytes)

    def __enter__(self) -> "ImageServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="lab.imageserver", description="Serve a directory's images, and count.")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0, help="bytes a second for each request; 0 for no limit")
    options = parser.parse_args()
    with ImageServer(directory=options.directory, port=options.port, rate=options.rate) as server:
        print(server.port, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
