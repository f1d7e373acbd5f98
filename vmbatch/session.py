"""A user's own VmBatch, without root: below the XDG base directories, with libvirt's qemu:///session.

What root's has in /etc, /var/lib, /var/cache and /run, such a user has in directories of their own; all else is the same code.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from . import claim, drain, endmarker, journal, pool, sshargs, status
from .config import Config, parse
from .errors import JobError
from .exchange import address
from .host import file
from .template import adapted, brought
from .template import parse as parse_template

_KVM = "/dev/kvm"
_PATIENCE = 4.0
"""Times as long as with KVM an emulated guest may take."""


def _base(name: str, below_home: str) -> str:
    """A base directory as the XDG specification has it: a path that is not absolute is none."""
    path = os.environ.get(name, "")
    return path if path.startswith("/") else os.path.join(os.path.expanduser("~"), below_home)


def _runtime() -> str:
    own = f"/run/user/{os.getuid()}"
    path = os.environ.get("XDG_RUNTIME_DIR", "") or (own if os.path.isdir(own) else "")
    return path or os.path.join(_base("XDG_STATE_HOME", ".local/state"), "vmbatch-run")


class Places(msgspec.Struct, frozen=True):
    """Where a user's own VmBatch has its settings, its state, its images, and what dies with the login."""

    settings: str
    state: str
    cache: str
    run: str


def places() -> Places:
    """Those of the calling user."""
    return Places(os.path.join(_base("XDG_CONFIG_HOME", ".config"), "vmbatch"),
                  os.path.join(_base("XDG_STATE_HOME", ".local/state"), "vmbatch"),
                  os.path.join(_base("XDG_CACHE_HOME", ".cache"), "vmbatch"), os.path.join(_runtime(), "vmbatch"))


def settle(where: Places) -> Config:
    """Makes this process keep all that it owns at these places; its settings. VmBatchError."""
    journal.STATE, endmarker.DIRECTORY = where.state, os.path.join(where.run, "ended")
    pool.DIRECTORY = os.path.join(where.run, "pool")
    sshargs.HANDOVER, claim.DIRECTORY = os.path.join(where.run, "handover"), os.path.join(where.run, "claims")
    status.DIRECTORY, drain.PATH = os.path.join(where.run, "status"), os.path.join(where.state, "drained")
    address.HERE = os.path.join(where.run, "addresses")
    path = os.path.join(where.settings, "vmbatch.conf")
    chosen = parse(file.read_trusted(path), path) if os.path.exists(path) else parse(b"", "defaults")
    own = {
        "templates_directory": os.path.join(where.settings, "domains"), "guest_scripts": os.path.join(where.settings, "guest.d"),
        "spool_directory": os.path.join(where.state, "spool"), "log_directory": os.path.join(where.state, "log"),
        "log_trace": "", "log_history": "", "images_directory": os.path.join(where.cache, "store"),
        "share_directory": os.path.join(where.state, "share"), "users_minimum_uid": os.getuid(),
        "admission_reserve_memory": 0, "timeouts_scale": 1.0 if has_kvm() else _PATIENCE,
    }
    before = parse(b"", "defaults")
    fresh = {name: value for name, value in own.items() if getattr(chosen, name) == getattr(before, name)}
    return msgspec.structs.replace(chosen, **fresh, libvirt_uri="qemu:///session", network_filter=False)


def has_kvm() -> bool:
    """Whether this process may use KVM."""
    return os.access(_KVM, os.R_OK | os.W_OK)


@contextmanager
def template(name: str, image: str, config: Config, where: Places) -> Iterator[str]:
    """The path of a template that works here, as long as the `with` lasts. SiteError, InputError, JobError.

    `name` is a path, a template's name in the user's own directory of templates, or '' for the one that VmBatch brings, which
    wants an `image`: that takes the place of the template's first. Where KVM cannot be used, the guest is emulated.
    """
    if not image and not name:
        raise JobError("there is no image for the guest", "name one with --image, or a template with --template", code="VB205")
    origin = _path(name, config) if name else "session.xml"
    if name and not os.path.exists(origin):
        raise JobError(f"there is no template {origin}", f"write one, or put it into {config.templates_directory}", code="VB205")
    text = file.read_trusted(origin) if name else brought()
    if name:
        parse_template(text, origin)  # its mistakes are the user's, and named by this path
    fitted = adapted(text, origin, image if "://" in image else image and os.path.abspath(image), emulated=not has_kvm())
    file.make_state_directory(where.state, 0o711)
    beside = os.path.dirname(os.path.abspath(origin)) if name else where.state
    with tempfile.NamedTemporaryFile(prefix=".run-", suffix=".xml",
                                     dir=beside if os.access(beside, os.W_OK) else where.state) as made:
        made.write(fitted)
        made.flush()
        yield made.name


def _path(name: str, config: Config) -> str:
    return name if "/" in name else os.path.join(config.templates_directory, f"{name.removesuffix('.xml')}.xml")
