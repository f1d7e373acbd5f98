"""`make bench`: all benchmarks, ours and a reference side by side in one run. Runs inside the lab's node.

Writes report.md, picture.svg and results.json; figures that went before are only replaced by those of a whole run.
"""

import argparse
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import place
from vmbatch.report.figure import Figure
from vmbatch.report.picture import picture
from vmbatch.report.written import markdown, results

from . import context, crowd, disk, footprint, growth, native, pool, resume, shell, start, together, whole

PARTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "start": start.figures,
    "resume": resume.figures,
    "pool": pool.figures,
    "whole": whole.figures,
    "native": native.figures,
    "shell": shell.figures,
    "together": together.figures,
    "crowd": crowd.figures,
    "growth": growth.figures,
    "footprint": footprint.figures,
    "disk": disk.figures,
    "context": context.figures,
}
"""In the order of the report."""


def main() -> int:
    """Exit status 1 if a part could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="VmBatch beside what it is compared with, in one run.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write the report (bench/, if all is measured)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    chosen = options.parts or list(PARTS)
    run, begin = _run(), time.monotonic()
    figures: list[Figure] = []
    failed: list[str] = []
    for name in chosen:
        print(f"  ....  {name}", file=sys.stderr, flush=True)
        try:
            for figure in PARTS[name]():
                figures.append(figure)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    run["took"] = f"{(time.monotonic() - begin) / 60:.0f} minutes"
    if failed:
        run["could not be measured"] = ", ".join(failed)
    print(markdown(figures, run))
    output = options.output or (None if options.parts or failed else place.CLONE / "bench")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "report.md").write_text(markdown(figures, run, "picture.svg"))
        (output / "picture.svg").write_text(picture(figures, "VmBatch beside its references"))
        (output / "results.json").write_bytes(results(figures, run))
    return 1 if failed else 0


def _run() -> dict[str, str]:
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{os.cpu_count()} processors, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB",
        "guests": "QEMU's emulation (TCG)",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "kernel": platform.release(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
