"""What submitters ask of VmBatch itself, in the one resource that they may write as they like."""

from ..errors import JobError


def parse_wishes(resources: str) -> dict[str, str]:
    """What `-l other=NAME=VALUE;NAME=VALUE` asks of VmBatch, whose names begin with `vb`. JobError.

    Torque joins all resources with commas and does not quote them, so that no value can have a comma in it.
    """
    found: dict[str, str] = {}
    for resource in resources.split(","):
        if found and "=" not in resource:
            raise JobError(f"-l other: no value can have a comma in it, and {resource[:80]!r} stands behind one",
                           "write %2C in a URL, or rename the file")
        if not resource.startswith("other="):
            continue
        for part in resource.removeprefix("other=").split(";"):
            name, equals, value = part.strip().partition("=")
            if not name.startswith("vb"):
                continue
            if not equals or not value:
                raise JobError(f"-l other={name[:80]}: a value is missing", f"write -l other={name[:80]}=VALUE")
            if name in found:
                raise JobError(f"-l other: {name[:80]} is asked for twice")
            found[name] = value
    return found
