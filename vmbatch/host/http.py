"""HTTP for large files: bounded in time whatever a server does, and credentials for nobody but whom they are for."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urldefrag, urljoin, urlsplit

import msgspec

from ..errors import DeadlineError, NodeError, SiteError
from ..units import Deadline
from . import file
from .access import Access as Access

if TYPE_CHECKING:
    import requests
    from requests.adapters import HTTPAdapter

_CHUNK = 256 << 10
_WAITING_CHUNKS = 8
_REDIRECTS = 5
_ALIVE_SECONDS = 0.2
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")
_REDIRECT_STATUS = (301, 302, 303, 307, 308)
_HINTS = {401: "give VmBatch a password: [images] netrc", 403: "the server lets nobody or not this node have it",
          404: "correct the URL", 407: "the proxy wants a password: [images] proxy", 410: "correct the URL"}


class ServerError(NodeError):
    """A server, or the way to it, does not give what was asked for; another server may. `reason` is `what` without the URL."""

    code = "VB304"

    def __init__(self, url: str, reason: str, hint: str = "", *, code: str = "") -> None:
        super().__init__(f"{shown(url)}: {reason}", hint, code=code)
        self.reason = reason


class ReachError(ServerError):
    """There was no answer; a moment later there may be one."""


class CutError(ServerError):
    """A body ended before its end: going on from there may help."""

    code = "VB305"


class StatusError(ServerError):
    """The server answered, but not with what was asked for."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(url, f"the server answers {status}", _HINTS.get(status, "try again later" if status >= 500 else ""))
        self.status = status


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    if "://" not in url:
        return url
    parts = _split(url)
    if not parts.scheme:
        return "(not a URL)"
    text = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + ("?..." if parts.query else "")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def is_allowed(url: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a URL is one of `prefixes` or lies below it: same scheme, host and port, and whole directories of its path.

    What two readers could read in two ways is not allowed.
    """
    place = _place(url)
    if place is None:
        return False
    for prefix in prefixes:
        other = _place(prefix)
        if other is None or place[0] != other[0]:
            continue
        below = other[1][:-1] if other[1][-1] == "" else other[1]
        if place[1][: len(below)] == below and len(place[1]) >= len(other[1]):
            return True
    return False


def _place(url: str) -> tuple[tuple[str, str, int], list[str]] | None:
    """Origin and directories and name of a URL, the last one '' for a directory; None for one that could be read in two ways."""
    if not re.fullmatch(r"[!-~]+", url) or re.search(r"[\\#<>\"`{}|^]", url):
        return None
    parts = _split(url)
    origin = _origin(url)
    if origin is None or not _HOST.fullmatch(parts.netloc):
        return None
    if re.search(r"%(2e|2f|5c|25|[01][0-9a-f]|7f|20|(?![0-9a-f]{2}))", parts.path, re.IGNORECASE):
        return None
    segments = unquote(parts.path or "/", "latin-1").split("/")[1:]
    if "" in segments[:-1] or any(segment.partition(";")[0] in (".", "..") for segment in segments):
        return None
    return origin, segments


def _origin(url: str) -> tuple[str, str, int] | None:
    """(scheme, host, port); None unless it is http or https."""
    parts = _split(url)
    try:
        port = parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):
        return None
    host = (parts.hostname or "").lower()
    return (parts.scheme, host, port) if host else None


class _End(msgspec.Struct, frozen=True):
    """What the reading thread says last: None, or what went wrong."""

    error: Exception | None


class Response:
    """An answer whose body is being read by another thread; `headers` by their names in lower case."""

    def __init__(self, url: str, access: Access, headers: dict[str, str], allowed: tuple[str, ...] | None,
                 method: str = "GET") -> None:
        self.url = url
        self._method = method
        self.status = 0
        self.headers: dict[str, str] = {}
        self._asked = url
        self._access = access
        self._request_headers = {"Accept-Encoding": "identity", "User-Agent": "vmbatch", **headers}
        self._allowed = allowed
        self._answered = threading.Event()
        self._failed: Exception | None = None
        self._stop = threading.Event()
        self._chunks: queue.Queue[bytes | _End] = queue.Queue(_WAITING_CHUNKS)
        threading.Thread(target=self._work, name="download", daemon=True).start()

    def wait(self, deadline: Deadline, alive: Callable[[], None]) -> None:
        """Until the answer's headers are there. ServerError, SiteError, DeadlineError, and whatever `alive` raises."""
        while not self._answered.wait(min(_ALIVE_SECONDS, deadline.left() + 0.001)):
            self._check(deadline, alive)
        if self._failed is not None:
            raise self._failed

    def chunks(self, deadline: Deadline, alive: Callable[[], None]) -> Iterator[bytes]:
        """The body, as sent. CutError, DeadlineError, and whatever `alive` raises."""
        checked = 0.0
        while True:
            if time.monotonic() >= checked + _ALIVE_SECONDS / 2:
                self._check(deadline, alive)
                checked = time.monotonic()
            try:
                item = self._chunks.get(timeout=_ALIVE_SECONDS / 2)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def close(self) -> None:
        """Stops reading; the thread ends at its next chunk."""
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._chunks.get_nowait()

    def _check(self, deadline: Deadline, alive: Callable[[], None]) -> None:
        alive()
        if deadline.passed():
            raise DeadlineError(f"{shown(self._asked)} was not downloaded in time", "see [images] transfer", code="VB311")

    def _work(self) -> None:
        from requests.adapters import HTTPAdapter

        try:
            with contextlib.closing(HTTPAdapter()) as adapter, self._follow(adapter) as answer:
                self.status = answer.status_code
                self.headers = {name.lower(): value for name, value in answer.headers.items()}
                self._answered.set()
                self._read(answer)
            self._put(_End(None))
        except Exception as error:
            answered = self._answered.is_set()
            known = isinstance(error, NodeError | SiteError)
            found = error if known else _explain(error, self._asked, answered, self._access)
            if not answered:
                self._failed = found
                self._answered.set()
            self._put(_End(found))

    def _follow(self, adapter: HTTPAdapter) -> requests.Response:
        """Follows redirects by hand: each must be allowed, and none but the first server sees credentials."""
        for _ in range(_REDIRECTS + 1):
            answer = self._ask(adapter)
            if answer.status_code not in _REDIRECT_STATUS or "location" not in answer.headers:
                return answer
            answer.close()
            target = _joined(_bare(self.url), answer.headers["location"])
            self._check_target(target)
            self.url = target
        raise ServerError(self._asked, f"the server redirects more than {_REDIRECTS} times")

    def _ask(self, adapter: HTTPAdapter) -> requests.Response:
        """One request. HTTPAdapter and not Session, which reads the body of a redirect into memory (requests, Session.send)."""
        import requests

        first = _origin(self.url) == _origin(self._asked)
        password = _password(self._asked, self._access.netrc) if first else None
        request = requests.Request(self._method, _bare(self.url), self._request_headers, auth=password)
        return adapter.send(
            request.prepare(), stream=True, timeout=(self._access.connect_timeout, self._access.read_timeout),
            verify=_authorities(self._access) if self.url.startswith("https:") else True,
            cert=_certificate(self._access) if first else None, proxies=_proxies(self.url, self._access))

    def _check_target(self, target: str) -> None:
        if _origin(target) is None or "@" in _split(target).netloc:
            raise ServerError(self._asked, f"the server redirects to {shown(target)}, which is not a URL to follow")
        if self.url.startswith("https:") and not target.startswith("https:"):
            raise ServerError(self._asked, f"the server redirects from https to {shown(target)}, which anybody can change",
                              code="VB307")
        if self._allowed is not None and not is_allowed(target, self._allowed):
            raise ServerError(self._asked, f"the server redirects to {shown(target)}, and images may not come from there",
                              code="VB307")

    def _read(self, answer: requests.Response) -> None:
        length = self.headers.get("content-length", "")
        left = int(length) if re.fullmatch(r"[0-9]{1,18}", length) and "transfer-encoding" not in self.headers else None
        if self._method == "HEAD":
            return
        while not self._stop.is_set():
            chunk = answer.raw.read1(_CHUNK if left is None else min(_CHUNK, left)) if left != 0 else b""
            if not chunk:
                break
            if left is not None:
                left -= len(chunk)
            self._put(chunk)
        if left:
            raise CutError(self._asked, f"the server ended {left} bytes too early")

    def _put(self, item: bytes | _End) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._chunks.put(item, timeout=_ALIVE_SECONDS)
                return


def open_url(
    url: str, headers: dict[str, str], access: Access, *, allowed: tuple[str, ...] | None, deadline: Deadline,
    alive: Callable[[], None], method: str = "GET",
) -> Response:
    """Asks for a URL and waits for the answer, of whatever status. ServerError, SiteError, DeadlineError; what `alive` raises."""

    if allowed is not None and not is_allowed(url, allowed):
        raise ServerError(url, "images may not come from there", code="VB307")
    response = Response(url, access, headers, allowed, method)
    try:
        response.wait(deadline, alive)
    except BaseException:
        response.close()
        raise
    return response


def _joined(url: str, reference: str) -> str:
    """Where a redirect leads; the reference itself where that is no URL."""
    try:
        return urldefrag(urljoin(url, reference)).url
    except ValueError:
        return reference


def _bare(url: str) -> str:
    """Without user and password."""
    parts = _split(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _password(url: str, path: str) -> tuple[str, str] | None:
    """What the URL says itself, or the netrc file."""
    parts = _split(url)
    if parts.username is not None:
        return unquote(parts.username), unquote(parts.password or "")
    if not path:
        return None
    import netrc

    if os.path.lexists(path):
        file.check_secret(path)
    try:
        found = netrc.netrc(path).authenticators(parts.hostname or "")
    except OSError as error:
        raise SiteError(f"{path} cannot be read: {error.strerror}", "see [images] netrc", code="VB306") from None
    except netrc.NetrcParseError as error:
        raise SiteError(f"{path}:{error.lineno}: {error.msg}", "see [images] netrc and netrc(5)", code="VB306") from None
    return None if found is None else (found[0] or found[1], found[2])


def _authorities(access: Access) -> str:
    """The file or directory of certificate authorities; those of the system where OpenSSL was built to look, not certifi's."""
    if access.ca_bundle:
        if not os.path.exists(access.ca_bundle):
            raise SiteError(f"{access.ca_bundle} is not there", "see [images] ca_bundle", code="VB306")
        file.check_trusted(access.ca_bundle)
        return access.ca_bundle
    paths = ssl.get_default_verify_paths()
    for path in (paths.openssl_cafile, paths.openssl_capath):
        if os.path.exists(path):
            return path
    raise SiteError("this node has no certificate authorities for https", "install ca-certificates, or set [images] ca_bundle",
                    code="VB306")


def _certificate(access: Access) -> str | tuple[str, str] | None:
    if not access.client_certificate:
        return None
    for path in filter(None, (access.client_certificate, access.client_key)):
        if not os.path.exists(path):
            raise SiteError(f"{path} is not there", "see [images] client_certificate and client_key", code="VB306")
        file.check_trusted(path)
    file.check_secret(access.client_key or access.client_certificate)
    return (access.client_certificate, access.client_key) if access.client_key else access.client_certificate


def _proxies(url: str, access: Access) -> dict[str, str]:
    host = (_split(url).hostname or "").lower()
    direct = any(host == name or host.endswith(f".{name}") for name in (name.lower().lstrip(".") for name in access.no_proxy))
    return {} if direct or not access.proxy else {"http": access.proxy, "https": access.proxy}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it came from; urllib3 keeps the cause in `reason` or in the arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) not in seen:
            seen.add(id(found))
            yield found
            more = (getattr(found, "reason", None), *found.args, found.__cause__, found.__context__)
            waiting.extend(other for other in more if isinstance(other, BaseException))


def _explain(error: Exception, url: str, answered: bool, access: Access) -> ServerError:
    """What went wrong, as people say it."""
    from requests import exceptions

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ServerError(url, f"the server's certificate is not trusted: {cause.verify_message}", "see [images] ca_bundle",
                               code="VB306")
    if answered:
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return CutError(url, f"the server has sent nothing for {access.read_timeout:g} s", "see [images] read")
        return CutError(url, "the connection was cut")
    if isinstance(error, exceptions.ProxyError):
        return ReachError(url, "the proxy cannot be reached, or refuses", "see [images] proxy")
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return ReachError(url, f"the server's name cannot be resolved: {cause.strerror}",
                              "correct the URL, or see the node's DNS")
        if isinstance(cause, ssl.SSLError):
            return ServerError(url, f"no secure connection: {(cause.reason or 'unknown').replace('_', ' ').lower()}",
                               "see [images] client_certificate", code="VB306")
        if isinstance(cause, ConnectionRefusedError):
            return ReachError(url, "the server refuses the connection", "see whether it runs")
    if isinstance(error, exceptions.ConnectTimeout):
        return ReachError(url, f"no connection within {access.connect_timeout:g} s", "see [images] connect")
    if isinstance(error, exceptions.Timeout):
        return ReachError(url, f"no answer within {access.read_timeout:g} s", "see [images] read")
    if isinstance(error, exceptions.InvalidURL | exceptions.InvalidHeader | exceptions.MissingSchema | exceptions.InvalidSchema):
        return ServerError(url, "this is not a URL that can be asked for", "correct the URL")
    errno = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), "")
    return ReachError(url, f"the connection failed{': ' + errno if errno else ' before there was an answer'}")


def sleep(seconds: float, deadline: Deadline, alive: Callable[[], None]) -> None:
    """Waits between attempts."""
    over = deadline.earlier(seconds)
    while not over.passed():
        alive()
        time.sleep(min(_ALIVE_SECONDS, over.left()))
