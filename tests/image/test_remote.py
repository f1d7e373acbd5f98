"""The site's images: one transfer for a node, checked before anybody sees it, asked for again only where that can help."""

import dataclasses
import gzip
import hashlib
import json
import os
import re
import time
from pathlib import Path

import msgspec
import pytest

from lab.imageserver import Generated, ImageServer, Page, Plain
from vmbatch.errors import EndedError, NodeError, SiteError
from vmbatch.host.http import Access
from vmbatch.image import remote
from vmbatch.image.record import Record
from vmbatch.image.store import Held, Store
from vmbatch.image.terms import Terms
from vmbatch.template import Checksum, ImageSource

from .conftest import MIB, Other, incoming, work

DATA = Generated(3 * MIB, b"one").read(0, 3 * MIB)
NEW = Generated(2 * MIB, b"two").read(0, 2 * MIB)
OBTAIN = """
import msgspec
from vmbatch.image import remote
from vmbatch.image.terms import Terms
from vmbatch.resource import Work
from vmbatch.template import ImageSource
from vmbatch.units import Deadline
source, terms = msgspec.convert(a[0], ImageSource), msgspec.convert(a[1], Terms)
say("begin"); hear()
held = remote.obtain(source, terms, Work(Deadline(60), lambda: None, lambda line: None))
say(held.path)
hear()
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def image(server: ImageServer, checksum: Checksum | None = None, compression: str = "", *paths: str) -> ImageSource:
    return ImageSource(tuple(server.url(path) for path in paths or ("/image",)), "cow", "raw", compression, checksum, "qcow2")


@pytest.fixture
def asking(terms: Terms) -> Terms:
    """A server is asked each time."""
    return msgspec.structs.replace(terms, recheck=0.0)


@pytest.fixture
def store(images: Path) -> Store:
    made = Store(str(images))
    made.make()
    return made


def obtained(source: ImageSource, terms: Terms, said: list[str] | None = None) -> Record:
    """The record of an image that nobody holds any longer, and that is in the store as it should be."""
    held = remote.obtain(source, terms, work(say=(said if said is not None else []).append))
    assert sha256(Path(held.path).read_bytes()) == held.record.content
    assert os.path.basename(held.path) == held.record.content
    held.close()
    return held.record


def nothing_is_kept(store: Store) -> None:
    assert (incoming(store), store.entries(), os.listdir(os.path.join(store.root, "content"))) == ([], [], [])


def test_an_image(server: ImageServer, terms: Terms, store: Store) -> None:
    server.pages["/image"] = page = Page(Plain(DATA))
    begin = time.time()
    found = obtained(image(server), terms)
    assert (found.content, found.size, found.format, found.published) == (
        sha256(DATA), 3 * MIB, "raw", {"sha256": sha256(DATA)})
    assert found.origin == server.url("/image")
    assert found.validators is not None
    assert (found.validators.etag, found.validators.last_modified) == (page.tag, page.last_modified)
    assert begin <= found.checked <= time.time()
    assert incoming(store) == []
    assert obtained(image(server), terms) == found
    assert server.count("/image").requests == 1


def test_find_does_not_ask(server: ImageServer, asking: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    assert remote.find(image(server), asking) is None
    obtained(image(server), asking)
    held = remote.find(image(server), asking)
    assert held is not None
    held.close()
    assert server.count("/image").requests == 1


def test_many_at_once_make_one_transfer(server: ImageServer, terms: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA), rate=6 * MIB)
    arguments = (msgspec.to_builtins(image(server)), msgspec.to_builtins(terms))
    others = [Other(OBTAIN, *arguments) for _ in range(6)]
    try:
        assert [other.line() for other in others] == ["begin"] * 6
        for other in others:
            other.tell()
        assert {other.line() for other in others} == {os.path.join(store.root, "content", sha256(DATA))}
        count = server.count("/image")
        assert (count.requests, count.bytes) == (1, len(DATA))
    finally:
        for other in others:
            other.__exit__()
    assert incoming(store) == []


def test_asked_again_and_unchanged(server: ImageServer, asking: Terms, store: Store) -> None:
    server.pages["/image"] = page = Page(Plain(DATA))
    first = obtained(image(server), asking)
    sent = server.count("/image").bytes
    obtained(image(server), asking)
    [second] = [entry.record for entry in store.entries()]
    assert server.asked[1].headers["if-none-match"] == page.tag
    assert server.count("/image").bytes == sent == len(DATA)
    assert server.count("/image").requests == 2
    assert second.checked > first.checked
    assert second.content == first.content
    assert incoming(store) == []


def test_asked_again_by_its_date(server: ImageServer, asking: Terms, store: Store) -> None:
    server.pages["/image"] = page = Page(Plain(DATA), etag="")
    obtained(image(server), asking)
    obtained(image(server), asking)
    assert server.asked[1].headers["if-modified-since"] == page.last_modified
    assert server.count("/image").bytes == len(DATA)


def test_only_after_its_time(server: ImageServer, terms: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    obtained(image(server), terms)
    obtained(image(server), terms)
    assert server.count("/image").requests == 1
    time.sleep(0.02)
    obtained(image(server), msgspec.structs.replace(terms, recheck=0.01))
    assert server.count("/image").requests == 2


def test_new_object(server: ImageServer, asking: Terms, store: Store, images: Path) -> None:
    """The old one stays while a job has it."""
    server.pages["/image"] = Page(Plain(DATA))
    old = obtained(image(server), asking)
    path = os.path.join(store.root, "content", old.content)
    os.link(path, images / "uses/vda")
    server.pages["/image"] = Page(Plain(NEW))
    new = obtained(image(server), asking)
    assert (new.content, new.size) == (sha256(NEW), 2 * MIB)
    assert sorted(os.listdir(os.path.join(store.root, "content"))) == sorted([old.content, new.content])
    assert not store.remove(old.content, ())
    assert (images / "uses/vda").read_bytes() == DATA
    os.unlink(images / "uses/vda")
    assert store.remove(old.content, ()), "nobody uses it now"
    assert [entry.record.content for entry in store.entries()] == [new.content]


def test_the_old_image_of_a_new_object_can_be_evicted(server: ImageServer, asking: Terms, store: Store, images: Path) -> None:
    """It has no record any longer, so eviction must find it another way."""
    from vmbatch.image.room import make_room

    server.pages["/image"] = Page(Plain(DATA))
    old = obtained(image(server), asking)
    server.pages["/image"] = Page(Plain(NEW))
    with Other(OBTAIN, msgspec.to_builtins(image(server)), msgspec.to_builtins(asking)) as other:
        assert other.line() == "begin"
        other.tell()
        assert other.line().endswith(sha256(NEW))
        other.kill()
        make_room(str(images), 4 * MIB, 0, MIB)
    assert os.listdir(os.path.join(store.root, "content")) == [sha256(NEW)], old.content


def test_no_descriptor_is_left(server: ImageServer, asking: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    obtained(image(server), asking)
    before = _content_fds(store)
    obtained(image(server), asking)
    server.pages["/image"] = Page(Plain(NEW))
    obtained(image(server), asking)
    assert _content_fds(store) == before == []


def _content_fds(store: Store) -> list[str]:
    """Images that we hold."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return [path for path in found if path.startswith(os.path.join(store.root, "content"))]


