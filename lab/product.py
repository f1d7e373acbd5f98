"""The product in the node, as a site installs it: configuration, domain templates, the hooks in mom_priv.

Written from outside through /proc/PID/root, and only when something differs from what was installed last.
"""

import hashlib
import os
import re
from pathlib import Path

from vmbatch.installation import hookfile

from . import place

CONFIGURATION = place.CLONE / "lab/etc"
STAMP = Path("/run/vmbatch-lab.product")


def fill(text: str, guests: dict[str, Path]) -> str:
    """Replace `@GUESTS@/NAME` by the directory with that guest's images, as the node sees it."""
    return re.sub(r"@GUESTS@/(\w+)", lambda match: str(place.IMAGES / guests[match[1]].name), text)


def files(guests: dict[str, Path]) -> dict[Path, tuple[int, bytes]]:
    """Mode and content of all that is installed, by its path in the node."""
    found: dict[Path, tuple[int, bytes]] = {}
    for source in sorted(CONFIGURATION.rglob("*")):
        if source.is_file():
            target = Path("/etc/vmbatch") / source.relative_to(CONFIGURATION)
            found[target] = (source.stat().st_mode & 0o755, fill(source.read_text(), guests).encode())
    interpreter = f"{place.ENVIRONMENT}/bin/python3"
    for name in hookfile.HOOKS:  # for an interpreter that any user can reach: the clone may lie in root's home
        found[place.MOM / "mom_priv" / name] = (0o755, hookfile.hook(name, interpreter))
    found[place.MOM / "mom_priv/remoteshell"] = (0o755, _starter(interpreter))
    for name in hookfile.OPENPBS_HOOKS:
        found[place.PBS / "mom_priv" / Path(name).name] = (0o755, hookfile.hook(name, interpreter))
    found[place.PBS / "mom_priv/remoteshell"] = found[place.MOM / "mom_priv/remoteshell"]
    found[place.PBS / "mom_priv/vmbatch_hook.py"] = (0o644, hookfile.openpbs_hook(str(place.PBS / "mom_priv")))
    return found


def _starter(interpreter: str) -> bytes:
    """remoteshell's starter, compiled when its source is new."""
    source = hookfile.starter_source(interpreter)
    kept = place.CLONE / ".venv" / f"starter-{hashlib.sha256(source).hexdigest()[:16]}"
    if not kept.exists():
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(hookfile.compile_starter(interpreter))
        os.rename(fresh, kept)
    return kept.read_bytes()


def install(running: int, guests: dict[str, Path]) -> None:
    """Write the files into the node whose process 1 is `running`."""
    root = Path(f"/proc/{running}/root")
    wanted = files(guests)
    digest = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()
    stamp = root / STAMP.relative_to("/")
    if stamp.exists() and stamp.read_text() == digest:
        return
    for path, (mode, content) in wanted.items():
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.new")
        fresh.write_bytes(content)
        fresh.chmod(mode)
        os.rename(fresh, target)
    stamp.write_text(digest)
