"""The door to servers: which URLs, whose credentials, and no server that can hold us."""

import http.client
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lab.imageserver import Generated, ImageServer, Page, Plain
from vmbatch.errors import DeadlineError, EndedError, SiteError
from vmbatch.host import http as client
from vmbatch.host.http import Access, is_allowed, shown
from vmbatch.units import Deadline

from .conftest import ACCESS, IMPATIENT, nothing, peak, peak_begins

DATA = bytes(range(256)) * 1000
MIB = 1 << 20


def body(
    url: str, access: Access = ACCESS, *, allowed: tuple[str, ...] | None = None, seconds: float = 60.0
) -> tuple[int, bytes]:
    """(status, body)."""
    deadline = Deadline(seconds)
    response = client.open_url(url, {}, access, allowed=allowed, deadline=deadline, alive=nothing)
    try:
        return response.status, b"".join(response.chunks(deadline, nothing))
    finally:
        response.close()


def mistake(url: str, access: Access = ACCESS, *, allowed: tuple[str, ...] | None = None) -> client.ServerError:
    with pytest.raises(client.ServerError) as caught:
        body(url, access, allowed=allowed)
    return caught.value


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("https://h.example/vm/a.img", "https://h.example/vm/"),
        ("HTTPS://H.Example/vm/a.img", "https://h.example/vm/"),
        ("https://h.example:443/vm/a.img", "https://h.example/vm/"),
        ("https://h.example/vm/a.img", "https://h.example:443/vm/"),
        ("http://h.example:8080/vm/a.img", "http://h.example:8080/vm/"),
        ("https://h.example/vm/sub/a.img?version=2", "https://h.example/vm/"),
        ("https://h.example/vm/a.img", "https://h.example/vm"),
        ("https://h.example/vm", "https://h.example/vm"),
        ("https://h.example/a", "https://h.example/"),
        ("https://h.example/a", "https://h.example"),
        ("https://h.example/vm/a%7Eb", "https://h.example/vm/"),
        ("https://h.example/%76m/a", "https://h.example/vm/"),
        ("https://h.example/vm/a..b/...", "https://h.example/vm/"),
        ("http://[::1]:80/vm/a", "http://[::1]/vm/"),
    ],
)
def test_urls_below_a_prefix(url: str, prefix: str) -> None:
    assert is_allowed(url, (prefix,))
    assert is_allowed(url, ("https://other.example/", "/home/", prefix))


@pytest.mark.parametrize(
    "url",
    [
        "", "a", "/vm/a", "//h.example/vm/a", "ftp://h.example/vm/a", "file:///vm/a", "https:/vm/a", "https:///vm/a", "https://",
        "http://h.example/vm/a",
        "https://h.example:8443/vm/a",
        "https://h.example:x/vm/a",
        "https://h.example:443:443/vm/a",
        "https://h.example:99999/vm/a",
        "https://h.example.evil.org/vm/a",
        "https://evil.org/h.example/vm/a",
        "https://xh.example/vm/a",
        "https://h.example./vm/a",
        "https://h%2eexample/vm/a",
        "https://h.ｅxample/vm/a",
        "https://u@h.example/vm/a",
        "https://u:p@h.example/vm/a",
        "https://h.example@evil.org/vm/a",
        "https://h.example\\@evil.org/vm/a",
        "https://evil.org\\@h.example/vm/a",
        "https://evil.org#@h.example/vm/a",
        "https://h.example#/vm/a",
        "https://h.example?/vm/a",
        "https://h.example/vm/a#b",
        "https://h.example/vm/a#",
        "https://h.example/vmx/a",
        "https://h.example/vm",
        "https://h.example/VM/a",
        "https://h.example/x/vm/a",
        "https://h.example//vm/a",
        "https://h.example/vm//a",
        "https://h.example/vm/../a",
        "https://h.example/vm/..",
        "https://h.example/vm/./a",
        "https://h.example/vm/.",
        "https://h.example/vm/%2e%2e/a",
        "https://h.example/vm/.%2E/a",
        "https://h.example/vm/..;/a",
        "https://h.example/vm/..;x=1/a",
        "https://h.example/vm/..%2fa",
        "https://h.example/vm/..%5ca",
        "https://h.example/vm/a%00",
        "https://h.example/vm/a%0d%0aHost:x",
        "https://h.example/vm/a%7f",
        "https://h.example/vm/%252e%252e/a",
        "https://h.example/vm/%zz",
        "https://h.example/vm/%2",
        "https://h.example/vm\\..\\a",
        "https://h.example/vm/a b",
        " https://h.example/vm/a",
        "https://h.example/vm/a\n",
        "https://h.example/v\tm/a",
        "\x01https://h.example/vm/a",
        "https://h.example/vm/ä",
        "https://[h.example/vm/a",
    ],
)
def test_urls_that_are_not_below(url: str) -> None:
    assert not is_allowed(url, ("https://h.example/vm/",))


