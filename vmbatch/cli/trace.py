"""`vmbatch trace`: which guest was whose."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..trace import Guest, Image


@click.command()
@click.option("--job", "job_id", metavar="JOB", help="guests of this job, such as 42.server")
@click.option("--user", help="guests of this user")
@click.option("--address", help="guests that had this address")
@click.option("--mac", help="guests with this MAC")
@click.option("--at", "moment", metavar="TIME", help="guests that were there then: 2024-02-29T13:00, or seconds since 1970")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def trace(job_id: str | None, user: str | None, address: str | None, mac: str | None, moment: str | None, as_json: bool) -> None:
    """Find guests of this node, those that are gone, too: whose, when, at which address, from which images.

    Exit status 1 if there is none.

    \b
    Example: vmbatch trace --address 10.0.0.17 --at 2024-02-29T13:00
    """
    import msgspec

    from .. import trace as traces
    from ..hooked import load_config
    from . import moment as moments

    at = None if moment is None else moments.parse(moment, "--at")
    if mac is not None and not re.fullmatch("[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", mac):
        raise click.BadParameter("a MAC looks like 52:54:00:12:34:56", param_hint="--mac")
    count = 0
    for guest in traces.guests(load_config().log_trace):
        begin = guest.begin
        try:
            if ((job_id is None or begin.job == job_id) and (user is None or begin.user == user)
                    and (mac is None or guest.has_mac(mac)) and (at is None or guest.was_there(at))
                    and (address is None or guest.has_address(address))):
                count += 1
                click.echo(msgspec.json.encode(guest).decode() if as_json else "\n".join(_shown(guest)))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--address") from None
    if not count:
        click.echo("vmbatch: the trace has no such guest", err=True)
        sys.exit(1)


def described(image: Image) -> str:
    """An image, and by what it can be known again."""
    from ..host.clock import for_people

    return f"disk {image.disk} from {image.source}: {image.digest or f'modified {for_people(image.modified)}'}"


def _shown(guest: Guest) -> list[str]:
    """For people; what a guest may have written is made printable."""
    from ..host.clock import for_people

    begin = guest.begin
    lines = [f"job {begin.job} of {begin.user} (uid {begin.uid}), queue {begin.queue}, on {begin.node}",
             f"  guest {begin.guest}, uuid {begin.uuid}, from {begin.template}"]
    lines.append(f"  MAC {' '.join(begin.macs) or '-'}, address {' '.join(guest.addresses) or '-'}")
    lines += [f"  {described(image)}" for image in begin.images]
    ready = "never ready" if guest.ready is None else f"ready {for_people(guest.ready)}"
    lines.append(f"  started {for_people(begin.started)}, {ready}")
    status = "" if guest.status is None else f", the job's status {guest.status}"
    lines.append("  no end known" if guest.ended is None else f"  ended {for_people(guest.ended)}: {guest.why}{status}")
    return ["".join(letter if letter.isprintable() else "?" for letter in line) for line in lines]
