"""Every bad server ends in the right image or in a clear error, and no byte comes twice that need not."""

import bz2
import dataclasses
import errno
import gzip
import hashlib
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
import zstandard

from lab.imageserver import Generated, ImageServer, Page, Plain
from vmbatch.errors import DeadlineError, EndedError, NodeError, SiteError
from vmbatch.format import FormatError
from vmbatch.host import file
from vmbatch.image import transfer

from .conftest import IMPATIENT, Place, peak, peak_begins

MIB = 1 << 20
IMAGE = hashlib.shake_128(b"image").digest(MIB) + bytes(MIB) + b"the end" + bytes(5000)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
EACH = pytest.mark.parametrize("compression", PACK)
ONE = 300_000
KEPT = ["image.part", "image.part.json"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed(compression: str) -> bytes:
    return PACK[compression](IMAGE)


def mistake(place: Place, *urls: str, compression: str = "") -> NodeError:
    with pytest.raises(NodeError) as caught:
        place.fetch(*urls, compression=compression)
    return caught.value


def leave(place: Place, server: ImageServer, page: Page, length: int, compression: str = "") -> None:
    """A partial download of `length` bytes that its holder had to give up."""
    server.pages["/image"] = dataclasses.replace(page, stall_after=length)
    place.alive = given_up(place, length)
    with pytest.raises(EndedError):
        place.fetch(server.url("/image"), compression=compression)
    place.alive = lambda: None
    assert place.names == KEPT
    assert place.partial.stat().st_size == length
    server.pages["/image"] = page
    server.counts.clear()
    server.asked.clear()


def given_up(place: Place, length: int) -> Callable[[], None]:
    """Alive until so much is there."""

    def alive() -> None:
        if place.partial.exists() and place.partial.stat().st_size >= length:
            raise EndedError("the job has ended")

    return alive


@EACH
def test_an_image(place: Place, server: ImageServer, compression: str) -> None:
    data = packed(compression)
    server.pages["/image"] = page = Page(Plain(data))
    place.algorithms = ("md5", "sha512")
    found = place.got(server.url("/image"), compression=compression)
    assert place.target.read_bytes() == IMAGE
    assert found == transfer.Transferred(
        size=len(IMAGE), content=sha256(IMAGE), moved=len(data),
        digests={"md5": hashlib.md5(data, usedforsecurity=False).hexdigest(), "sha512": hashlib.sha512(data).hexdigest()},
        validators=transfer.Validators(server.url("/image"), page.tag, page.last_modified))
    assert place.target.stat().st_mode & 0o777 == 0o600
    assert place.rooms[0] == len(data)
    assert place.steps[-1] == (len(data), len(data))
    assert server.count("/image").bytes == len(data)


@EACH
def test_zeros_take_no_space(place: Place, server: ImageServer, compression: str) -> None:
    image = Generated(16 * MIB, sparse=True).read(0, 16 * MIB) + bytes(20 * MIB)
    server.pages["/image"] = Page(Plain(PACK[compression](image)))
    place.got(server.url("/image"), compression=compression)
    status = place.target.stat()
    assert (status.st_size, sha256(place.target.read_bytes())) == (len(image), sha256(image))
    assert status.st_blocks * 512 < 12 * MIB


def test_an_empty_image(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(b""))
    assert place.got(server.url("/image")).content == sha256(b"")
    assert place.target.read_bytes() == b""


@EACH
@pytest.mark.parametrize("chunked", [False, True])
def test_one_cut_is_mended_where_it_was(place: Place, server: ImageServer, compression: str, chunked: bool) -> None:
    data = packed(compression)
    server.pages["/image"] = Page(Plain(data), cut_after=ONE, times=1, chunked=chunked)
    found = place.got(server.url("/image"), compression=compression)
    assert place.target.read_bytes() == IMAGE
    assert (found.digests, found.content) == ({"sha256": sha256(data)}, sha256(IMAGE))
    count = server.count("/image")
    assert (count.requests, count.starts, count.bytes) == (2, 1, len(data))
    assert server.asked[1].headers["range"] == f"bytes={ONE}-"
    assert server.asked[1].headers["if-range"] == server.pages["/image"].tag


def test_many_cuts_while_there_is_progress(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(IMAGE), cut_after=250_000)
    assert place.got(server.url("/image")).moved == len(IMAGE)
    assert place.target.read_bytes() == IMAGE
    count = server.count("/image")
    assert (count.requests, count.starts, count.bytes) == (-(-len(IMAGE) // 250_000), 1, len(IMAGE))


def test_a_stall_is_a_cut(place: Place, server: ImageServer) -> None:
    place.access = IMPATIENT
    server.pages["/image"] = Page(Plain(IMAGE), stall_after=ONE, times=1)
    place.got(server.url("/image"))
    assert place.target.read_bytes() == IMAGE
    assert server.count("/image").bytes == len(IMAGE)


def test_no_progress_ends_after_some_attempts(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(IMAGE), cut_after=ONE, after=1, then=Page(Plain(IMAGE), cut_after=0))
    error = mistake(place, server.url("/image"))
    assert error.what in (f"{server.url('/image')}: the server ended {len(IMAGE) - ONE} bytes too early",
                          f"{server.url('/image')}: the connection was cut")
    assert server.count("/image").requests == 6
    assert place.names == KEPT, "the next job goes on"
    server.pages["/image"] = Page(Plain(IMAGE))
    assert place.got(server.url("/image")).moved == len(IMAGE) - ONE


def test_an_outage_after_a_cut_is_waited_for(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(IMAGE), cut_after=ONE, then=Page(status=503, then=Page(Plain(IMAGE))))
    place.got(server.url("/image"))
    assert place.target.read_bytes() == IMAGE
    count = server.count("/image")
    assert (count.requests, count.starts, count.bytes) == (3, 1, len(IMAGE))


def test_a_length_that_is_too_long(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(IMAGE), more=100)
    assert server.url("/image") in mistake(place, server.url("/image")).what
    assert not place.target.exists()


def test_a_length_that_is_too_short_is_believed(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(IMAGE), more=-7)
    assert place.got(server.url("/image")).digests == {"sha256": sha256(IMAGE[:-7])}, "the caller compares"


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_a_length_that_is_too_short_is_noticed_in_what_is_packed(place: Place, server: ImageServer, compression: str) -> None:
    server.pages["/image"] = Page(Plain(packed(compression)), more=-7)
    with pytest.raises(FormatError, match="is cut short"):
        place.fetch(server.url("/image"), compression=compression)
    assert place.names == []


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_a_corrupt_byte(place: Place, server: ImageServer, compression: str) -> None:
    server.pages["/image"] = Page(Plain(packed(compression)), corrupt_at=ONE)
    with pytest.raises(FormatError, match="is damaged"):
        place.fetch(server.url("/image"), compression=compression)
    assert place.names == []


def test_a_corrupt_byte_is_in_the_digest(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(IMAGE), corrupt_at=ONE)
    wrong = IMAGE[:ONE] + bytes([IMAGE[ONE] ^ 0x55]) + IMAGE[ONE + 1 :]
    found = place.got(server.url("/image"))
    assert (found.digests["sha256"], found.content) == (sha256(wrong), sha256(wrong))


def test_something_else_than_what_was_packed(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(b"<html>log in</html>"))
    with pytest.raises(FormatError, match=r"^is not gzip$"):
        place.fetch(server.url("/image"), compression="gz")
    assert place.names == []


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large(place: Place, server: ImageServer, chunked: bool) -> None:
    place.limit = MIB
    server.pages["/image"] = Page(Plain(IMAGE), chunked=chunked)
    with pytest.raises(FormatError, match=r"more than 1M$"):
        place.fetch(server.url("/image"))
    assert place.names == []
    place.limit = len(IMAGE)
    place.got(server.url("/image"))


def test_a_bomb(place: Place, server: ImageServer) -> None:
    place.limit = 64 * MIB
    server.pages["/image"] = Page(Plain(gzip.compress(bytes(65 * MIB))))
    with pytest.raises(FormatError, match=r"^unpacks to more than 64M$"):
        place.fetch(server.url("/image"), compression="gz")
    assert place.names == []


def test_a_packed_image_that_never_ends(place: Place, server: ImageServer) -> None:
    place.limit = MIB
    empty = gzip.compress(b"")
    server.pages["/image"] = Page(Plain(empty * (4 * MIB // len(empty))), chunked=True)
    with pytest.raises(FormatError, match=r"^has more than 1M$"):
        place.fetch(server.url("/image"), compression="gz")
    assert place.names == []


@pytest.mark.parametrize("page", [
    Page(Plain(IMAGE), cut_after=ONE, then=Page(Plain(b"x" + IMAGE))),
    Page(Plain(IMAGE), cut_after=ONE, then=Page(Plain(b"x" + IMAGE), range_etag='"other"', then=Page(Plain(b"x" + IMAGE)))),
    Page(Plain(IMAGE), cut_after=ONE, then=Page(Plain(b"x" + IMAGE), range_shift=5, then=Page(Plain(b"x" + IMAGE)))),
    Page(Plain(b"x" + IMAGE), cut_after=ONE, then=Page(Plain(b"x" + IMAGE), range_shift=5, then=Page(Plain(b"x" + IMAGE)))),
    Page(Plain(b"x" + IMAGE), cut_after=ONE, then=Page(Plain(b"x" + IMAGE), range_total=9, then=Page(Plain(b"x" + IMAGE)))),
    Page(Plain(IMAGE), cut_after=ONE, then=Page(Plain(b"small"), etag=Page(Plain(IMAGE)).tag, then=Page(Plain(b"x" + IMAGE)))),
], ids=["new", "206 of another", "206 of another at another place", "206 at another place", "206 of another size", "416"])
def test_another_object_begins_again(place: Place, server: ImageServer, page: Page) -> None:
    server.pages["/image"] = page
    found = place.got(server.url("/image"))
    assert place.target.read_bytes() == b"x" + IMAGE
    assert (found.content, found.digests) == (sha256(b"x" + IMAGE), {"sha256": sha256(b"x" + IMAGE)})
    assert found.validators.etag == Page(Plain(b"x" + IMAGE)).tag


@EACH
def test_a_new_object_is_taken_from_the_answer_that_brings_it(place: Place, server: ImageServer, compression: str) -> None:
    data, image = packed(compression), b"x" + IMAGE
    server.pages["/image"] = Page(Plain(data), cut_after=ONE, then=Page(Plain(PACK[compression](image))))
    place.got(server.url("/image"), compression=compression)
    assert place.target.read_bytes() == image
    count = server.count("/image")
    assert (count.requests, count.starts, count.bytes) == (2, 2, ONE + len(PACK[compression](image)))


def test_an_object_that_is_another_one_each_time(place: Place, server: ImageServer) -> None:
    page = Page(Plain(IMAGE), cut_after=ONE)
    for number in range(20):
        page = Page(Plain(b"%d" % number + IMAGE), cut_after=ONE, then=page)
    server.pages["/image"] = page
    error = mistake(place, server.url("/image"))
    assert error.what == f"{server.url('/image')}: the server begins again instead of going on, 5 times"
    assert place.names == []


@pytest.mark.parametrize("page", [Page(Plain(IMAGE), ranges=False), Page(Plain(IMAGE), etag="", last_modified=""),
                                  Page(Plain(IMAGE), etag='W/"weak"', last_modified="")])
def test_a_server_that_cannot_go_on_begins_again(place: Place, server: ImageServer, page: Page) -> None:
    server.pages["/image"] = dataclasses.replace(page, cut_after=ONE, then=page)
    place.got(server.url("/image"))
    assert place.target.read_bytes() == IMAGE
    assert server.count("/image").starts == 2


def test_a_date_serves_where_there_is_no_tag(place: Place, server: ImageServer) -> None:
    page = Page(Plain(IMAGE), etag='W/"weak"')
    server.pages["/image"] = dataclasses.replace(page, cut_after=ONE, then=page)
    place.got(server.url("/image"))
    assert place.target.read_bytes() == IMAGE
    assert server.asked[1].headers["if-range"] == page.last_modified
    assert server.count("/image").bytes == len(IMAGE)


def test_a_date_of_this_moment_proves_nothing(place: Place, server: ImageServer) -> None:
    page = Page(Plain(IMAGE), etag="", last_modified=formatdate(4e9, usegmt=True))
    server.pages["/image"] = dataclasses.replace(page, cut_after=ONE, then=page)
    place.got(server.url("/image"))
    assert "range" not in server.asked[1].headers


@pytest.mark.parametrize(
    ("status", "hint"),
    [(404, "correct the URL"), (403, "the server lets nobody or not this node have it"), (500, "try again later"),
     (503, "try again later"), (204, ""), (206, ""), (416, "")],
)
def test_other_answers(place: Place, server: ImageServer, status: int, hint: str) -> None:
    server.pages["/image"] = Page(status=status)
    error = mistake(place, server.url("/image"))
    assert (error.what, error.hint) == (f"{server.url('/image')}: the server answers {status}", hint)
    assert place.names == []
    assert server.count("/image").requests == 1


def test_packing_on_the_way(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(packed("gz")), headers=(("Content-Encoding", "gzip"),))
    error = mistake(place, server.url("/image"))
    assert error.what == f"{server.url('/image')}: the server packs what it sends (gzip), though asked not to"
    assert place.names == []
    place.got(server.url("/image"), compression="gz")
    assert place.target.read_bytes() == IMAGE, "many servers say so of a file NAME.gz"


def test_the_next_mirror(place: Place, server: ImageServer) -> None:
    server.pages |= {"/gone": Page(status=404), "/image": Page(Plain(IMAGE))}
    found = place.got("http://127.0.0.1:1/image", server.url("/gone"), server.url("/image"), "http://name.invalid/")
    assert found.validators.url == server.url("/image")
    assert place.target.read_bytes() == IMAGE


def test_no_mirror(place: Place, server: ImageServer) -> None:
    server.pages |= {"/gone": Page(status=404), "/broken": Page(status=500)}
    error = mistake(place, server.url("/gone") + "?secret", server.url("/broken"))
    assert error.what == (f"no server has the image: {server.url('/gone')}?...: the server answers 404; "
                          f"{server.url('/broken')}: the server answers 500")
    assert error.hint == "correct the URL"
    assert place.names == []


def test_a_mirror_that_breaks_in_the_middle(place: Place, server: ImageServer) -> None:
    server.pages |= {"/1": Page(Plain(IMAGE), cut_after=ONE, then=Page(status=404)), "/2": Page(Plain(b"x" + IMAGE))}
    found = place.got(server.url("/1"), server.url("/2"))
    assert place.target.read_bytes() == b"x" + IMAGE
    assert found.validators.url == server.url("/2")
    assert "range" not in server.asked[2].headers, "another mirror may have another object"


def test_a_mirror_that_is_gone_does_not_cost_what_is_there(place: Place, server: ImageServer) -> None:
    leave(place, server, Page(Plain(IMAGE)), ONE)
    server.pages["/image"] = Page(status=503)
    error = mistake(place, server.url("/other"), server.url("/image"))
    assert error.what.startswith(f"no server has the image: {server.url('/image')}: "), "where something came from is asked first"
    assert place.names == KEPT
    server.pages["/image"] = Page(Plain(IMAGE))
    assert place.got(server.url("/other"), server.url("/image")).moved == len(IMAGE) - ONE


@EACH
def test_the_next_job_goes_on(place: Place, server: ImageServer, compression: str) -> None:
    data = packed(compression)
    leave(place, server, Page(Plain(data)), ONE, compression)
    place.rooms.clear()
    place.algorithms = ("sha1", "sha256")
    found = place.got(server.url("/image"), compression=compression)
    assert place.target.read_bytes() == IMAGE
    assert found.moved == len(data) - ONE
    assert found.digests == {"sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest(), "sha256": sha256(data)}
    assert found.content == sha256(IMAGE)
    assert place.rooms[0] == len(data) - ONE
    count = server.count("/image")
    assert (count.requests, count.starts, count.bytes) == (1, 0, len(data) - ONE)


def test_holes_are_gone_over_again(place: Place, server: ImageServer) -> None:
    leave(place, server, Page(Plain(IMAGE)), MIB + ONE)
    assert place.got(server.url("/image")).content == sha256(IMAGE)
    assert place.target.read_bytes() == IMAGE


@pytest.mark.parametrize("changes", [{"boot": "another"}, {"condition": ""}, {"total": 5}, {"total": "nonsense"},
                                     {"validators": {"url": "http://other.invalid/", "etag": '"a"', "last_modified": ""}}])
def test_what_does_not_fit_is_not_gone_on_with(place: Place, server: ImageServer, changes: dict[str, object]) -> None:
    leave(place, server, Page(Plain(IMAGE)), ONE)
    place.change_record(**changes)
    place.got(server.url("/image"))
    assert place.target.read_bytes() == IMAGE
    assert "range" not in server.asked[0].headers


def test_a_record_without_its_file_and_a_file_without_its_record(place: Place, server: ImageServer) -> None:
    for name in KEPT:
        leave(place, server, Page(Plain(IMAGE)), ONE)
        (place.directory / name).unlink()
        place.got(server.url("/image"))
        assert place.target.read_bytes() == IMAGE
        place.target.unlink()


def test_a_file_that_is_longer_than_the_object(place: Place, server: ImageServer) -> None:
    leave(place, server, Page(Plain(IMAGE)), ONE)
    os.truncate(place.partial, len(IMAGE) + 1)
    place.got(server.url("/image"))
    assert place.target.read_bytes() == IMAGE


def test_nothing_is_missing(place: Place, server: ImageServer) -> None:
    leave(place, server, Page(Plain(IMAGE)), ONE)
    place.partial.write_bytes(IMAGE)
    found = place.got(server.url("/image"))
    assert (found.moved, found.content) == (0, sha256(IMAGE))
    assert server.asked == []


def test_nothing_is_missing_of_an_unknown_length(place: Place, server: ImageServer) -> None:
    leave(place, server, Page(Plain(IMAGE), chunked=True), ONE)
    place.partial.write_bytes(IMAGE)
    found = place.got(server.url("/image"))
    assert (found.moved, found.content) == (0, sha256(IMAGE))
    assert (server.count("/image").requests, server.count("/image").starts) == (1, 0)


def test_no_link_is_followed(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(IMAGE))
    other = place.directory.parent / "other"
    other.write_bytes(b"precious")
    place.partial.symlink_to(other)
    assert "Too many levels of symbolic links" in mistake(place, server.url("/image")).what
    assert other.read_bytes() == b"precious"
    assert place.names == []


def test_nothing_newer(place: Place, server: ImageServer) -> None:
    server.pages["/image"] = Page(Plain(IMAGE))
    place.known = place.got(server.url("/image")).validators
    place.target.unlink()
    assert place.fetch(server.url("/image")) is None
    assert place.names == []
    server.pages["/image"] = Page(Plain(IMAGE), etag="")
    place.known = transfer.Validators(server.url("/image"), "", server.pages["/image"].last_modified)
    assert place.fetch(server.url("/image")) is None
    server.pages["/image"] = Page(Plain(b"x" + IMAGE), last_modified=formatdate(1_650_000_000, usegmt=True))
    assert place.got(server.url("/image")).content == sha256(b"x" + IMAGE)


def test_what_is_known_of_one_server_says_nothing_of_another(place: Place, server: ImageServer) -> None:
    server.pages |= {"/image": Page(Plain(IMAGE)), "/copy": Page(Plain(IMAGE))}
    place.known = transfer.Validators(server.url("/copy"), Page(Plain(IMAGE)).tag, "")
    place.got(server.url("/image"))
    assert "if-none-match" not in server.asked[0].headers


@EACH
def test_the_deadline_leaves_what_came(place: Place, server: ImageServer, compression: str) -> None:
    data = packed(compression)
    server.pages["/image"] = Page(Plain(data), stall_after=ONE)
    place.seconds = 1.0
    error = mistake(place, server.url("/image"), server.url("/other"), compression=compression)
    assert isinstance(error, DeadlineError)
    assert error.what == f"{server.url('/image')} was not downloaded in time"
    assert place.names == KEPT
    server.pages["/image"], place.seconds = Page(Plain(data)), 120.0
    assert place.got(server.url("/image"), compression=compression).moved == len(data) - ONE
    assert place.target.read_bytes() == IMAGE


@pytest.mark.parametrize("compression", ["", "gz"])
def test_no_room(place: Place, server: ImageServer, compression: str) -> None:
    def room(coming: int) -> None:
        raise SiteError(f"no room for {coming}")

    data = packed(compression)
    server.pages["/image"] = Page(Plain(data))
    with pytest.raises(SiteError, match=f"^no room for {len(data)}$"):
        place.fetch(server.url("/image"), server.url("/other"), compression=compression, room=room)
    assert place.names == []
    assert server.count("/other").requests == 0


@pytest.mark.parametrize("compression", ["", "gz"])
def test_room_is_asked_for_on_the_way(place: Place, server: ImageServer, compression: str) -> None:
    image = hashlib.shake_128(b"room").digest(MIB) * 150
    server.pages["/image"] = Page(Plain(gzip.compress(image, 0) if compression else image), chunked=True)
    place.got(server.url("/image"), compression=compression)
    assert place.rooms == [64 * MIB] * (4 if compression else 2), "what came and what was unpacked"


@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_full_disk(place: Place, server: ImageServer, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> None:
        if offset > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file, "write_sparse", full)
    server.pages["/image"] = Page(Plain(packed(compression)))
    error = mistake(place, server.url("/image"), server.url("/other"), compression=compression)
    assert error.what == f"{server.url('/image')} cannot be written to {place.directory}: the disk is full"
    assert place.names == []
    assert server.count("/other").requests == 0


def test_memory_is_bounded_for_huge_images(place: Place, server: ImageServer) -> None:
    image = Generated(512 * MIB, sparse=True)
    server.pages["/image"] = Page(image)
    before = peak_begins()
    assert place.got(server.url("/image")).content == image.sha256
    assert peak() - before < 96 << 10, "KiB"


def test_only_from_where_it_is_allowed(place: Place, server: ImageServer) -> None:
    server.pages |= {"/vm/image": Page(redirect="/image"), "/image": Page(Plain(IMAGE))}
    place.allowed = (server.url("/vm/"),)
    assert mistake(place, server.url("/vm/image")).what.endswith("and images may not come from there")
    assert mistake(place, server.url("/image")).what == f"{server.url('/image')}: images may not come from there"
    assert (place.names, server.count("/image").requests) == ([], 0)


def test_the_server_as_a_program(place: Place) -> None:
    """For other tests: files, a rate, and counts."""
    (place.directory.parent / "files").mkdir()
    (place.directory.parent / "files/a.img").write_bytes(IMAGE)
    (place.directory.parent / "secret").write_bytes(b"secret")
    with subprocess.Popen(
        [sys.executable, "-m", "lab.imageserver", "--directory", place.directory.parent / "files", "--rate", "1e9"],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True,
    ) as process:
        try:
            assert process.stdout is not None
            base = f"http://127.0.0.1:{int(process.stdout.readline())}"
            place.known = place.got(f"{base}/a.img").validators
            assert place.target.read_bytes() == IMAGE
            place.target.unlink()
            assert place.fetch(f"{base}/a.img") is None
            assert mistake(place, f"{base}/none.img").what == f"{base}/none.img: the server answers 404"
            assert mistake(place, f"{base}/%2e%2e/secret").what.endswith("the server answers 404")
            place.target.unlink(missing_ok=True)
            place.known = None
            place.got(f"{base}/.counts")
            counts = json.loads(place.target.read_bytes())
            assert counts["/a.img"] == {"requests": 2, "starts": 1, "bytes": len(IMAGE)}
        finally:
            process.kill()