def test_a_wrong_prefix_allows_nothing() -> None:
    for prefix in ("", "/", "https://", "https://u@h.example/", "https://h.example/../", "h.example"):
        assert not is_allowed("https://h.example/vm/a", (prefix,)), prefix
    assert not is_allowed("https://h.example/vm/a", ())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://h/a.img", "https://h/a.img"),
        ("https://user:secret@h:8443/a.img?token=secret#secret", "https://h:8443/a.img?..."),
        ("https://sec@ret@h/a", "https://h/a"),
        ("http://h/a\x1b[31m", "http://h/a?[31m"),
        ("https://[secret/a", "(not a URL)"),
        ("/home/alice/a.img", "/home/alice/a.img"),
    ],
)
def test_secrets_are_not_shown(url: str, text: str) -> None:
    assert shown(url) == text


def test_the_body_as_it_is(server: ImageServer) -> None:
    server.pages["/a"] = Page(Plain(DATA), headers=(("Content-Type", "text/plain"),))
    deadline = Deadline(60)
    response = client.open_url(server.url("/a?b=c"), {"X-Test": "1"}, ACCESS, allowed=None, deadline=deadline, alive=nothing)
    assert (response.status, response.url, response.headers["content-type"]) == (200, server.url("/a?b=c"), "text/plain")
    chunks = list(response.chunks(deadline, nothing))
    assert b"".join(chunks) == DATA
    assert max(map(len, chunks)) <= 256 << 10
    asked = server.asked[0]
    assert asked.path == "/a?b=c"
    assert (asked.headers["x-test"], asked.headers["accept-encoding"]) == ("1", "identity")
    assert "authorization" not in asked.headers


def test_a_claim_to_be_packed_changes_nothing(server: ImageServer) -> None:
    server.pages["/a"] = Page(Plain(DATA), headers=(("Content-Encoding", "gzip"),))
    assert body(server.url("/a")) == (200, DATA)


@pytest.mark.parametrize("status", [403, 404, 407, 500, 503])
def test_a_status_is_handed_on(server: ImageServer, status: int) -> None:
    server.pages["/a"] = Page(status=status)
    assert body(server.url("/a")) == (status, b"no\n")


def test_status_errors() -> None:
    error = client.StatusError("http://u:p@h/a?t=1", 404)
    assert (error.what, error.hint) == ("http://h/a?...: the server answers 404", "correct the URL")
    assert client.StatusError("http://h/a", 503).hint == "try again later"
    assert "netrc" in client.StatusError("http://h/a", 401).hint


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_is_an_error_of_its_own(server: ImageServer, chunked: bool) -> None:
    server.pages["/a"] = Page(Plain(DATA), cut_after=1000, chunked=chunked)
    url = server.url("/a")
    deadline = Deadline(60)
    chunks = client.open_url(url, {}, ACCESS, allowed=None, deadline=deadline, alive=nothing).chunks(deadline, nothing)
    found = bytearray()
    with pytest.raises(client.CutError) as caught:
        for chunk in chunks:
            found += chunk
    assert bytes(found) == DATA[:1000]
    assert caught.value.what in (f"{url}: the connection was cut", f"{url}: the server ended 255000 bytes too early")


def test_a_chunked_body_without_its_end_is_cut(server: ImageServer) -> None:
    server.pages["/a"] = Page(Plain(DATA), chunked=True, terminated=False)
    assert isinstance(mistake(server.url("/a")), client.CutError)
    server.pages["/a"] = Page(Plain(DATA), chunked=True)
    assert body(server.url("/a")) == (200, DATA)


def test_a_length_that_is_too_long_is_a_cut(server: ImageServer) -> None:
    server.pages["/a"] = Page(Plain(DATA), more=5)
    assert isinstance(mistake(server.url("/a")), client.CutError)


