"""`vmbatch check`: a template, judged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config import Config
    from ..facts import Facts
    from ..template import Template


@click.command()
@click.argument("template", type=click.Path(exists=True, dir_okay=False))
@click.option("--advice/--no-advice", default=True, help="say what makes its guests start later than they need to")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def check(template: str, advice: bool, as_json: bool) -> None:
    """Check TEMPLATE: its XML, VmBatch's tags, and the files it names; and say what slows its guests' start.

    \b
    Example: vmbatch check /etc/vmbatch/domains/debian.xml
    """
    from .. import facts
    from .. import template as templates
    from ..hooked import load_config
    from ..host import clock
    from ..template.advice import advise

    with open(template, "rb") as file:
        form = templates.parse(file.read(), os.path.abspath(template))
    config = load_config()
    known = facts.look(form, clock.new_token(), config)
    found = advise(form, {index: image.file_size for index, image in known.images.items()}) if advice else []
    disks = list(_disks(form, known))
    start = _start(form, known, config)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(
            {"template": form.path, "hypervisor": form.hypervisor, "method": form.method,
             "disks": [disk._asdict() for disk in disks], "start": start, "advice": found})))
        return
    for disk in disks:
        size = f"{disk.size >> 20} MiB" if disk.size else "not downloaded yet"
        click.echo(f"disk {disk.target}: {' '.join(disk.places) or 'empty'}, {disk.format}, {size}")
    for each in found:
        click.echo(f"{template}:{each.line}: advice {each.name}: {each.found}: about {each.seconds:.1f} s of a start; "
                   f"{each.remedy}")
    if form.type == "kvm" and (emulated := [each.name for each in found if each.emulated]):
        click.echo(f"{template}: the seconds of {', '.join(emulated)} were measured under emulation; expect fewer with KVM")
    if form.resume or form.pool is not None:
        click.echo(f"note: {start}")
    click.echo(f"{template}: right, for {form.hypervisor} with {form.method}")


class _Disk(NamedTuple):
    """`places` of its image, none for an empty disk; `size` in bytes, 0 where it is not known yet."""

    target: str
    places: list[str]
    format: str
    size: int


def _disks(form: Template, known: Facts) -> Iterator[_Disk]:
    """Those that VmBatch makes, but for media."""
    from ..host.http import shown
    from ..template import ImageSource

    for tag in form.disks:
        if isinstance(tag.source, ImageSource):
            image = known.images[tag.index]
            yield _Disk(tag.target, [shown(place) for place in tag.source.places], image.format, image.size)
        elif tag.source is not None:
            yield _Disk(tag.target, [], tag.source.form, tag.source.size)


def _start(form: Template, known: Facts, config: Config) -> str:
    """How a job's guest of the template's own size would start, in words."""
    from .. import pool, resume
    from ..errors import VmBatchError
    from ..grant import Grant

    if form.pool is not None:
        why = pool.why_not(form, config)
        if why:
            return f"the guest is booted: {why}"
        more = f"; it may have up to {form.pool.jobs} jobs of one user" if form.pool.reuses else ""
        return f"the guest is taken from {form.pool.size} that wait, where one does{more}"
    if not form.resume:
        return "the guest is booted"
    try:
        found = resume.look(known, form, Grant(), config)
    except VmBatchError as error:
        return f"whether a guest is saved is not known: {error}"
    if found.saved is None:
        return found.booted
    said = f"the guest goes on from the saved one in {found.saved.directory}"
    if form.resources.of_job or form.requests.keys() & {"vbcores", "vbmemory"}:
        said += "; one with other cores or memory than the template's own is booted"
    return said
