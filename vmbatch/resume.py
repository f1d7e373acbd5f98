"""Whether a job's guest can go on from a saved one, and from which: one that all has shaped that shapes the job's."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable

import msgspec

from . import digest
from .config import Config
from .context.waiting import same
from .errors import SiteError
from .facts import Facts
from .grant import Grant
from .host import libvirtd
from .image import saved
from .image.record import Stamp
from .image.saved import Input, Shape
from .image.store import stamp
from .template import Template, digest_text, files, obstacle, own_size


def why_not(form: Template, config: Config) -> str:
    """Why guests of a template cannot be saved here, in words; '' if they can."""
    if form.messages == "SHARE" and config.share_type in ("virtiofs", "9p"):
        return f"[share] type = {config.share_type} is a device of the guest's, which cannot be saved"
    return obstacle(form)


def seek(known: Facts, form: Template, granted: Grant, config: Config, hold: Callable[[saved.Held], object]) -> Facts:
    """The facts, with the saved guest from which the job's goes on, held, or why it is booted. NodeError, SiteError."""
    if not form.resume:
        return known
    why = why_not(form, config) or ("the job has an image of its own" if known.wishes else "")
    if not why:
        held = saved.find(config.images_directory, shape(known, form, granted, config))
        if held is not None:
            hold(held)
            return msgspec.structs.replace(known, saved=held.saved)
        why = f"there is no saved one that is just so; vmbatch save {form.path} makes one of the template's own size"
    return msgspec.structs.replace(known, booted=f"the guest is booted: {why}")


def look(known: Facts, form: Template, granted: Grant, config: Config) -> Facts:
    """As `seek`, of a saved guest that nobody is about to use. NodeError, SiteError."""
    with contextlib.ExitStack() as held:
        return seek(known, form, granted, config, lambda found: held.callback(found.close))


def shape(known: Facts, form: Template, granted: Grant, config: Config) -> Shape:
    """What shapes a guest with these images. NodeError, SiteError."""
    cores, memory = own_size(form.root)
    shaping = "\0".join((digest_text(form), *(f"{name}={data.hex()}" for name, data in sorted(known.credentials.items()))))
    return Shape(
        template=form.path, domain=digest.of_text(shaping),
        kit=digest.of_text("\0".join(f"{entry.name} {entry.data.hex()}" for entry in same())), node=_node(config.libvirt_uri),
        cores=granted.cores or cores, memory=granted.memory or memory,
        inputs=inputs(known, form))


def inputs(known: Facts, form: Template, more: Iterable[str] = ()) -> tuple[Input, ...]:
    """The node's files that guests with these images are made with, and `more` of them. SiteError."""
    images = (known.images[index] for index in sorted(known.images))
    return (*(Input(path, "", _stamp(path)) for path in (*files(form), *more)),
            *(Input(image.path, image.digest, None) if image.stored else Input(image.path, "", _stamp(image.path))
              for image in images))


def _stamp(path: str) -> Stamp:
    try:
        return stamp(os.stat(path))
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}", code="VB107") from None


def _node(uri: str) -> str:
    """What a saved guest must find again: the versions of libvirt and its hypervisor, the hypervisor's file, the processor.

    The frequency of its clock is measured at each boot of the node, and never quite the same.
    """
    text = libvirtd.capabilities(uri)
    processor = re.search(r"<cpu>.*?</cpu>", text, re.DOTALL)
    emulators = sorted(set(re.findall(r"<emulator>([^<]+)</emulator>", text)))
    return digest.of_text("\0".join((
        *libvirtd.versions(uri), re.sub(r"<counter [^>]*>", "", processor[0]) if processor else "",
        *(f"{path} {_stamp(path)}" for path in emulators if os.path.exists(path)))))