def test_a_stalled_body_ends_at_the_read_timeout(server: ImageServer) -> None:
    server.pages["/a"] = Page(Plain(DATA), stall_after=10)
    error = mistake(server.url("/a"), IMPATIENT)
    assert isinstance(error, client.CutError)
    assert (error.reason, error.hint) == ("the server has sent nothing for 0.3 s", "see [images] read")


def test_no_answer_ends_at_the_read_timeout(server: ImageServer) -> None:
    server.pages["/a"] = Page(silent=True)
    error = mistake(server.url("/a"), IMPATIENT)
    assert isinstance(error, client.ReachError)
    assert error.what == f"{server.url('/a')}: no answer within 0.3 s"


@pytest.mark.parametrize(
    "page", [Page(silent=True), Page(trickle=0.01), Page(Plain(DATA), stall_after=10), Page(Plain(DATA), rate=100.0)]
)
def test_no_server_holds_us_beyond_the_deadline(server: ImageServer, page: Page) -> None:
    server.pages["/a"] = page
    with pytest.raises(DeadlineError) as caught:
        body(server.url("/a"), seconds=0.5)
    assert caught.value.what == f"{server.url('/a')} was not downloaded in time"


@pytest.mark.parametrize("page", [Page(silent=True), Page(trickle=0.01), Page(Plain(DATA), stall_after=10)])
def test_alive_is_asked_and_may_end_it(server: ImageServer, page: Page) -> None:
    server.pages["/a"] = page
    asked = []

    def alive() -> None:
        asked.append(1)
        if len(asked) == 4:
            raise EndedError("the job has ended")

    deadline = Deadline(60)
    with pytest.raises(EndedError, match="the job has ended"):
        response = client.open_url(server.url("/a"), {}, ACCESS, allowed=None, deadline=deadline, alive=alive)
        for _ in response.chunks(deadline, alive):
            pass
    assert len(asked) == 4


def test_a_slow_reader_holds_the_sender_and_not_the_bytes(server: ImageServer) -> None:
    server.pages["/huge"] = Page(Generated(1 << 40))
    before = peak_begins()
    deadline = Deadline(60)
    response = client.open_url(server.url("/huge"), {}, ACCESS, allowed=None, deadline=deadline, alive=nothing)
    for number, _ in enumerate(response.chunks(deadline, nothing)):
        if number == 1000:
            break
    response.close()
    assert peak() - before < 64 << 10, "KiB"
    readers = [thread for thread in threading.enumerate() if thread.name == "download"]
    for thread in readers:
        thread.join(20.0)
    assert not any(thread.is_alive() for thread in readers)


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        error = mistake(url)
    assert isinstance(error, client.ReachError)
    assert error.what == f"{url}: the server refuses the connection"


def test_a_name_that_is_none() -> None:
    error = mistake("http://name.invalid/a")
    assert isinstance(error, client.ReachError)
    assert error.what.startswith("http://name.invalid/a: the server's name cannot be resolved: ")


