"""The filter as qsub runs it: a program, as the user."""

import os
import subprocess
from pathlib import Path

import pytest

from lab import place
from lab.mom import Mom

from .conftest import Accept

FILTER = str(place.MOM / "mom_priv/submitfilter")


def submit(script: bytes, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([FILTER, *arguments], input=script, capture_output=True, check=False, user="alice", group="alice",
                          env={"HOME": "/home/alice", "PATH": os.defpath, **environment})


def test_batch(mom: Mom, accept: Accept) -> None:
    """What it makes of a script runs in the guest as the user wrote it."""
    made = submit(b"#PBS -S /bin/bash\necho $0 ${BASH_VERSION:+bash} $LINENO | sed 's,.*/,,'\n", "-q", "busybox")
    assert (made.returncode, made.stderr) == (0, b"")
    assert made.stdout.startswith(b"#!/bin/bash\n#PBS -S /opt/vmbatch/hooks/remoteshell\n")
    process = mom.start_shell(accept(made.stdout), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert (process.stdout.read(), process.wait()) == (b"script bash 3\n", 0)


def test_interactive() -> None:
    """qsub -I gives it two empty lines."""
    made = submit(b"\n\n", "-I", "-q", "busybox")
    assert (made.returncode, made.stdout) == (0, b"#PBS -S /opt/vmbatch/hooks/remoteshell\n\n\n")


def test_native() -> None:
    script = bytes(range(256)) * 4096
    made = submit(script, "-q", "native", PYTHONPATH="/home/alice", PBS_DPREFIX="#X")
    assert (made.returncode, made.stdout, made.stderr) == (0, script, b"")


def test_rejected() -> None:
    made = submit(b"echo\n", "-q", "busybox", "-S", "/bin/sh")
    assert (made.returncode, made.stdout) == (255, b"")
    assert made.stderr.decode() == (
        "vmbatch: the job is not submitted: jobs of queue busybox run in virtual machines, and -S on the command line would have "
        "this one run elsewhere; leave it out, and name the shell in the script's first line: #!/bin/sh [VB805]\n")


@pytest.mark.parametrize("mode", [0o600, None])
def test_submit_host_without_a_readable_configuration(mode: int | None) -> None:
    """None: a host without VmBatch's queues. One that cannot be read is a mistake, and said."""
    config = Path("/etc/vmbatch/vmbatch.conf")
    before, was = config.read_bytes(), config.stat().st_mode
    try:
        if mode is None:
            config.unlink()
            assert submit(b"echo\n", "-q", "busybox").stdout == b"echo\n"
        else:
            config.chmod(mode)
            made = submit(b"echo\n", "-q", "native")
            assert (made.returncode, made.stdout) == (255, b"")
            assert b"/etc/vmbatch/vmbatch.conf: Permission denied" in made.stderr
    finally:
        config.write_bytes(before)
        config.chmod(was & 0o777)
