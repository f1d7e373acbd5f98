"""The user's side of a guest: the kit in place, and runs of jobs started as the host starts them."""

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from .guest import KIT, SHELLS

ID = "c0ffee"


@dataclass
class Runs:
    """What /var/lib/vmbatch is in a guest."""

    base: Path
    shell: list[str]
    environment: dict[str, str]

    def command(self, script: str, *arguments: str) -> list[str]:
        return [*self.shell, str(self.base / "kit" / script), *arguments]

    def call(self, script: str, *arguments: str, input: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        command, pipe = self.command(script, *arguments), subprocess.PIPE
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=self.environment, start_new_session=True
        ) as process:
            try:
                out, err = process.communicate(input, timeout=60)
            except subprocess.TimeoutExpired:
                told = f"{script} is not over after a minute (status {process.poll()}): {holders(process)}"
                process.kill()
                pytest.fail(told)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def job(self, input: bytes, id: str = ID) -> "subprocess.CompletedProcess[bytes]":
        return self.call("job.sh", id, input=input)

    def start(self, input: bytes, id: str = ID) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            self.command("job.sh", id),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(input)
        process.stdin.flush()
        return process

    def status(self, id: str = ID) -> tuple[int, bytes]:
        done = self.call("status.sh", id)
        return done.returncode, done.stdout

    def place_script(self, content: bytes) -> None:
        script = self.base / "job/script"
        script.write_bytes(content)
        script.chmod(0o700)

    def in_run(self, name: str, id: str = ID) -> Path:
        return self.base / "job" / f"run.{id}" / name


def make_runs(directory: Path, name: str) -> Runs:
    base = directory / "vmbatch"
    shutil.copytree(KIT, base / "kit")
    (base / "job").mkdir(mode=0o700)
    home = directory / "home"
    home.mkdir()
    environment = {"PATH": os.defpath, "HOME": str(home), "SHELL": "/bin/bash", "LC_ALL": "C.UTF-8", "FROM_SSHD": "1"}
    return Runs(base, SHELLS[name], environment)


def holders(process: "subprocess.Popen[bytes]") -> list[str]:
    """The other processes that have the other ends of a process's output."""
    pipes = {os.readlink(f"/proc/self/fd/{stream.fileno()}") for stream in (process.stdout, process.stderr) if stream}
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in pipes and descriptor.parts[2] != str(os.getpid()):
                found.append(f"{descriptor}: {Path(*descriptor.parts[:3], 'cmdline').read_bytes()!r}")
    return found


def wait_for(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(path)
