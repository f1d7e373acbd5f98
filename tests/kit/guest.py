"""A directory that stands for a guest, and the kit run in it by one of the shells."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

KIT = Path(__file__).resolve().parents[2] / "vmbatch" / "kit"
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}
ENTRY_POINTS = ("prolog.sh", "epilog.sh")
NONCE = "0123456789abcdef0123456789abcdef"


def quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


@dataclass
class Guest:
    """A guest whose root is a directory, with a medium beside it; `functions` stand in for programs."""

    root: Path
    medium: Path
    shell: list[str]
    path: str
    functions: dict[str, str] = field(default_factory=dict)
    context: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.root / "var/lib/vmbatch"

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": self.path, "VMBATCH_ROOT": str(self.root), "HOME": str(self.root), "SHELL": "/bin/bash"}

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        file.chmod(mode)
        return file

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def run(self, script: str | Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """The script with our functions; functions, as busybox prefers its own programs to those in PATH."""
        command = [*self.shell, "-c", f'{self.prelude}. "$0"', str(script), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, timeout=60, check=False)

    def evaluate(self, code: str, environment: Mapping[str, str] | None = None) -> str:
        """What the code prints with the kit's parts at hand."""
        parts = "".join(f'. "{KIT}/{part}.sh"\n' for part in ("lib", "user", "ssh", "share"))
        command = [*self.shell, "-c", f"{parts}{self.prelude}{code}"]
        done = subprocess.run(
            command, env=self.environment | dict(environment or {}), capture_output=True, timeout=60, check=False
        )
        return (done.stdout + done.stderr).decode()

    @property
    def prelude(self) -> str:
        return "".join(f"{name}() {{ {body}\n}}\n" for name, body in self.functions.items())

    def write_medium(self) -> None:
        """The medium with kit and context as the host makes it."""
        (self.medium / "kit").mkdir(parents=True, exist_ok=True)
        for script in KIT.glob("*.sh"):
            shutil.copy(script, self.medium / ("" if script.name in ENTRY_POINTS else "kit") / script.name)
        lines = "".join(f"{name}={quoted(value)}\n" for name, value in self.context.items())
        (self.medium / "parameters.sh").write_text(lines)

    def add_to_medium(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        file = self.medium / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        file.chmod(mode)


def make_guest(directory: Path, name: str) -> Guest:
    """A guest of that shell: passwd and group as in a small distribution."""
    path = os.defpath
    if name == "busybox":
        programs = directory / "busybox"
        programs.mkdir()
        subprocess.run(["busybox", "--install", "-s", str(programs)], check=True)
        path = str(programs)
    guest = Guest(directory / "root", directory / "medium", SHELLS[name], path)
    guest.context = {
        "VMBATCH_JOB": "42.vm",
        "VMBATCH_TOKEN": NONCE,
        "VMBATCH_HOSTNAME": "vm-42",
        "VMBATCH_USER": "alice",
        "VMBATCH_UID": "1500",
        "VMBATCH_GROUP": "staff.x",
        "VMBATCH_GID": "1501",
        "VMBATCH_GROUPS": "physics:1600 grid:1700",
        "VMBATCH_HOME": "/home/alice",
        "VMBATCH_SHELL": "/bin/bash",
        "VMBATCH_SHARE_SOURCE": "10.77.0.1:/share/x",
        "VMBATCH_SHARE_TYPE": "nfs4",
        "VMBATCH_SHARE_OPTIONS": "vers=4.2,soft",
        "VMBATCH_SHARE_PATH": "/mnt/vmbatch",
    }
    for directory_name in ("etc/ssh", "dev", "proc/sys/kernel", "home", "var/lib"):
        (guest.root / directory_name).mkdir(parents=True)
    guest.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n")
    guest.write("etc/group", "root:x:0:\ndaemon:x:1:\nwheel:x:10:root,bob\n")
    guest.write("etc/shadow", "root:!:19000:0:99999:7:::\n", 0o640)
    guest.write("etc/gshadow", "root:*::\nwheel:::root,bob\n", 0o600)
    guest.write("etc/shells", "/bin/sh\n")
    guest.write("bin/bash", "", 0o755)
    guest.write("bin/sh", "", 0o755)
    guest.write("dev/console", "")
    guest.write("proc/mounts", "rootfs / rootfs rw 0 0\n")
    guest.functions["chown"] = f'echo "$*" >>"{guest.root}/chown.log"'
    return guest