def test_a_server_that_speaks_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def talk() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")

        threading.Thread(target=talk, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a"
        assert mistake(url).what == f"{url}: the connection failed before there was an answer"


def test_redirects_are_followed(server: ImageServer) -> None:
    server.pages |= {"/1": Page(redirect="2"), "/2": Page(redirect=server.url("/sub/../3#x")), "/3": Page(Plain(DATA))}
    assert body(server.url("/1")) == (200, DATA)
    assert [asked.path for asked in server.asked] == ["/1", "/2", "/3"]


def test_redirects_end(server: ImageServer) -> None:
    server.pages["/a"] = Page(redirect="/a")
    assert mistake(server.url("/a")).what == f"{server.url('/a')}: the server redirects more than 5 times"
    assert server.count("/a").requests == 6


@pytest.mark.parametrize("target", ["file:///etc/shadow", "ftp://h/a", "http://u:secret@127.0.0.1/a", "http://[x/a"])
def test_redirects_that_are_not_followed(server: ImageServer, target: str) -> None:
    server.pages["/a"] = Page(redirect=target)
    error = mistake(server.url("/a"))
    assert "the server redirects to " in error.what
    assert error.what.endswith(", which is not a URL to follow")
    assert "secret" not in error.what


def test_a_redirect_must_be_allowed(server: ImageServer) -> None:
    server.pages |= {"/vm/a": Page(redirect="/vm/b"), "/vm/b": Page(redirect="/vm/../other/c"), "/other/c": Page(Plain(DATA))}
    allowed = (server.url("/vm/"),)
    error = mistake(server.url("/vm/a"), allowed=allowed)
    assert error.reason == f"the server redirects to {server.url('/other/c')}, and images may not come from there"
    assert server.count("/other/c").requests == 0
    server.pages["/vm/b"] = Page(Plain(b"b"))
    assert body(server.url("/vm/a"), allowed=allowed) == (200, b"b")


def test_what_is_asked_for_must_be_allowed(server: ImageServer) -> None:
    error = mistake(server.url("/a"), allowed=(server.url("/vm/"),))
    assert error.what == f"{server.url('/a')}: images may not come from there"
    assert server.asked == []


def test_the_body_of_a_redirect_is_not_read(server: ImageServer) -> None:
    server.pages |= {"/a": Page(redirect="/b", flood=1 << 40), "/b": Page(Plain(DATA))}
    assert body(server.url("/a")) == (200, DATA)
    assert server.count("/a").bytes < 64 * MIB, "what the kernel took"


def test_the_password_goes_to_the_first_server_only(server: ImageServer, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password secret\n")
    with pytest.raises(SiteError, match=rf"^{netrc} can be read by others than root \(mode 0644\)$"):
        body(server.url("/a"), Access(netrc=str(netrc)))
    netrc.chmod(0o600)
    access = Access(netrc=str(netrc))
    server.pages |= {"/a": Page(redirect="/b", login="alice:secret"), "/b": Page(Plain(DATA), login="alice:secret")}
    assert body(server.url("/a"), access) == (200, DATA)
    assert body(server.url("/a"))[0] == 401
    with ImageServer({"/c": Page(Plain(DATA))}) as other:
        server.pages["/a"] = Page(redirect=other.url("/c", "localhost"), login="alice:secret")
        assert body(server.url("/a"), access) == (200, DATA)
        assert "authorization" not in other.asked[0].headers
    assert body(server.url("/b", "localhost"), access)[0] == 401


def test_a_password_in_the_url_is_used_and_not_shown(server: ImageServer) -> None:
    server.pages |= {"/a": Page(redirect="/b", login="al:p w"), "/b": Page(Plain(DATA), login="al:p w")}
    url = server.url("/a").replace("://", "://al:p%20w@")
    assert body(url) == (200, DATA)
    server.pages["/b"] = Page(Plain(DATA), cut_after=0)
    assert mistake(url).what.startswith(f"{server.url('/a')}: ")


def test_a_netrc_that_cannot_be_used(server: ImageServer, tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="No such file") as caught:
        body(server.url("/a"), Access(netrc=str(tmp_path / "none")))
    assert caught.value.hint == "see [images] netrc"
    (tmp_path / "bad").write_text("machine h login\nnonsense here")
    (tmp_path / "bad").chmod(0o600)
    with pytest.raises(SiteError, match="bad:"):
        body(server.url("/a"), Access(netrc=str(tmp_path / "bad")))


def test_nothing_comes_from_the_environment(server: ImageServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login alice password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    server.pages["/a"] = Page(Plain(DATA))
    assert body(server.url("/a")) == (200, DATA)
    assert "authorization" not in server.asked[0].headers


class Forward(BaseHTTPRequestHandler):
    """A proxy for plain http."""

    seen: list[str]
    authorization: list[str | None]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.authorization.append(self.headers.get("Proxy-Authorization"))
        parts = urlsplit(self.path)
        upstream = http.client.HTTPConnection("127.0.0.1", parts.port or 80)
        upstream.request("GET", parts.path)
        answer = upstream.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_CONNECT(self) -> None:
        self.send_error(407)


@pytest.fixture
def proxy() -> Iterator[tuple[str, type[Forward]]]:
    handler = type("Recording", (Forward,), {"seen": [], "authorization": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{made.server_port}", handler
        made.shutdown()


def test_through_a_proxy(server: ImageServer, proxy: tuple[str, type[Forward]]) -> None:
    address, handler = proxy
    server.pages["/a"] = Page(Plain(DATA))
    far = f"http://far.invalid:{server.port}/a"
    assert body(far, Access(proxy=f"http://{address}")) == (200, DATA)
    assert (handler.seen, handler.authorization) == ([far], [None])
    assert body(far, Access(proxy=f"http://bob:pw@{address}/")) == (200, DATA)
    assert handler.authorization[1] == "Basic Ym9iOnB3"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", ".localhost", "LOCALHOST"])
def test_not_through_the_proxy(server: ImageServer, proxy: tuple[str, type[Forward]], name: str) -> None:
    address, handler = proxy
    server.pages["/a"] = Page(Plain(DATA))
    host = "127.0.0.1" if name == "127.0.0.1" else "localhost"
    access = Access(proxy=f"http://{address}", no_proxy=("other.example", name))
    assert body(server.url("/a", host), access) == (200, DATA)
    assert handler.seen == []


def test_a_proxy_that_refuses(server: ImageServer, proxy: tuple[str, type[Forward]]) -> None:
    error = mistake("https://far.invalid/a", Access(proxy=f"http://bob:pw@{proxy[0]}"))
    assert error.what == "https://far.invalid/a: the proxy cannot be reached, or refuses"
    assert error.hint == "see [images] proxy"
    error = mistake("http://far.invalid/a", Access(proxy="http://bob:pw@127.0.0.1:1"))
    assert error.what == "http://far.invalid/a: the proxy cannot be reached, or refuses"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed ones: server.pem for localhost, client.pem with its key apart."""
    directory = tmp_path_factory.mktemp("certificates")
    for name, subject, extension in (("server", "localhost", "DNS:localhost"), ("client", "node", "DNS:node")):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={subject}", "-addext",
             f"subjectAltName={extension}", "-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem"],
            check=True, capture_output=True)
    return directory


def secure(certificates: Path, *, client: bool = False) -> ImageServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "client.pem")
    return ImageServer({"/a": Page(Plain(DATA))}, tls=context)


def test_a_server_with_a_known_certificate(certificates: Path) -> None:
    with secure(certificates) as server:
        assert body(server.url("/a", "localhost"), Access(ca_bundle=str(certificates / "server.pem"))) == (200, DATA)


def test_a_server_with_an_unknown_certificate(certificates: Path) -> None:
    with secure(certificates) as server:
        url = server.url("/a", "localhost")
        error = mistake(url)
        assert error.what == f"{url}: the server's certificate is not trusted: self-signed certificate"
        assert error.hint == "see [images] ca_bundle"
        assert server.asked == []


def test_a_certificate_for_another_name(certificates: Path) -> None:
    with secure(certificates) as server:
        error = mistake(server.url("/a"), Access(ca_bundle=str(certificates / "server.pem")))
        assert "the server's certificate is not trusted: IP address mismatch" in error.what


def test_authorities_come_not_from_the_environment(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(certificates / "server.pem"))
    with secure(certificates) as server:
        assert "is not trusted" in mistake(server.url("/a", "localhost")).what


def test_authorities_that_are_not_there() -> None:
    with pytest.raises(SiteError, match="/none is not there") as caught:
        body("https://localhost/a", Access(ca_bundle="/none"))
    assert caught.value.hint == "see [images] ca_bundle"


def test_a_server_that_asks_who_we_are(certificates: Path) -> None:
    bundle = str(certificates / "server.pem")
    known = Access(
        ca_bundle=bundle, client_certificate=str(certificates / "client.pem"), client_key=str(certificates / "client.key"))
    with secure(certificates, client=True) as server:
        url = server.url("/a", "localhost")
        assert body(url, known) == (200, DATA)
        assert mistake(url, Access(ca_bundle=bundle)).what.startswith(f"{url}: ")
        with ImageServer({"/r": Page(redirect=url)}) as first:
            assert mistake(first.url("/r"), known).what.startswith(f"{first.url('/r')}: "), "not for a second server"
    with pytest.raises(SiteError, match="/none is not there"):
        body("https://localhost/a", Access(ca_bundle=bundle, client_certificate="/none"))


def test_no_way_down_from_https(certificates: Path, server: ImageServer) -> None:
    server.pages["/a"] = Page(Plain(DATA))
    with secure(certificates) as first:
        first.pages["/r"] = Page(redirect=server.url("/a"))
        error = mistake(first.url("/r", "localhost"), Access(ca_bundle=str(certificates / "server.pem")))
    assert error.what.endswith(f": the server redirects from https to {server.url('/a')}, which anybody can change")
    assert server.asked == []
