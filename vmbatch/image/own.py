"""Images that users bring: from where the site allows, with their own rights, judged, converted without any, kept apart."""

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator

from ..errors import CommandError, JobError
from ..format import FormatError
from ..host import file, http, lend, process
from ..job import User
from ..resource import Work
from ..template import ImageSource, UserImage
from ..units import format_size
from . import inspect, record, signature, transfer
from .progress import Progress
from .record import Record
from .room import make_room
from .store import Held, Store, check_user_limit, stamp
from .terms import Terms

_ROOM_STEP = 64 << 20
_NAMES = "its name must end in its format: .raw, .img, .qcow2, .qcow or .vhd"
_FORMATS = {"raw": "raw", "img": "raw", "qcow2": "qcow2", "qcow": "qcow", "vhd": "vhd"}


def source(wish: str, offer: UserImage, method: str, sources: tuple[str, ...]) -> ImageSource:
    """What a submitter asks for, as an image source. JobError unless the site allows it. Nothing is looked at."""
    if not sources:
        raise JobError(f"{offer.name}: this site takes no images of users", "the admins name [userimages] sources", code="VB308")
    if len(wish) > 2000 or not wish.isprintable():
        raise JobError(f"{offer.name}: this is not the path or URL of an image", code="VB308")
    if wish.startswith(("http://", "https://")):
        allowed = http.is_allowed(wish, tuple(place for place in sources if "://" in place))
    else:
        if not re.fullmatch(r"(/(?!\.\.?(/|$))[^/]+)+", wish):
            raise JobError(f"{offer.name}={wish[:200]}: not an absolute path, and not a URL with http:// or https://",
                           "write for instance -l other=vbuserimage=/home/alice/image.qcow2", code="VB308")
        allowed = any(wish.startswith(place) for place in sources if place.startswith("/"))
    if not allowed:
        raise JobError(f"{offer.name}={wish[:200]}: images may not come from there", f"this site allows {', '.join(sources)}",
                       code="VB308")
    name, packed = _unpacked(wish.partition("?")[0] if "://" in wish else wish)
    if packed and not wish.startswith("http"):
        raise JobError(f"{offer.name}={wish[:200]}: local images are not unpacked", "unpack it", code="VB308")
    form = _FORMATS.get(name.rpartition(".")[2].lower(), offer.format)
    return ImageSource((wish,), method, form, packed, None, "qcow2")


def _unpacked(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*)\.(gz|bz2|xz|zst)", name)
    return (match[1], match[2]) if match else (name, "")


def obtain(wanted: ImageSource, user: User, terms: Terms, work: Work) -> Held:
    """The image of this user's: raw, or converted to a qcow2 that is complete. JobError for all that is wrong with it."""
    store = Store(terms.directory, f"users/{user.uid}")
    store.make()
    return _remote(wanted, store, terms, work) if wanted.remote else _local(wanted, store, user, terms, work)


def _remote(wanted: ImageSource, store: Store, terms: Terms, work: Work) -> Held:
    key = record.key(wanted, _pins(terms))
    held = _current(store, key, terms)
    if held:
        return held
    with store.locked(key, terms.waiting(work.deadline), work.alive):
        held = _current(store, key, terms)
        if held:
            return held
        held = store.find(key)
        made = store.incoming(key, "new")
        try:
            with _removed(made):
                fetched = _fetch(wanted, made, store, key, held, terms, work)
                if fetched is not None:
                    return _admit(wanted, made, fetched.digests["sha256"], fetched.content, fetched.validators, store, key, terms,
                                  work)
            if held is None:
                raise JobError(f"{http.shown(wanted.places[0])}: the server sends no image", code="VB304")
            store.confirm(held)
            kept, held = held, None
            return kept
        finally:
            if held is not None:
                held.close()


def _current(store: Store, key: str, terms: Terms) -> Held | None:
    """The image, if its server was asked lately."""
    held = store.find(key)
    if held and abs(time.time() - held.record.checked) >= terms.recheck:
        held.close()
        return None
    return held


def _fetch(wanted: ImageSource, made: str, store: Store, key: str, held: Held | None, terms: Terms, work: Work
           ) -> transfer.Transferred | None:
    """Downloads. What a user's server does is the user's to mend, not the node's: JobError."""
    try:
        return transfer.fetch(
            transfer.Source(wanted.places, wanted.compression), store.incoming(key, "part"), made,
            access=terms.bare, allowed=tuple(place for place in terms.sources if "://" in place),
            algorithms=("sha256",), limit=terms.user_largest, deadline=work.deadline.earlier(terms.transfer),
            alive=work.alive, room=lambda coming: _make_room(store, terms, coming),
            known=held.record.validators if held else None,
            progress=work.progress or Progress(work.say, name=http.shown(wanted.places[0])))
    except http.ServerError as error:
        raise JobError(error.what, error.hint, code="VB309") from None
    except FormatError as error:
        raise JobError(f"the image {http.shown(wanted.places[0])} {error.what}", error.hint, code="VB309") from None


