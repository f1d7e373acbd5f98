"""The units for systemd are right, and order the sweep as the man page says."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from .imports import ROOT

UNITS = sorted((ROOT / "etc/systemd").iterdir())
MAN = (ROOT / "docs/man/vmbatch.8.md").read_text()


def read(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((ROOT / "etc/systemd" / name).read_text())
    return parser


def test_the_units_are_those_of_the_man_page() -> None:
    """Of all that is enabled by `vmbatch install`; a timer has its service."""
    names = {path.name for path in UNITS}
    enabled = {name for name in names if "Install" in read(name)}
    assert enabled >= {"vmbatch-sweep-boot.service", "vmbatch-sweep.timer", "vmbatch-images.timer", "vmbatch-save.timer",
                       "vmbatch-pool.timer", "vmbatch-pool.path"}
    assert {name.replace(".timer", ".service") for name in names if name.endswith(".timer")} <= names - enabled
    for name in enabled:
        assert f"`{name}`" in MAN, name
        by = {".timer": "timers.target", ".path": "paths.target", "-filters.service": "nftables.service"}
        wanted = next((target for end, target in by.items() if name.endswith(end)), "multi-user.target")
        assert read(name)["Install"]["WantedBy"] == wanted


def test_the_sweep_at_boot_is_over_before_the_batch_system_starts() -> None:
    unit = read("vmbatch-sweep-boot.service")
    assert unit["Unit"]["Before"].split() == ["pbs_mom.service", "pbs.service", "slurmd.service"]
    assert unit["Service"]["Type"] == "oneshot"
    assert {"remote-fs.target", "libvirtd.service"} <= set(unit["Unit"]["After"].split())
    assert not {"Requires", "Requisite", "BindsTo"} & set(unit["Unit"])


@pytest.mark.parametrize("name", ["vmbatch-sweep-boot.service", "vmbatch-sweep.service"])
def test_a_sweep_has_a_deadline(name: str) -> None:
    service = read(name)["Service"]
    assert service["ExecStart"] == "/opt/vmbatch/bin/vmbatch sweep"
    assert service["TimeoutStartSec"].endswith("min")


def test_the_figures_go_where_the_unit_looks() -> None:
    unit = read("vmbatch-metrics.service")
    command, option, path = unit["Service"]["ExecStart"].rsplit(" ", 2)
    assert (command, option) == ("/opt/vmbatch/bin/vmbatch metrics", "--output")
    assert path == f"{unit['Unit']['ConditionPathIsDirectory']}/vmbatch.prom"
    assert f"vmbatch metrics --output {path}\n" in MAN


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_understands_them(tmp_path: Path) -> None:
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/vmbatch/bin/vmbatch", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *(tmp_path / path.name for path in UNITS)],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "vmbatch" in line]) == (0, []), done.stderr
