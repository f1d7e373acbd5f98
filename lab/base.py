"""What Debian's base-files makes of a new machine after unpacking (its postinst): empty directories, links, profiles."""

import shutil
from pathlib import Path

_LOCAL = ("usr/local/bin", "usr/local/lib", "usr/local/sbin")
_DIRECTORIES = ("etc/opt", "media", "mnt", "opt", "srv", "var/mail", "var/opt", *_LOCAL)
_LINKS = {"var/run": "/run", "var/lock": "/run/lock", "var/spool/mail": "../mail", "usr/bin/awk": "mawk"}
_DEFAULTS = {"dot.profile": "root/.profile", "dot.bashrc": "root/.bashrc", "profile": "etc/profile", "motd": "etc/motd"}


def base_files(tree: Path) -> None:
    """Complete a tree with merged /usr into which base-files and mawk have been unpacked."""
    for name in _DIRECTORIES:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, target in _LINKS.items():
        if (tree / name).is_dir():
            (tree / name).rmdir()
        (tree / name).symlink_to(target)
    for name, target in _DEFAULTS.items():
        shutil.copy2(tree / "usr/share/base-files" / name, tree / target)
    (tree / "etc/environment").write_text("")