@pytest.mark.parametrize("bad", [{"status": 404}, {"status": 500}, {"cut_after": 0}, {"redirect": "/loop"}], ids=str)
def test_goes_on_without_its_server(server: ImageServer, asking: Terms, store: Store, bad: dict[str, object]) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    old = obtained(image(server), asking)
    server.pages["/image"] = server.pages["/loop"] = dataclasses.replace(Page(Plain(NEW)), **bad)  # type: ignore[arg-type]
    said: list[str] = []
    assert obtained(image(server), asking, said).content == old.content
    assert len(said) == 1
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(old.checked))
    assert said[0].startswith(server.url("/image"))
    assert said[0].endswith(f"; going on with the image of {when}")


def test_a_server_that_is_gone(terms: Terms, asking: Terms, store: Store) -> None:
    with ImageServer({"/image": Page(Plain(DATA))}) as server:
        source = image(server)
        old = obtained(source, terms)
    said: list[str] = []
    assert obtained(source, asking, said).content == old.content
    assert re.search(r"; going on with the image of \d{4}-\d\d-\d\d \d\d:\d\d$", said[0])


def test_it_is_not_asked_again_at_once(terms: Terms, store: Store) -> None:
    with ImageServer({"/image": Page(Plain(DATA))}) as server:
        source = image(server)
        obtained(source, terms)
    soon = msgspec.structs.replace(terms, recheck=2.0)
    time.sleep(2.1)
    said: list[str] = []
    for _ in range(3):
        obtained(source, soon, said)
    assert len(said) == 1


