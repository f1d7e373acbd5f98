"""`vmbatch report`: how long each phase takes, and why starts fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..history import Record
    from ..report import Cause, Group

_BAR = 20


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True))
@click.option("--since", "since_", metavar="TIME", help="only starts after 2024-02-29T13:00, or of the last 7d")
@click.option("--template", metavar="NAME", help="only starts with this template")
@click.option("--html", "html_", metavar="FILE", type=click.Path(dir_okay=False), help="write a page with pictures")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def report(files: tuple[str, ...], since_: str | None, template: str | None, html_: str | None, as_json: bool) -> None:
    """Show how long each phase of jobs takes, by template and node, and why starts fail.

    FILES are histories (jobs.jsonl) of any nodes, or directories of them; without any, this node's is read.

    \b
    Example: vmbatch report --since 7d --html report.html
    """
    import time

    from .. import history, report
    from ..errors import SiteError
    from ..hooked import load_config
    from . import moment
    from .job import require_root

    if not files:
        require_root("the node's history", "name files of your own")
    begin = None if since_ is None else moment.since(since_, "--since")
    places = files or tuple(filter(None, (load_config().log_history,)))
    if not places:
        raise SiteError("this node keeps no history of its jobs", "set [log] history in vmbatch.conf", code="VB920")
    name = None if template is None else report.short(template)
    records = [record for record in history.records(places)
               if (begin is None or record.started >= begin) and (name is None or report.short(record.template) == name)]
    if html_ is not None:
        from ..report.page import page

        _write(html_, page(records, time.time()))
        click.echo(f"{html_}: {len(records)} starts", err=True)
        return
    groups, causes = report.groups(records), report.causes(records)
    if as_json:
        _print_json(groups, causes)
    else:
        _print(records, groups, causes)


def _write(path: str, text: str) -> None:
    """Whole, or not at all."""
    from ..errors import NodeError
    from ..host import file

    try:
        file.put(path, text.encode())
    except OSError as error:
        raise NodeError(f"{path} cannot be written: {error.strerror}", code="VB906") from None


def _print_json(groups: list[Group], causes: list[Cause]) -> None:
    import msgspec

    for kind, rows in (("phases", groups), ("failures", causes)):
        for row in rows:
            click.echo(msgspec.json.encode({"kind": kind, **msgspec.to_builtins(row)}).decode())


def _print(records: list[Record], groups: list[Group], causes: list[Cause]) -> None:
    from ..host.clock import for_people
    from . import table

    if not records:
        click.echo("no start is over yet", err=True)
    for number, group in enumerate(groups):
        if number:
            click.echo()
        counts = [f"{count} {name}" for count, name in group.counts]
        click.echo(table.styled(table.plain(f"{group.template} on {group.node}"), "bold") + f": {', '.join(counts)}",
                   color=table.coloured())
        if not group.rows:
            continue
        whole = max([row.p50 for row in group.rows if row.phase == "provisioning"], default=0.0) or 1.0
        table.show(("PHASE", "JOBS", "P50", "P90", "P99", "MOST", "P50 OF PROVISIONING"),
                   [(row.phase, str(row.jobs), *map(table.seconds, (row.p50, row.p90, row.p99, row.most)),
                     _bar(row.phase, row.p50 / whole)) for row in group.rows],
                   right=("JOBS", "P50", "P90", "P99", "MOST"), spare=("P50 OF PROVISIONING",),
                   colours={"PHASE": {"provisioning": "bold"}})
    if causes:
        click.echo()
        click.echo(table.styled("Starts that failed", "bold"), color=table.coloured())
        table.show(("CODE", "FAULT", "STARTS", "LAST", "JOB", "WHAT FAILED"),
                   [(cause.code or "-", cause.fault, str(cause.starts), for_people(cause.last)[:16], cause.job,
                     table.plain(cause.what)) for cause in causes], right=("STARTS",), elastic="WHAT FAILED")


def _bar(phase: str, share: float) -> str:
    """How much of provisioning a phase is."""
    return "" if phase in ("queue", "provisioning", "run", "epilogue") else "▇" * round(min(share, 1.0) * _BAR)
