"""What a site installs in its guests: the product's own program that finds and runs the context medium."""

from pathlib import Path

from .place import CLONE
from .process import run

KIT = CLONE / "vmbatch/kit/guest"


def install_kit(tree: Path) -> None:
    """Install it as a site would."""
    run(["sh", KIT / "install.sh", tree])
