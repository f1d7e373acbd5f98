"""`vmbatch metrics`: figures for Prometheus."""

from __future__ import annotations

import click


@click.command()
@click.option("--output", metavar="FILE", type=click.Path(dir_okay=False), help="put a file in place instead of printing")
def metrics(output: str | None) -> None:
    """Print this node's figures for Prometheus: its jobs by phase, how long phases took, failures by code. For root.

    \b
    Example: vmbatch metrics --output /var/lib/prometheus/node-exporter/vmbatch.prom
    """
    from ..errors import NodeError
    from ..hooked import load_config
    from ..host import file
    from ..metrics import text
    from .job import require_root

    require_root("vmbatch metrics")
    figures = text(load_config())
    if output is None:
        click.echo(figures, nl=False)
        return
    try:
        file.put(output, figures.encode())
    except OSError as error:
        raise NodeError(f"{output} cannot be written: {error.strerror}", "is that the exporter's textfile directory?",
                        code="VB906") from None