def test_a_server_that_hangs(server: ImageServer, asking: Terms, store: Store) -> None:
    """It does not answer within [images] transfer; the image is here."""
    server.pages["/image"] = Page(Plain(DATA))
    old = obtained(image(server), asking)
    server.pages["/image"] = Page(Plain(NEW), silent=True)
    short = msgspec.structs.replace(asking, transfer=0.7)
    assert obtained(image(server), short).content == old.content


def test_a_server_that_hangs_beyond_reading(server: ImageServer, asking: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    old = obtained(image(server), asking)
    server.pages["/image"] = Page(Plain(NEW), silent=True)
    impatient = msgspec.structs.replace(asking, access=Access(connect_timeout=1.0, read_timeout=0.2))
    assert obtained(image(server), impatient).content == old.content


def test_without_an_image_it_fails(terms: Terms, store: Store) -> None:
    with ImageServer() as server:
        source = image(server)
        with pytest.raises(NodeError, match=rf"^{source.places[0]}: the server answers 404$"):
            remote.obtain(source, terms, work())
    with pytest.raises(NodeError):
        remote.obtain(source, terms, work(5))
    nothing_is_kept(store)


def test_with_a_digest_it_never_asks(terms: Terms, asking: Terms, store: Store) -> None:
    with ImageServer({"/image": Page(Plain(DATA))}) as server:
        source = image(server, Checksum("sha256", sha256(DATA)))
        obtained(source, asking)
        obtained(source, asking)
        assert server.count("/image").requests == 1
    said: list[str] = []
    assert obtained(source, asking, said).content == sha256(DATA)
    assert said == []


@pytest.mark.parametrize("name", ["sha512", "sha1", "md5", "blake2b"])
def test_other_digests(server: ImageServer, asking: Terms, store: Store, name: str) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    right = hashlib.new(name, DATA).hexdigest()
    found = obtained(image(server, Checksum(name, right)), asking)
    assert found.published == {"sha256": sha256(DATA), name: right}
    obtained(image(server, Checksum(name, right)), asking)
    assert server.count("/image").requests == 1


@pytest.mark.parametrize("name", ["sha256", "md5"])
def test_wrong_digest(server: ImageServer, terms: Terms, store: Store, name: str) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    right = hashlib.new(name, DATA).hexdigest()
    wrong = "0" * len(right)
    for _ in range(2):
        with pytest.raises(SiteError) as caught:
            remote.obtain(image(server, Checksum(name, wrong)), terms, work())
        assert caught.value.lines() == [
            f"what came from {server.url('/image')} has the {name} {right}; the template wants {wrong} (the image was changed or "
            "damaged; if it is the right one, correct <vbcheckhash>)"]
        nothing_is_kept(store)


def test_digest_of_a_packed_image(server: ImageServer, terms: Terms, store: Store) -> None:
    """It is that of the file on the server."""
    packed = gzip.compress(DATA)
    server.pages["/image"] = Page(Plain(packed))
    found = obtained(image(server, Checksum("sha256", sha256(packed)), "gz"), terms)
    assert (found.content, found.published) == (sha256(DATA), {"sha256": sha256(packed)})
    with pytest.raises(SiteError, match=rf"has the sha256 {sha256(packed)}; the template wants {sha256(DATA)}$"):
        remote.obtain(image(server, Checksum("sha256", sha256(DATA)), "gz"), terms, work())
    assert len(store.entries()) == 1


def test_program(server: ImageServer, terms: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    listed = msgspec.structs.replace(terms, programs=("/usr/bin/sha512sum",))
    found = obtained(image(server, Checksum("/usr/bin/sha512sum", hashlib.sha512(DATA).hexdigest())), listed)
    assert found.published["/usr/bin/sha512sum"] == hashlib.sha512(DATA).hexdigest()
    with pytest.raises(SiteError, match="this program is not listed in"):
        remote.obtain(image(server, Checksum("/usr/bin/sha384sum", "1")), listed, work())
    server.pages["/image"] = Page(Plain(gzip.compress(DATA)))
    with pytest.raises(SiteError, match=r"a program cannot check a packed image$"):
        remote.obtain(image(server, Checksum("/usr/bin/sha512sum", "1"), "gz"), listed, work())
    assert incoming(store) == []


def test_the_same_content_from_two_servers_is_there_once(server: ImageServer, asking: Terms, store: Store) -> None:
    server.pages["/a"] = Page(Plain(DATA))
    server.pages["/b"] = Page(Plain(gzip.compress(DATA)))
    for _ in range(2):
        assert obtained(image(server, None, "", "/a"), asking).content == sha256(DATA)
        assert obtained(image(server, None, "gz", "/b"), asking).content == sha256(DATA)
    assert os.listdir(os.path.join(store.root, "content")) == [sha256(DATA)]
    assert [server.count(path).starts for path in ("/a", "/b")] == [1, 1]


def test_replicas(server: ImageServer, terms: Terms, store: Store) -> None:
    server.pages["/b"] = Page(Plain(DATA))
    found = obtained(image(server, None, "", "/a", "/b"), terms)
    assert (found.origin, found.content) == (server.url("/b"), sha256(DATA))


@pytest.mark.parametrize(("compression", "said"), [("", "has 64M, more than 2M"), ("gz", "unpacks to more than 2M")])
def test_largest(server: ImageServer, terms: Terms, store: Store, compression: str, said: str) -> None:
    server.pages["/image"] = Page(Plain(gzip.compress(bytes(3 * MIB))) if compression else Generated(64 * MIB))
    small = msgspec.structs.replace(terms, largest=2 * MIB)
    with pytest.raises(SiteError) as caught:
        remote.obtain(image(server, None, compression), small, work())
    assert caught.value.what == f"the image {server.url('/image')} {said}"
    assert server.count("/image").bytes < 32 * MIB
    nothing_is_kept(store)


def test_largest_is_what_the_guest_sees(server: ImageServer, terms: Terms, store: Store, place: Path) -> None:
    from tests.hostile.corpus import qcow2_file

    qcow2_file(place / "image")
    server.pages["/image"] = Page(Plain((place / "image").read_bytes()))
    source = msgspec.structs.replace(image(server), format="qcow2")
    with pytest.raises(SiteError, match=r" is a disk of 1G, but the limit is 512M$"):
        remote.obtain(source, msgspec.structs.replace(terms, largest=512 * MIB), work())
    nothing_is_kept(store)
    held = remote.obtain(source, terms, work())
    assert (held.record.size, held.record.format) == (1 << 30, "qcow2")
    held.close()


@pytest.mark.parametrize(("data", "said"), [
    (b"QFI\xfb\0\0\0\3".ljust(1024, b"\0"), "is qcow2, not raw"), (b"", "is empty"),
    (b"x" * 513, "is raw, but its 513 bytes are no multiple of 512"), (gzip.compress(DATA), "is gzip, not raw"),
], ids=["qcow2", "empty", "odd", "gzip"])
def test_what_it_is_not(server: ImageServer, terms: Terms, store: Store, data: bytes, said: str) -> None:
    server.pages["/image"] = Page(Plain(data))
    with pytest.raises(SiteError) as caught:
        remote.obtain(image(server), terms, work())
    assert caught.value.what == f"the image {server.url('/image')} {said}"
    nothing_is_kept(store)


def test_differencing(server: ImageServer, terms: Terms, store: Store, place: Path) -> None:
    from tests.hostile.corpus import vhd_file

    vhd_file(place / "image", kind=4)
    server.pages["/image"] = Page(Plain((place / "image").read_bytes()))
    with pytest.raises(SiteError, match=r" is a differencing VHD, and its parent is not here$"):
        remote.obtain(msgspec.structs.replace(image(server), format="vhd"), terms, work())
    nothing_is_kept(store)


def test_no_room(server: ImageServer, terms: Terms, store: Store, images: Path) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    with pytest.raises(NodeError) as caught:
        remote.obtain(image(server), msgspec.structs.replace(terms, limit=2 * MIB), work())
    assert caught.value.what == (
        f"the store of images {images} has no room for 3 MiB: 1 MiB are missing, and all else is in use")
    nothing_is_kept(store)


def test_room_is_made(server: ImageServer, terms: Terms, store: Store) -> None:
    server.pages["/a"], server.pages["/b"] = Page(Plain(DATA)), Page(Plain(NEW))
    small = msgspec.structs.replace(terms, limit=4 * MIB)
    obtained(image(server, None, "", "/a"), small)
    obtained(image(server, None, "", "/b"), small)
    assert os.listdir(os.path.join(store.root, "content")) == [sha256(NEW)]


def test_no_room_for_the_new_one(server: ImageServer, asking: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    small = msgspec.structs.replace(asking, limit=4 * MIB)
    old = obtained(image(server), small)
    server.pages["/image"] = Page(Plain(NEW))
    said: list[str] = []
    assert obtained(image(server), small, said).content == old.content
    assert "has no room for 2 MiB: 1 MiB are missing, and all else is in use; going on with the image of " in said[0]


def test_the_end_of_the_job(server: ImageServer, asking: Terms, store: Store) -> None:
    """Also where an image is here."""
    def over() -> None:
        raise EndedError("the job has ended")

    server.pages["/image"] = Page(Plain(DATA))
    with pytest.raises(EndedError):
        remote.obtain(image(server), asking, work(alive=over))
    obtained(image(server), asking)
    server.pages["/image"] = Page(Plain(NEW), silent=True)
    with pytest.raises(EndedError):
        remote.obtain(image(server), asking, work(alive=over))


def test_damaged_in_the_store(server: ImageServer, terms: Terms, store: Store) -> None:
    """It is fetched again, and asked for without a condition."""
    server.pages["/image"] = Page(Plain(DATA))
    found = obtained(image(server), terms)
    path = Path(store.root, "content", found.content)
    os.truncate(path, 5)
    obtained(image(server), terms)
    assert path.read_bytes() == DATA
    assert "if-none-match" not in server.asked[1].headers


def test_not_modified_without_an_image(server: ImageServer, terms: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA), status=304)
    with pytest.raises(NodeError, match=r": the server answers 304$"):
        remote.obtain(image(server), terms, work())
    nothing_is_kept(store)


def test_a_record_of_the_future_is_asked_for(server: ImageServer, terms: Terms, store: Store) -> None:
    """The clock was wrong."""
    server.pages["/image"] = Page(Plain(DATA))
    obtained(image(server), terms)
    [name] = os.listdir(os.path.join(store.root, "source"))
    path = Path(store.root, "source", name)
    path.write_text(json.dumps({**json.loads(path.read_text()), "checked": time.time() + 99999}))
    obtained(image(server), terms)
    assert server.count("/image").requests == 2


def test_held_while_it_is_obtained(server: ImageServer, terms: Terms, store: Store) -> None:
    server.pages["/image"] = Page(Plain(DATA))
    held: Held = remote.obtain(image(server), terms, work())
    assert not store.remove(held.record.content, (held.key,))
    held.close()
    assert store.remove(held.record.content, (held.key,))
