"""The node's configuration, changed for a while."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

_ETC = Path("/etc/vmbatch")


@contextlib.contextmanager
def changed(settings: Mapping[str, str] | None = None, templates: Mapping[str, str] | None = None) -> Iterator[None]:
    """`settings`: lines by the section to add them to; `templates`: XML by name, each with a queue of that name."""
    path = _ETC / "vmbatch.conf"
    before = text = path.read_text()
    for section, lines in {**(settings or {}), "queues": "".join(f'{name} = "{name}.xml"\n' for name in templates or {})}.items():
        head = f"[{section}]\n"
        text = text.replace(head, head + lines) if head in text else f"{text}\n{head}{lines}"
    for name, xml in (templates or {}).items():
        (_ETC / f"domains/{name}.xml").write_text(xml)
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)
        for name in templates or {}:
            (_ETC / f"domains/{name}.xml").unlink()


def template(name: str) -> str:
    """The XML of one of the lab's templates."""
    return (_ETC / f"domains/{name}.xml").read_text()
