"""python -m lab.xen build|up|down|status|exec"""

import argparse
import os
import sys

from .. import place
from ..process import ProcessError
from . import machine, parts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m lab.xen", description="The lab's Xen host, a machine of QEMU's.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("build", "build what is missing, and print where it is"),
        ("up", "build what is missing, and boot the machine"),
        ("down", "end the machine; its console's log stays"),
        ("status", "whether it runs; status 3: it does not"),
    ):
        verbs.add_parser(name, help=text, description=text)
    text = "run a command in dom0, by ssh, with its exit status"
    verb = verbs.add_parser("exec", help=text, description=text)
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return top


def main() -> int:
    """Exit status."""
    options = parser().parse_args()
    if os.geteuid() != 0:
        raise SystemExit("the lab needs root")
    found = machine.state()
    try:
        if options.verb == "build":
            print("\n".join(map(str, parts.directories())))
        elif options.verb == "down":
            machine.down()
        elif options.verb == "status":
            running = machine.pid()
            what = f"up, its QEMU is {running}" if running else "down"
            print(f"Xen machine {place.name()}: {what}; console in {found.console}")
            return 0 if running else 3
        else:
            if not (options.verb == "exec" and machine.pid()):
                machine.up()
            if options.verb == "exec":
                command = options.command[1:] if options.command[:1] == ["--"] else options.command
                sys.stdout.flush()
                os.execvp("ssh", [*machine.ssh(found), "dom0", *command])  # noqa: S606
    except (ProcessError, machine.OuterCrash) as error:
        print(f"lab.xen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
