"""The program that has a guest's kernel renew its random numbers, on this kernel."""

import subprocess
from pathlib import Path

import pytest

from vmbatch.format.reseed import program


@pytest.fixture
def made(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    path = tmp_path / "reseed"
    path.write_bytes(program())
    path.chmod(0o755)
    return path


def test_it_asks_the_kernel(made: Path) -> None:
    traced = subprocess.run(["strace", "-f", made], capture_output=True, text=True, check=True).stderr
    assert 'open("/dev/urandom", O_RDONLY)' in traced
    assert "RNDRESEEDCRNG" in traced


def test_it_says_what_went_wrong() -> None:
    """EPERM, for whoever is not root; run from /tmp, as no other may reach pytest's own directory."""
    path = Path("/tmp/vmbatch-test-reseed")  # noqa: S108
    path.write_bytes(program())
    path.chmod(0o755)
    try:
        ended = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", path], check=False)
        assert ended.returncode == 1
    finally:
        path.unlink()


def test_readelf_takes_it(made: Path) -> None:
    said = subprocess.run(["readelf", "-hl", made], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    assert "EXEC (Executable file)" in said.stdout
    assert "Advanced Micro Devices X86-64" in said.stdout
