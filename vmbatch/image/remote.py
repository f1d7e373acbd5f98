"""The site's images from servers: one download for a node, whoever asks first; all others wait for it."""

import contextlib
import os
import time

from .. import digest
from ..errors import EndedError, NodeError, SiteError
from ..format import FormatError
from ..host import http
from ..resource import Work
from ..template import ImageSource
from . import local, record, transfer
from .progress import Progress
from .record import Record
from .room import make_room
from .store import Held, Store, stamp
from .terms import Terms


def find(source: ImageSource, terms: Terms) -> Held | None:
    """The image, if the store has it; its server is not asked."""
    held = Store(terms.directory).find(record.key(source))
    if held and not record.fits(held.record, source.checksum):
        held.close()
        return None
    return held


def obtain(source: ImageSource, terms: Terms, work: Work) -> Held:
    """The image, from the store or from the first server that has it. NodeError, SiteError."""
    store = Store(terms.directory)
    key = record.key(source)
    held = find(source, terms)
    if held and _current(held, source, terms):
        return held
    if held:
        held.close()
    with store.locked(key, terms.waiting(work.deadline), work.alive):
        held = find(source, terms)
        if held and _current(held, source, terms):
            return held
        try:
            found = _download(source, held, store, key, terms, work)
        except BaseException:
            if held:
                held.close()
            raise
        if held and found is not held:
            held.close()
        return found


def _current(held: Held, source: ImageSource, terms: Terms) -> bool:
    """An image with a known digest cannot be out of date."""
    return source.checksum is not None or abs(time.time() - held.record.checked) < terms.recheck


def _download(source: ImageSource, held: Held | None, store: Store, key: str, terms: Terms, work: Work) -> Held:
    made = store.incoming(key, "new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(made)
    try:
        fetched = transfer.fetch(
            transfer.Source(source.places, source.compression), store.incoming(key, "part"), made,
            access=terms.access, allowed=None, algorithms=algorithms(source), limit=terms.largest,
            deadline=work.deadline.earlier(terms.transfer), alive=work.alive,
            room=lambda coming: make_room(terms.directory, terms.limit, terms.keep_free, coming),
            known=held.record.validators if held else None,
            progress=work.progress or Progress(work.say, name=http.shown(source.places[0])))
    except FormatError as error:
        raise SiteError(f"the image {http.shown(source.places[0])} {error.what}", error.hint, code="VB303") from None
    except EndedError:
        raise
    except NodeError as error:
        if held is None or work.deadline.passed():
            raise
        work.say(f"{error}; going on with the image of {time.strftime('%Y-%m-%d %H:%M', time.localtime(held.record.checked))}")
        store.confirm(held)
        return held
    if fetched is None and held is not None:
        store.confirm(held)
        return held
    if fetched is None:
        raise NodeError(f"{http.shown(source.places[0])}: the server says that an image is unchanged which is not there",
                        code="VB304")
    try:
        verify(source, made, fetched, terms, work)
        known = local.known(made, source.format, terms.largest,
                            lambda what, hint: SiteError(f"the image {http.shown(source.places[0])} {what}", hint, code="VB303"))
        if known.chained:
            raise SiteError(f"the image {http.shown(source.places[0])} is a differencing VHD, and its parent is not here",
                            code="VB303")
        return store.publish(key, made, Record(
            origin=http.shown(fetched.validators.url), format=source.format, size=known.size, content=fetched.content,
            published=fetched.digests, validators=fetched.validators, stamp=stamp(os.stat(made)), checked=time.time()))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)


def algorithms(source: ImageSource) -> tuple[str, ...]:
    """The digests to compute while an image comes in."""
    wanted = {source.checksum.function} if source.checksum and source.checksum.function in digest.ALGORITHMS else set()
    return tuple(sorted({"sha256"} | wanted))


def verify(source: ImageSource, made: str, fetched: transfer.Transferred, terms: Terms, work: Work) -> None:
    """SiteError unless what came has the digest that the template asks for."""
    if source.checksum is None:
        return
    found = fetched.digests.get(source.checksum.function)
    if found is None:
        if source.compression:
            raise SiteError(f"<vbcheckhash hashfunction='{source.checksum.function}'>: a program cannot check a packed image",
                            f"use one of {', '.join(digest.ALGORITHMS)}", code="VB313")
        with open(made, "rb") as image:
            found = local.of_file(image.fileno(), source.checksum.function, terms.programs, terms.account, work)
        fetched.digests[source.checksum.function] = found
    if found != source.checksum.value:
        raise local.differs(f"what came from {http.shown(fetched.validators.url)}", source.checksum, found)
