"""What submitters ask of VmBatch itself, in the one resource that they may write as they like, or in variables of `qsub -v`."""

import re

from ..errors import JobError


def parse_wishes(resources: str) -> dict[str, str]:
    """What `-l other=NAME=VALUE;NAME=VALUE` asks of VmBatch, whose names begin with `vb`, out of a resource list. JobError.

    Torque joins all resources with commas and does not quote them, so that no value can have a comma in it.
    """
    found: dict[str, str] = {}
    for resource in resources.split(","):
        if found and "=" not in resource:
            raise JobError(f"-l other: no value can have a comma in it, and {resource[:80]!r} stands behind one",
                           "write %2C in a URL, or rename the file", code="VB203")
        if resource.startswith("other="):
            _add(resource.removeprefix("other="), found)
    return found


def parse_other(text: str) -> dict[str, str]:
    """The same out of the value of that resource. JobError."""
    found: dict[str, str] = {}
    _add(text, found)
    return found


def _add(text: str, found: dict[str, str]) -> None:
    for part in text.split(";"):
        name, equals, value = part.strip().partition("=")
        if not name.startswith("vb"):
            continue
        if not equals or not value:
            raise JobError(f"-l other={name[:80]}: a value is missing", f"write -l other={name[:80]}=VALUE", code="VB203")
        if name in found:
            raise JobError(f"-l other: {name[:80]} is asked for twice", code="VB203")
        found[name] = value


def parse_variables(text: str) -> dict[str, str]:
    """What `-v VB_NAME=VALUE,...` asks, as `vbname`, out of the batch system's list of a job's variables. JobError."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not re.fullmatch("VB_[A-Z0-9]+", name):
            continue
        if not equals or not value:
            raise JobError(f"-v {name[:80]}: a value is missing", f"write -v {name[:80]}=VALUE", code="VB203")
        wish = "vb" + name.removeprefix("VB_").lower()
        if wish in found:
            raise JobError(f"-v: {name[:80]} is asked for twice", code="VB203")
        found[wish] = value
    return found
