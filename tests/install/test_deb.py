"""The Debian package: dpkg installs it over a view of the node's that is thrown away, and a job runs by it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import init, place

from .conftest import Snapshot, state

DIRECTORY = place.CLONE / "dist/deb"
HOOKS = "/usr/lib/vmbatch/hooks"
VIEW = """
set -e
mount -t tmpfs -o mode=755 deb "$1"
cp -a /etc "$1/etc"
cp -a /var/lib/dpkg "$1/dpkg"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/usr,upperdir=$1/upper,workdir=$1/work" overlay /usr
mount --bind "$1/etc" /etc
mount --bind "$1/dpkg" /var/lib/dpkg
echo up
exec sleep infinity
"""
JOB = """
import json, sys
from pathlib import Path
from lab.mom import Mom
ended = Mom(Path(sys.argv[1])).run(b"#!/bin/sh\\nuname -n; id -un\\nexit 7\\n")
print(json.dumps([ended.verdict, ended.status, ended.epilogue, ended.output.decode(), ended.errors.decode()]))
"""
In = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def package() -> Path:
    found = sorted(DIRECTORY.glob("vmbatch_*.deb"))
    assert len(found) == 1, "build it first, outside of the node: make deb"
    return found[0]


@pytest.fixture
def view(tmp_path: Path) -> Iterator[Path]:
    """The root directory of a node with its own /usr, /etc and dpkg, as seen from here."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(["unshare", "--mount", "--propagation=private", "sh", "-c", VIEW, "sh", scratch],
                          stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"up\n"
        yield Path(f"/proc/{first.pid}/root")
        first.kill()


@pytest.fixture
def run(view: Path) -> In:
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={view.parent.name}", "--mount", f"--wdns={place.CLONE}", "--"]
        return subprocess.run([*enter, *map(str, words)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                              env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"})

    return run


def test_what_is_in_it(package: Path) -> None:
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=5) for line in listed.splitlines()]
    paths = {line[5].split(" -> ")[0].removeprefix(".") for line in lines}
    assert {path.split("/")[1] for path in paths if path != "/"} == {"etc", "lib", "usr"}
    assert {line[1] for line in lines} == {"root/root"}
    assert not [line for line in lines if line[0][0] != "l" and "w" in (line[0][5], line[0][8])]
    pages = {f"/usr/share/man/man{page.name.split('.')[-2]}/{page.name.removesuffix('.md')}.gz"
             for page in (place.CLONE / "docs/man").glob("*.md")}
    units = {f"/lib/systemd/system/{unit.name}" for unit in (place.CLONE / "etc/systemd").iterdir()}
    examples = {f"/usr/share/doc/vmbatch/examples/domains/{template.name}"
                for template in (place.CLONE / "examples/domains").glob("*.xml")}
    assert pages | units | examples <= paths
    assert {"/usr/bin/vmbatch", "/etc/vmbatch/vmbatch.conf", "/etc/logrotate.d/vmbatch", f"{HOOKS}/remoteshell",
            "/usr/share/bash-completion/completions/vmbatch", "/usr/share/zsh/vendor-completions/_vmbatch",
            "/usr/share/fish/vendor_completions.d/vmbatch.fish"} <= paths
    depends = subprocess.run(["dpkg-deb", "-f", package, "Depends"], capture_output=True, text=True, check=True).stdout
    assert "libvirt0" in depends
    assert "daemon" not in depends


def _but_jobs(found: Snapshot) -> Snapshot:
    """Without what the jobs of this node have, before and behind."""
    return {path: about for path, about in found.items() if "/var/lib/vmbatch" not in path}


def test_installed_used_and_removed(package: Path, view: Path, run: In) -> None:
    config = view / "etc/vmbatch/vmbatch.conf"
    site = config.read_bytes()
    config.unlink()
    before = state(root=view)
    home = Path("/var/spool/torque-deb")
    done = run("dpkg", "-i", package)
    assert done.returncode == 0, done.stderr
    assert config.read_text().startswith("# vmbatch.conf: ")
    config.write_bytes(site)
    assert run("vmbatch", "--version").stdout.startswith("vmbatch, version ")
    assert run("vmbatch", "check", "/etc/vmbatch/domains/busybox.xml").returncode == 0
    assert not list((view / "etc/systemd/system").rglob("*vmbatch*")), "the package enables nothing"
    try:
        for name, mode in init.MOM_DIRECTORIES.items():
            (home / name).mkdir(parents=True)
            (home / name).chmod(mode)
        done = run("vmbatch", "install", "--torque", "--mom-priv", home / "mom_priv", "--yes")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert f"$job_starter {HOOKS}/remoteshell\n" in (home / "mom_priv/config").read_text()
        assert "/usr/lib/vmbatch" not in "".join(line for line in done.stdout.splitlines() if line.startswith("write")), (
            "what the package brings is not written again")
        assert (view / "etc/systemd/system/timers.target.wants/vmbatch-sweep.timer").is_symlink()
        changed = [line.split()[-1] for line in run("dpkg", "-V", "vmbatch").stdout.splitlines()]
        assert changed == ["/etc/vmbatch/vmbatch.conf"], "the site's"

        (home / "mom_priv/remoteshell").symlink_to(f"{HOOKS}/remoteshell")
        ended = run(sys.executable, "-c", JOB, home)
        assert ended.returncode == 0, ended.stderr
        verdict, status, epilogue, output, errors = json.loads(ended.stdout)
        assert (verdict, status, epilogue) == ("run", 7, 0), errors
        assert output.split()[0].startswith("vm-")
        assert output.split()[1] == "alice"

        refused = run("dpkg", "-r", "vmbatch")
        assert refused.returncode != 0
        assert "run 'vmbatch uninstall' first" in refused.stderr
        assert run("vmbatch", "sweep", "--dry-run").returncode == 0, "it is all there still"
        assert run("vmbatch", "uninstall", "--yes").returncode == 0
    finally:
        subprocess.run(["rm", "-r", home], check=True)
    done = run("dpkg", "-P", "vmbatch")
    assert done.returncode == 0, done.stderr
    assert not (view / "usr/lib/vmbatch").exists()
    assert not (view / "usr/bin/vmbatch").is_symlink()
    assert _but_jobs(state(root=view)) == _but_jobs(before)


def test_the_versions_are_the_same(package: Path) -> None:
    version = subprocess.run(["dpkg-deb", "-f", package, "Version"], capture_output=True, text=True, check=True).stdout.strip()
    assert f'version = "{version}"' in (place.CLONE / "pyproject.toml").read_text()
