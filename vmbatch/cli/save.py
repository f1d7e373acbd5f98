"""`vmbatch save`: guests of templates, saved for jobs to go on from."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("templates", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@click.option("--all", "everything", is_flag=True, help="the templates of all queues that say <vbstart>RESUME</vbstart>")
def save(templates: tuple[str, ...], everything: bool) -> None:
    """Boot a guest of each of TEMPLATES and save it, unless there is one that is just so, for jobs to go on from. For root.

    Run it from a timer, as image fetch. Exit status 1 if a guest could not be saved.

    \b
    Example: vmbatch save --all
    """
    import os

    from .. import saver
    from .. import template as forms
    from ..batch import local
    from ..errors import VmBatchError
    from ..hooked import load_config
    from ..host import file, interrupt
    from ..host.log import Log
    from .job import require_root

    require_root("vmbatch save")
    if everything == bool(templates):
        raise click.UsageError("name templates, or give --all")
    config = load_config()
    named = [os.path.join(config.templates_directory, name) for names in config.queues.values() for name in names]
    failed = False
    with interrupt.noted():
        for path in dict.fromkeys(os.path.abspath(path) for path in (named if everything else templates)):
            interrupt.check()
            try:
                if everything and not forms.parse(file.read_trusted(path), path).resume:
                    continue
                start = local.new_number()
                click.echo(saver.save(path, config, Log(config.log_directory, saver.job_id(start), "save"), start))
            except VmBatchError as error:
                failed = True
                first, *rest = error.lines()
                for line in (error.coded(first), *rest):
                    click.echo(f"vmbatch: {line}", err=True)
    sys.exit(1 if failed else 0)
