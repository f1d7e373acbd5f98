"""`vmbatch image`: the node's store of images."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..config import Config
    from ..image.store import Entry
    from ..resource import Work


@click.group()
def image() -> None:
    """The node's store of images: what jobs have downloaded, or will need.

    \b
    Example: vmbatch image list
    """


@image.command("list", short_help="List the images of the store")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def list_(as_json: bool) -> None:
    """List the images of the store, the one used last at the end, and then the saved guests.

    \b
    Example: vmbatch image list
    """
    import os

    import msgspec

    from ..image import saved
    from . import table

    config = _config()
    entries = sorted(_entries(config), key=lambda entry: entry.used)
    guests = saved.every(config.images_directory)
    if as_json:
        for entry in entries:
            click.echo(msgspec.json.encode(entry))
        for guest, last in guests:
            click.echo(msgspec.json.encode({
                "saved": guest.directory, "template": guest.record.shape.template, "made": guest.record.made, "used": last,
                "taken": saved.size(guest.directory), "in_use": saved.is_used(guest.directory)}))
        return
    if not entries and not guests:
        click.echo("the store is empty")
        return
    rows = []
    for entry in entries:
        rows.append((entry.record.content[:12], entry.record.format, _mib(entry.record.size), _mib(entry.taken),
                     _used(entry.used, now=entry.in_use), entry.part.removeprefix("users/"), table.plain(entry.record.origin)))
    for guest, last in guests:
        rows.append((os.path.basename(guest.directory)[:12], "saved", _mib(guest.record.shape.memory),
                     _mib(saved.size(guest.directory)), _used(last, now=saved.is_used(guest.directory)), "site",
                     table.plain(guest.record.shape.template)))
    table.show(("CONTENT", "FORMAT", "SIZE", "ON DISK", "USED", "BY", "SOURCE"), rows, right=("SIZE", "ON DISK"),
               spare=("FORMAT", "BY"), elastic="SOURCE", colours={"USED": {"now": "green"}})


@image.command(short_help="Bring what templates need into the store")
@click.argument("templates", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@click.option("--all", "everything", is_flag=True, help="the templates of all queues")
def fetch(templates: tuple[str, ...], everything: bool) -> None:
    """Download what TEMPLATES need, or ask whether there is something newer, and check the digests of local images.

    Moves images before jobs do: run it from a timer. Exit status 1 if something is missing at the end.

    \b
    Example: vmbatch image fetch --all
    """
    import os

    from msgspec import structs

    from .. import template as forms
    from ..errors import VmBatchError
    from ..host import file
    from ..image import local, remote
    from ..image.progress import Terminal
    from ..image.store import Store
    from ..image.terms import terms

    config = _config()
    if everything == bool(templates):
        raise click.UsageError("name templates, or give --all")
    named = [os.path.join(config.templates_directory, name) for names in config.queues.values() for name in names]
    agreed = structs.replace(terms(config), recheck=0.0)
    failed = done = False
    work = _unhurried()
    for path in dict.fromkeys(os.path.abspath(path) for path in (named if everything else templates)):
        try:
            form = forms.parse(file.read_trusted(path), path)
            for tag in form.disks:
                source = tag.source
                if not isinstance(source, forms.ImageSource) or source.method == "download":
                    continue
                store = Store(agreed.directory)
                store.make()
                if source.remote:
                    held = remote.obtain(source, agreed, work)
                    click.echo(f"{tag.target}: {held.record.origin}: {held.record.content[:12]}, {_mib(held.record.size)}")
                    held.close()
                    done = True
                elif source.checksum is not None:
                    local.check(source.places[0], source.checksum, store, agreed.programs, agreed.account, work)
                    click.echo(f"{tag.target}: {source.places[0]}: {source.checksum.function} is right")
                    done = True
        except VmBatchError as error:
            failed = True
            if isinstance(work.progress, Terminal):
                work.progress.end()
            first, *rest = error.lines()
            for line in (error.coded(first), *rest):
                click.echo(f"vmbatch: {path}: {line}", err=True)
    if not done and not failed:
        click.echo("nothing to fetch: no image is on a server, and no local one has a <vbcheckhash>")
    sys.exit(1 if failed else 0)


@image.command(short_help="Compare every image with its digest")
def verify() -> None:
    """Read every image of the store and compare it with its digest. Damaged ones are removed, unless a job uses them.

    \b
    Example: vmbatch image verify
    """
    from ..image import local
    from ..image.store import Store

    config = _config()
    bad = 0
    for entry in _entries(config):
        with open(entry.path, "rb") as opened:
            found = local.of_file(opened.fileno(), "sha256", (), "", _unhurried())
        if found == entry.record.content:
            click.echo(f"right    {entry.record.content[:12]}  {entry.record.origin}")
            continue
        bad += 1
        removed = Store(config.images_directory, entry.part).remove(entry.record.content, (entry.key,))
        click.echo(f"DAMAGED  {entry.record.content[:12]}  {entry.record.origin}: "
                   + ("removed" if removed else "a job uses it; verify again when that has ended"))
    sys.exit(1 if bad else 0)


@image.command(short_help="Bring the store within its limits")
@click.option("--all", "everything", is_flag=True, help="all images that no job uses, not only those over the limit")
def prune(everything: bool) -> None:
    """Remove images until the store is within its limits, and half-made ones; with --all disks made once, and saved guests, too.

    \b
    Example: vmbatch image prune --all
    """
    import os

    from ..errors import NodeError
    from ..image import saved, store
    from ..image.room import make_room

    config = _config()
    for part in store.parts(config.images_directory):
        for line in part.tidy():
            click.echo(line)
    for line in saved.tidy(config.images_directory):
        click.echo(line)
    before = _entries(config)
    if everything:
        for guest, _last in saved.every(config.images_directory):
            if saved.remove(guest.directory):
                click.echo(f"removed {guest.directory}: a saved guest of {guest.record.shape.template}")
        for part in store.parts(config.images_directory):
            for content in part.contents():
                part.remove(content.name, content.keys)
        once = os.path.join(config.images_directory, "once")
        for name in sorted(os.listdir(once)) if os.path.isdir(once) else ():
            if "." not in name and store.remove_unused(os.path.join(once, name)):
                click.echo(f"removed {os.path.join(once, name)}: a disk made once")
    elif os.path.isdir(config.images_directory):
        try:
            make_room(config.images_directory, config.images_limit, config.images_keep_free, 0)
        except NodeError as error:
            click.echo(f"vmbatch: {error}", err=True)
    left = {(entry.part, entry.key) for entry in _entries(config)}
    for entry in before:
        if (entry.part, entry.key) not in left:
            click.echo(f"removed {entry.record.content[:12]}  {_mib(entry.taken)}  {entry.record.origin}")


def _used(last: float, *, now: bool) -> str:
    return "now" if now else time.strftime("%Y-%m-%d %H:%M", time.localtime(last))


def _entries(config: Config) -> list[Entry]:
    from ..image import store

    return [entry for part in store.parts(config.images_directory) for entry in part.entries()]


def _unhurried() -> Work:
    """For somebody at a terminal, who can wait and interrupt."""
    from ..image.progress import Terminal
    from ..resource import Work
    from ..units import Deadline

    return Work(Deadline(1e6), lambda: None, lambda line: click.echo(line, err=True),
                Terminal(sys.stderr) if sys.stderr.isatty() else None)


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"


def _config() -> Config:
    from ..hooked import load_config

    return load_config()