def _local(wanted: ImageSource, store: Store, user: User, terms: Terms, work: Work) -> Held:
    path = wanted.places[0]
    fd, real = lend.open_as(user, path, work.deadline)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise JobError(f"the image {path} is not a regular file", code="VB308")
        places = tuple(os.path.join(os.path.realpath(place), "") for place in terms.sources if place.startswith("/"))
        if not any(real.startswith(place) for place in places):
            raise JobError(f"the image {path} really lies at {real}, and images may not come from there",
                           "a link does not change where an image lies", code="VB308")
        if not status.st_size or status.st_size > terms.user_largest + (terms.user_largest >> 4):
            raise JobError(f"the image {path} has {status.st_size} bytes; it may have 1 to {format_size(terms.user_largest)}",
                           code="VB308")
        key = record.key(wanted, f"{_state(status)} {_pins(terms)}")
        held = store.find(key)
        if held:
            return held
        with store.locked(key, terms.waiting(work.deadline), work.alive):
            held = store.find(key)
            if held:
                return held
            made = store.incoming(key, "new")
            with _removed(made):
                _make_room(store, terms, status.st_blocks * 512)
                content = _copy(fd, made, path, status.st_size, store, terms, work)
                if _state(os.fstat(fd)) != _state(status):
                    raise _changed(path)
                return _admit(wanted, made, content, content, None, store, key, terms, work)
    finally:
        os.close(fd)


def _state(status: os.stat_result) -> str:
    """What changes with every write to a file; no user can set back its change time."""
    return f"{stamp(status)} {status.st_ctime_ns}"


def _changed(path: str) -> JobError:
    return JobError(f"the image {path} was changed while it was read", "put a new image beside it and rename it", code="VB312")


def _pins(terms: Terms) -> str:
    """What an image was judged by: with other pins it must be judged again."""
    return f"{terms.user_largest} {terms.user_digests} {terms.signers} {terms.authorities}"


def _make_room(store: Store, terms: Terms, coming: int) -> None:
    check_user_limit(store, terms.user_limit, coming)
    make_room(terms.directory, terms.limit, terms.keep_free, coming)


def _copy(fd: int, made: str, path: str, size: int, store: Store, terms: Terms, work: Work) -> str:
    """Copies a file lent by its user, read by a process that can be killed where the user's file system hangs; its SHA-256."""
    os.set_blocking(fd, True)
    reader = process.start(["/usr/bin/cat"], account=terms.account, stdin=fd, stderr=process.DEVNULL)
    state = hashlib.sha256()
    done, asked = 0, 0
    try:
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb", 0) as target:
            for piece in process.stream(reader, work.deadline, work.alive):
                done += len(piece)
                if done > size:
                    break
                if done - asked > _ROOM_STEP:
                    _make_room(store, terms, 0)
                    asked = done
                state.update(piece)
                file.write_sparse(target.fileno(), piece, done - len(piece))
            os.ftruncate(target.fileno(), done)
    except CommandError:
        raise JobError(f"the image {path} cannot be read to its end", code="VB309") from None
    finally:
        process.end(reader)
    if done != size:
        raise _changed(path)
    return state.hexdigest()


def _admit(wanted: ImageSource, made: str, published: str, content: str, validators: transfer.Validators | None,
           store: Store, key: str, terms: Terms, work: Work) -> Held:
    """Judges what a user brought, and makes of it what a guest may have."""
    name = http.shown(wanted.places[0])
    if terms.user_digests and published not in terms.user_digests:
        raise JobError(f"the image {name} has the SHA-256 {published}, which is not one that this site allows", "ask its admins",
                       code="VB308")
    signer = ""
    fd = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        known = inspect.inspect(fd, wanted.format, terms.user_largest)
        if known.chained:
            raise FormatError("is a differencing VHD, which is not complete", "bring an image that needs no other")
        if terms.signers:
            signer = signature.check(fd, authorities=terms.authorities, subject=terms.signers, account=terms.account, work=work)
    except FormatError as error:
        hint = _NAMES if error.hint.startswith("state source_format") else error.hint
        raise JobError(f"the image {name} {error.what}", hint, code="VB309") from None
    finally:
        os.close(fd)
    form = wanted.format
    if form != "raw":
        _convert(made, form, name, terms, work)
        _make_room(store, terms, 0)
        form = "qcow2"
        with open(made, "rb") as converted:
            known = inspect.inspect(converted.fileno(), form, terms.user_largest)
            state = hashlib.file_digest(converted, "sha256")
        content = state.hexdigest()
    return store.publish(key, made, Record(
        origin=name, format=form, size=known.size, content=content, published={"sha256": published}, validators=validators,
        stamp=stamp(os.stat(made)), checked=time.time(), signer=signer), terms.readers)


def _convert(made: str, form: str, name: str, terms: Terms, work: Work) -> None:
    """Writes the image anew as qcow2, by a process without rights and within limits, so that nothing of its header remains.

    The limit on memory is one on addresses, of which each thread would take
    8 MiB of stack and up to 64 MiB of arena (mallopt(3)).
    """
    clean = f"{made}.qcow2"
    account = process.account_of(terms.account)
    with _removed(clean):
        os.close(os.open(clean, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        for path in (made, clean):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
        try:
            process.run(
                ["/usr/bin/env", "MALLOC_ARENA_MAX=1", "/usr/bin/qemu-img", "convert", "-q",
                 "-f", "vpc" if form == "vhd" else form, "-O", "qcow2", made, clean],
                work.deadline, account=terms.account,
                limits=(f"--as={terms.user_memory}", f"--cpu={terms.user_cpu}",
                        "--stack=1048576", f"--fsize={terms.user_largest + (terms.user_largest >> 4) + (16 << 20)}", "--core=0"))
        except CommandError as error:
            said = error.output.strip().splitlines()
            raise JobError(f"the image {name} cannot be converted: {said[-1] if said else error}",
                           "try qemu-img check on it", code="VB309") from None
        os.chown(clean, 0, 0, follow_symlinks=False)
        os.rename(clean, made)


@contextlib.contextmanager
def _removed(path: str) -> Iterator[None]:
    """The file is not there before, and not after."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
