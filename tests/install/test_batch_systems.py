"""`vmbatch install` for OpenPBS, whose qmgr is played, and for Slurm."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import HOOKS, Vmbatch, state, take_off

QMGR = """#!/bin/sh
# qmgr -c COMMAND, as pbs_qmgr: one hook, in a directory
[ "$1" = -c ] || exit 2
printf '%s\\n' "$2" >>/var/spool/pbs-site/told
cd /var/spool/pbs-site/server || exit
case $2 in
"list hook vmbatch") [ -e hook ] || { echo "qmgr obj=vmbatch svr=default: hook not found" >&2; exit 1; } ;;
"create hook vmbatch") [ ! -e hook ] && touch hook ;;
"delete hook vmbatch") rm hook program ;;
"set hook vmbatch "*) [ -e hook ] ;;
"export hook vmbatch application/x-python default") cat program ;;
"import hook vmbatch application/x-python default "*) cp "${2##* }" program ;;
*) exit 1 ;;
esac
"""


@pytest.fixture
def pbs() -> Iterator[Path]:
    """PBS_HOME and PBS_EXEC of a site."""
    home = Path("/var/spool/pbs-site")
    for name in ("mom_priv", "server", "exec/bin"):
        (home / name).mkdir(parents=True)
    (home / "mom_priv/epilogue").write_text("#!/bin/sh\n")
    (home / "mom_priv/epilogue").chmod(0o700)
    (home / "exec/bin/qmgr").write_text(QMGR)
    (home / "exec/bin/qmgr").chmod(0o755)
    Path("/etc/pbs.conf").write_text(f'PBS_EXEC={home}/exec\nPBS_HOME="{home}"\n')
    yield home
    take_off()
    subprocess.run(["rm", "-r", home, "/etc/pbs.conf"], check=True)


def test_openpbs(vmbatch: Vmbatch, pbs: Path) -> None:
    place = pbs / "mom_priv"
    before = state(place)
    done = vmbatch("install", "--openpbs", "--yes")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert 'qmgr -c "set hook vmbatch alarm = 600"' in done.stdout
    assert not (pbs / "told").exists()
    assert {path.name for path in place.iterdir()} == {
        "prologue", "epilogue", "epilogue.site", "remoteshell", "openpbs", "vmbatch_hook.py"}
    assert f"DIRECTORY = '{place}'" in (place / "vmbatch_hook.py").read_text()
    assert vmbatch("install", "--yes").stdout.startswith("nothing to do\n")
    assert vmbatch("uninstall", "--yes").returncode == 0
    assert state(place) == before


def test_openpbs_with_its_server(vmbatch: Vmbatch, pbs: Path) -> None:
    before = state(pbs / "mom_priv", pbs / "server")
    assert vmbatch("install", "--openpbs", "--qmgr", "--yes").returncode == 0
    assert (pbs / "server/program").read_bytes() == (pbs / "mom_priv/vmbatch_hook.py").read_bytes()
    told = (pbs / "told").read_text().splitlines()
    assert told.index("create hook vmbatch") < told.index("set hook vmbatch enabled = true")
    assert "set hook vmbatch event += 'execjob_preterm,execjob_epilogue,execjob_end,execjob_abort'" in told
    assert vmbatch("install", "--yes").stdout.startswith("nothing to do\n")
    (pbs / "server/program").write_text("older\n")
    (pbs / "told").unlink()
    assert vmbatch("install", "--yes").returncode == 0
    assert [line for line in (pbs / "told").read_text().splitlines() if line.split()[0] not in ("list", "export")] == [
        f"import hook vmbatch application/x-python default {pbs}/mom_priv/vmbatch_hook.py"]
    assert vmbatch("uninstall", "--yes").returncode == 0
    assert state(pbs / "mom_priv", pbs / "server") == before


def test_a_hook_of_the_servers_that_another_node_made(vmbatch: Vmbatch, pbs: Path) -> None:
    (pbs / "server/hook").touch()
    (pbs / "server/program").write_text("older\n")
    assert vmbatch("install", "--openpbs", "--qmgr", "--yes").returncode == 0
    assert vmbatch("uninstall", "--yes").returncode == 0
    assert (pbs / "server/hook").exists(), "it is not ours to delete"


@pytest.fixture
def slurm() -> Iterator[Path]:
    """A directory with a site's slurm.conf and plugstack.conf."""
    etc = Path("/etc/slurm-site")
    etc.mkdir()
    (etc / "slurm.conf").write_text("ClusterName=c\nprologflags=Contain,Alloc\nProlog=/site/prolog # ours\n")
    (etc / "plugstack.conf").write_text("optional /usr/lib/site.so")
    yield etc
    take_off()
    subprocess.run(["rm", "-r", etc], check=True)


def test_slurm(vmbatch: Vmbatch, slurm: Path) -> None:
    words = ("install", "--slurm", "--slurm-conf", slurm)
    before = state()
    done = vmbatch(*words, "--yes")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"Prolog={HOOKS}/slurm-prolog\n" in done.stdout
    assert "GetEnvTimeout=0\n" in done.stdout
    assert "PrologFlags" not in done.stdout
    lines = (slurm / "plugstack.conf").read_text().splitlines()
    assert lines[0] == "optional /usr/lib/site.so"
    (ours,) = [line for line in lines if line.startswith("required ")]
    assert ours.startswith(f"required {HOOKS}/vmbatch.so task={HOOKS}/slurm-task partitions=")
    assert "busybox" in ours
    assert vmbatch("install", "--yes").stdout.startswith("nothing to do\n")
    shown = subprocess.run(["nm", "-D", f"{HOOKS}/vmbatch.so"], capture_output=True, text=True, check=True).stdout
    assert "slurm_spank_task_init" in shown
    assert vmbatch("uninstall", "--yes").returncode == 0
    assert state() == before


def test_slurm_with_a_slurmd_at_work(vmbatch: Vmbatch, slurm: Path, tmp_path: Path) -> None:
    assert vmbatch("install", "--slurm", "--slurm-conf", slurm, "--yes").returncode == 0
    (tmp_path / "slurmd").write_bytes(Path("/bin/sleep").read_bytes())
    (tmp_path / "slurmd").chmod(0o755)
    with subprocess.Popen([tmp_path / "slurmd", "60"]) as slurmd:
        refused = vmbatch("uninstall", "--yes")
        slurmd.kill()
    assert refused.returncode == 1
    assert "slurmd is at work" in refused.stderr
    assert vmbatch("uninstall", "--yes").returncode == 0
