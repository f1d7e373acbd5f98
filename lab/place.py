"""Names and directories: where the clone is, what this lab is called, what it keeps where."""

import hashlib
import os
import re
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent
CACHE = Path("/var/cache/vmbatch-lab")
"""Built guests, fetched packages, libvirt's capability cache: for all labs of the machine; may be removed when none is up."""

# Constant places inside the node.
SHARE = Path("/srv/vmbatch/share")
IMAGES = Path("/srv/vmbatch/images")
"""CACHE as the node's libvirt sees it: read-only, so that no ownership is changed under another lab."""
ENVIRONMENT = Path("/srv/vmbatch/venv")
"""The clone's .venv, where every user of the node can reach it."""
VMBATCH = (f"{ENVIRONMENT}/bin/python3", f"{ENVIRONMENT}/bin/vmbatch")
"""For every user: the program's own first line names the clone's .venv, which may lie where only root can look."""
MOM = Path("/var/spool/torque")
PBS = Path("/var/spool/pbs")
INSIDE = Path("/run/vmbatch-lab.name")
"""Exists in the node only, and holds the lab's name."""
SYSLOG = Path("/var/log/lab/syslog")
ADDRESS = "10.77.0.1"


def name() -> str:
    """This lab's name: VMBATCH_LAB, or one that belongs to the clone's path."""
    chosen = os.environ.get("VMBATCH_LAB") or hashlib.sha256(os.fsencode(CLONE)).hexdigest()[:8]
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", chosen):
        raise SystemExit(f"VMBATCH_LAB={chosen!r}: use small letters, digits and '-'")
    return chosen


def state() -> Path:
    """Everything that a running lab keeps on disk; only `log` outlives it."""
    return Path(f"/var/tmp/vmbatch-lab-{name()}")  # noqa: S108 (root-made, mode 0755, checked by node.up)
