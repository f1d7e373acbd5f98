"""Templates for tests of disks: the lab's small guest with other disks, and a server of images."""

import functools
import http.server
import re
import string
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.guest.conftest import CONFIG

DOMAINS = Path("/etc/vmbatch/domains")


@functools.cache
def image() -> Path:
    """The raw image of the lab's small guest."""
    match = re.search(r"<vbdisksource source='([^']+)'", (DOMAINS / "disk.xml").read_text())
    assert match
    return Path(match[1])


def root_disk(source: str, form: str = "raw", more: str = "") -> str:
    """A first disk; `source` are the attributes of its <vbdisksource>, `more` are further tags."""
    return f"""<disk type='file' device='disk'>
      <driver name='qemu' type='{form}'/>
      <vbdisksource {source}/>{more}
      <target dev='vda' bus='virtio'/>
    </disk>"""


def second_disk(source: str, form: str = "raw", more: str = "", target: str = "vdc") -> str:
    """A disk that a guest in memory sees as /dev/vdb; the next targets are the next ones there."""
    return root_disk(source, form, more).replace("'vda'", f"'{target}'")


def more_disks(disks: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """Many for a guest in memory, each by its source's attributes and further tags; and their names in the guest."""
    letters = string.ascii_lowercase[1:len(disks) + 1]
    texts = [second_disk(source, more=more, target=f"vd{chr(ord(letter) + 1)}")
             for letter, (source, more) in zip(letters, disks, strict=True)]
    return "\n    ".join(texts), [f"vd{letter}" for letter in letters]


@contextmanager
def queue(name: str, first: str = "", second: str = "", settings: str = "") -> Iterator[str]:
    """A queue of this name whose guests boot from `first` (or live in memory) and have `second` as well."""
    text = (DOMAINS / ("disk.xml" if first else "busybox.xml")).read_text()
    if first:
        begin = text.index("<disk type=")
        text = text[:begin] + first + text[text.index("</disk>") + len("</disk>"):]
    template = DOMAINS / f"{name}.xml"
    template.write_text(text.replace("<interface", f"{second}\n    <interface", 1))
    before = CONFIG.read_text()
    CONFIG.write_text(before.replace("[queues]\n", f'[queues]\n{name} = "{name}.xml"\n') + settings)
    try:
        yield name
    finally:
        CONFIG.write_text(before)
        template.unlink()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """A web server for the files of a directory, on loopback; its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
