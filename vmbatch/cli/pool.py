"""`vmbatch pool`: guests that wait for jobs."""

from __future__ import annotations

import sys

import click


@click.group()
def pool() -> None:
    """Guests of templates with <vbstart>POOL</vbstart>, that wait for jobs. For root.

    \b
    Example: vmbatch pool list
    """


@pool.command("list")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def listed(as_json: bool) -> None:
    """Show the guests that wait.

    Their templates, names, addresses, for how long they still wait, and for whom: a user whose jobs they have had, or anyone.

    \b
    Example: vmbatch pool list
    """
    import msgspec

    from .. import journal
    from ..host import clock
    from . import table
    from .job import require_root

    require_root("vmbatch pool list")
    rows = []
    for path, start, waits in journal.waiting():
        known = journal.peek(path)
        domain = None if known is None else journal.domain_of(known[1])
        left = max(0.0, waits.until - clock.uptime()) if waits.boot == clock.boot_id() else 0.0
        rows.append((waits.template, "" if domain is None else domain.name, waits.address, start.time, left, waits))
    if as_json:
        for template, name, address, began, left, waits in rows:
            click.echo(msgspec.json.encode({"template": template, "guest": name, "address": address, "started": began,
                                            "seconds_left": round(left), "user": waits.user, "jobs": waits.had}).decode())
        return
    if not rows:
        click.echo("no guest waits on this node", err=True)
    else:
        table.show(("TEMPLATE", "GUEST", "ADDRESS", "MINUTES LEFT", "FOR", "JOBS"),
                   [(template, name, address, f"{left / 60:.0f}", waits.user or "anyone", f"{waits.had} of {waits.jobs}")
                    for template, name, address, _began, left, waits in rows],
                   right=("MINUTES LEFT", "JOBS"))


@pool.command()
@click.argument("templates", nargs=-1, type=click.Path(exists=True, dir_okay=False))
def refill(templates: tuple[str, ...]) -> None:
    """Have as many guests wait as should.

    As many as TEMPLATES want, or those of all queues; and end those that no job would take.

    vmbatch-pool.service runs it when a job has taken a guest, and every two minutes. Exit status 1 if a guest could not be had;
    that jobs need the room is no failure.

    \b
    Example: vmbatch pool refill
    """
    import os

    from .. import filler
    from ..errors import BusyError, VmBatchError
    from ..hooked import load_config
    from ..host import interrupt
    from .job import require_root

    require_root("vmbatch pool refill")
    config = load_config()
    failed = False

    def fail(error: VmBatchError) -> None:
        nonlocal failed
        failed = True
        first, *rest = error.lines()
        for line in (error.coded(first), *rest):
            click.echo(f"vmbatch: {line}", err=True)

    with interrupt.noted(), filler.alone() as mine:
        if not mine:
            click.echo("another vmbatch pool refill is under way")
            return
        forms = filler.templates(config, fail)
        for line in filler.prune(forms, config):
            click.echo(line)
        chosen = {os.path.abspath(path) for path in templates}
        if not chosen <= {form.path for form in forms}:
            raise click.UsageError("a template of a queue, with <vbstart>POOL</vbstart>, is wanted")
        forms = [form for form in forms if not chosen or form.path in chosen]
        given_up: set[str] = set()
        while lacking := [form for form in forms if form.path not in given_up and filler.lacking(form)]:
            for form in lacking:
                interrupt.check()
                try:
                    click.echo(filler.fill(form, config))
                except BusyError as error:
                    given_up.add(form.path)
                    click.echo(f"{form.path}: {error}")
                except VmBatchError as error:
                    given_up.add(form.path)
                    fail(error)
    sys.exit(1 if failed else 0)


@pool.command()
@click.argument("templates", nargs=-1, type=click.Path(dir_okay=False))
def drain(templates: tuple[str, ...]) -> None:
    """End the guests that wait.

    Of TEMPLATES or of all. The service has others wait soon; vmbatch drain keeps it from that.

    \b
    Example: vmbatch pool drain
    """
    import os

    from .. import journal, sweep
    from .. import pool as pools
    from ..hooked import load_config
    from ..host.log import Log
    from .job import require_root

    require_root("vmbatch pool drain")
    config = load_config()
    log = Log(config.log_directory, sweep.LOG, "pool")
    chosen = {os.path.abspath(path) for path in templates}
    failed = False
    for path, start, waits in journal.waiting():
        if chosen and waits.template not in chosen:
            continue
        if pools.end(path, "an admin wished so", config, log):
            click.echo(f"ended {start.unique}, of {waits.template}")
        else:
            failed = True
            click.echo(f"vmbatch: {start.unique} is in use, or could not be ended; see {log.path}", err=True)
    sys.exit(1 if failed else 0)
