"""python -m lab up|down|status|exec|guests|demo|boot"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import boot, guest, node, place, product, suite
from .process import ProcessError, run


def up() -> int:
    """Guests built, node up, product installed; returns the pid of the node's process 1."""
    guests = guest.directories()
    running = node.up()
    product.install(running, guests)
    return running


def execute(command: Sequence[str]) -> int:
    """Become the command, in the node."""
    whole = list(command) if node.inside() else node.enter(up(), [_reachable(command[0]), *command[1:]])
    sys.stdout.flush()
    os.execvp(whole[0], whole)  # noqa: S606


def _reachable(program: str) -> str:
    """The same program where every user reaches it, if it is of our environment: the clone may lie in root's home."""
    own, path = place.CLONE / ".venv", Path(os.path.abspath(program))
    return str(place.ENVIRONMENT / path.relative_to(own)) if path.is_relative_to(own) else program


def _up(_: argparse.Namespace) -> int:
    up()
    return 0


def _down(_: argparse.Namespace) -> int:
    for name in suite.nodes():
        os.environ["VMBATCH_LAB"] = name
        if place.state().exists():
            node.down()
    return 0


def _exec(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise SystemExit("exec: which command? python -m lab exec -- COMMAND")
    return execute(command)


def _guests(_: argparse.Namespace) -> int:
    for name, directory in guest.directories().items():
        print(f"{name:10} {directory}")
    return 0


def _status(_: argparse.Namespace) -> int:
    running = node.pid()
    print(f"lab {place.name()}: {f'up, process 1 is {running}' if running else 'down'}; logs in {place.state()}/log")
    if running:
        print(run(node.enter(running, ["virsh", "list"], "/")).strip())
    return 0 if running else 3


def _demo(_: argparse.Namespace) -> int:
    return execute([sys.executable, "-m", "lab.demo"])


def _suite(_: argparse.Namespace) -> int:
    return suite.run()


def _boot(options: argparse.Namespace) -> int:
    if not node.inside():
        return execute([sys.executable, "-m", "lab", *sys.argv[1:]])
    images = place.IMAGES / guest.directory(options.guest).name
    from_disk = options.disk or not (images / "guest.cpio").exists()
    machine = boot.Machine(options.guest, images, from_disk, options.medium, options.append)
    return boot.boot(machine, keep=options.keep, seconds=options.wait)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m lab", description="The lab: a private compute node with real guests.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, act, text in (
        ("up", _up, "build what is missing, and start the node"),
        ("down", _down, "end the node, and those of the suite beside it, with all that runs in them; their logs stay"),
        ("status", _status, "whether the node is up, and its guests; status 3: down"),
        ("guests", _guests, "build the guests, and print their directories"),
        ("demo", _demo, "run one job in a guest, and show it"),
        ("suite", _suite, "run all tests, in three nodes at the same time"),
    ):
        verbs.add_parser(name, help=text, description=text).set_defaults(act=act)
    text = "run a command in the node, in the same directory, with its exit status"
    verb = verbs.add_parser("exec", help=text, description=text)
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    verb.set_defaults(act=_exec)
    text = "boot a guest without a job, showing its console with the host's seconds, and destroy it"
    verb = verbs.add_parser("boot", help=text, description=text)
    verb.add_argument("guest", choices=sorted(guest.GUESTS))
    verb.add_argument("--disk", action="store_true", help="from its disk, where it could do without")
    verb.add_argument("--medium", type=Path, help="a context medium for it")
    verb.add_argument("--append", default="", help="more for the kernel's command line, such as lab.fault=panic")
    verb.add_argument("--keep", action="store_true", help="do not destroy it")
    verb.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="how long a boot may take (60)")
    verb.set_defaults(act=_boot)
    return top


def main() -> int:
    """Exit status."""
    options = parser().parse_args()
    if os.geteuid() != 0:
        raise SystemExit("the lab needs root, for namespaces and mounts")
    try:
        return int(options.act(options))
    except ProcessError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
