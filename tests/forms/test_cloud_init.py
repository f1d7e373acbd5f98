"""What Debian's cloud-init makes of each form: its own data sources, its own merging, its own schema, its own ds-identify."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmbatch import network
from vmbatch.context import forms
from vmbatch.context.tree import Entry
from vmbatch.context.userdata import SiteFile
from vmbatch.network import Net
from vmbatch.template import LABELS

from .conftest import INSTANCE, PARAMETERS, Run

DHCP = (Net("52:54:00:12:34:56"),)
STATIC = (Net("52:54:00:12:34:56", "10.0.0.20/24", "10.0.0.1", "", "", ("10.0.0.2",), ("example.org",)),)
SOURCES = {"nocloud": "NoCloud", "configdrive": "ConfigDrive", "opennebula": "OpenNebula"}
Write = Callable[[str, tuple[Entry, ...]], Path]
Source = Callable[[str, tuple[Entry, ...]], dict[str, Any]]
SITE = b"""\
#cloud-config
bootcmd:
  - echo 'it''s'
  - [printf, '%s|', "a b", "c'd"]
runcmd:
  - echo late
users:
  - name: operator
    ssh_authorized_keys: [ssh-ed25519 AAAA]
write_files:
  - path: /etc/motd
    content: "gr\xc3\xbc\xc3\x9fe \xe2\x98\x83 \xf0\x9f\x98\x80 \\x85\\u2028\\x7f"
"""
ALL_KEYS = b"""\
#cloud-config
random_seed: {data: x}
growpart: {mode: auto}
resize_rootfs: true
mounts: [[/dev/vdc, /scratch]]
swap: {size: 0}
manage_etc_hosts: true
groups: [one]
users: [default]
ssh_authorized_keys: [ssh-ed25519 AAAA]
timezone: UTC
runcmd: [date]
write_files: [{path: /x, content: y}]
"""


def made(form: str, nets: tuple[Net, ...] = DHCP, site: bytes | None = None) -> tuple[Entry, ...]:
    return forms.entries(form, PARAMETERS, LABELS[form], nets, None if site is None else SiteFile("/etc/site", site))


@pytest.mark.parametrize("form", SOURCES)
def test_found_by_its_source(form: str, source: Source) -> None:
    found = source(SOURCES[form], made(form))
    assert found["instance"] == ("iid-dsopennebula" if form == "opennebula" else INSTANCE)
    assert found["hostname"] == "vm-42"
    assert found["dsmode"] == ("net" if form == "opennebula" else "local")
    assert found["network"] is None and found["scripts"] == {} and found["strangers"] == []
    assert found["modules"] == {"init": ["bootcmd"], "config": [], "final": []}
    assert found["config"]["ssh_deletekeys"] is False
    assert found["bootcmd"].startswith("#!/bin/sh\n(\n") and "bin/sh \"$medium/prolog.sh\" start" in found["bootcmd"]
    assert f"by-label/{LABELS[form]} " in found["bootcmd"]


@pytest.mark.parametrize("form", SOURCES)
def test_with_the_sites_own(form: str, source: Source) -> None:
    found = source(SOURCES[form], made(form, site=SITE))
    assert found["dsmode"] == "net"
    assert found["bootcmd"].endswith(":\n)\necho 'it''s'\n'printf' '%s|' 'a b' 'c'\\''d'\n")
    assert found["runcmd"].startswith("#!/bin/sh\necho late\nstart_epilog() {\n") and found["runcmd"].endswith("&\nfi\n")
    assert found["config"]["write_files"][0]["content"] == "grüße ☃ 😀 \x85\u2028\x7f"
    assert found["modules"] == {
        "init": ["bootcmd", "write-files", "users-groups"], "config": ["runcmd"], "final": ["scripts-user"]}


def test_the_images_own_modules(source: Source) -> None:
    found = source("NoCloud", made("nocloud", site=b"#cloud-config\npackages: [tree]\n"))
    assert {"seed_random", "bootcmd", "ssh"} <= set(found["modules"]["init"])
    assert found["modules"]["final"][0] == "package-update-upgrade-install"


def test_network_v2(source: Source) -> None:
    assert source("NoCloud", made("nocloud", STATIC))["network"] == network.cloud_v2(STATIC)


def test_network_of_a_config_drive(source: Source, tmp_path: Path) -> None:
    """cloud-init looks for the interface of each MAC in the machine it runs on."""
    entries = tuple(entry for entry in made("configdrive", STATIC) if not entry.name.endswith("network_data.json"))
    assert source("ConfigDrive", entries)["network"] is None


def test_a_script(source: Source) -> None:
    found = source("NoCloud", made("nocloud", site=b"#!/bin/sh\necho one\n"))
    assert found["scripts"] == {"part-001": "#!/bin/sh\necho one\n"} and "part-001" < "runcmd"
    assert found["modules"] == {"init": ["bootcmd"], "config": ["runcmd"], "final": ["scripts-user"]}
    assert "start_epilog" in found["runcmd"] and "start_epilog" not in found["bootcmd"]


def test_what_is_included_cannot_push_us_aside(source: Source, tmp_path: Path) -> None:
    (tmp_path / "more").write_text("#cloud-config\nbootcmd: [theirs]\nruncmd: [later]\nssh_deletekeys: true\n"
                                   "ssh_genkeytypes: [rsa]\nusers: [default]\ntimezone: UTC\n")
    (tmp_path / "script").write_text("#!/bin/sh\n:\n")
    found = source("NoCloud", made("nocloud", site=f"#include\nfile://{tmp_path}/more\nfile://{tmp_path}/script\n".encode()))
    config = found["config"]
    assert config["bootcmd"][0] == "(" and config["bootcmd"][-1] == "theirs"
    assert config["runcmd"][0] == "later" and config["runcmd"][-1] == "fi"
    assert (config["ssh_deletekeys"], config["ssh_genkeytypes"]) == (False, ["ed25519"])
    assert (config["users"], config["timezone"]) == (["default"], "UTC"), "the rest is theirs"
    assert list(found["scripts"].values()) == ["#!/bin/sh\n:\n"]
    assert "scripts-user" in found["modules"]["final"] and "bootcmd" in found["modules"]["init"]


def test_a_message(source: Source) -> None:
    site = (b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: text/x-shellscript\n\n'
            b"#!/bin/sh\necho\n--b\nContent-Type: text/cloud-config\n\n#cloud-config\nbootcmd: [x]\n--b--\n")
    found = source("NoCloud", made("nocloud", site=site))
    assert found["config"]["bootcmd"][-1] == "x" and list(found["scripts"]) == ["part-001"]


@pytest.mark.parametrize("site", [None, SITE, ALL_KEYS, b"#cloud-config\nusers: ['MIME-Version: 1']\n"])
def test_schema(site: bytes | None, python: Run, tmp_path: Path) -> None:
    (entry, *_) = made("nocloud", site=site)
    if entry.data.startswith(b"#cloud-config"):
        (tmp_path / "user-data").write_bytes(entry.data)
        ended = python("-m", "cloudinit.cmd.main", "schema", "--config-file", tmp_path / "user-data")
        assert ended.returncode == 0 and "Valid" in ended.stdout, ended.stdout + ended.stderr
    else:
        assert site is not None and b"MIME" in site


def test_schema_finds_mistakes(python: Run, tmp_path: Path) -> None:
    """That the check before this one can fail."""
    (tmp_path / "user-data").write_text("#cloud-config\nbootcmd: 1\n")
    assert python("-m", "cloudinit.cmd.main", "schema", "--config-file", tmp_path / "user-data").returncode == 1


@pytest.mark.parametrize(("form", "listed"), [
    ("nocloud", "[ NoCloud, None ]"), ("configdrive", "[ ConfigDrive, None ]"), ("opennebula", "[ OpenNebula, None ]"),
    ("cernvm", None), ("vmbatch", None)])
def test_ds_identify(form: str, listed: str | None, cloud_init: Path, medium: Write, tmp_path: Path) -> None:
    """With blkid's own words about the medium."""
    iso = medium(LABELS[form], made(form, STATIC))
    root, programs = tmp_path / "root", tmp_path / "programs"
    for folder in ("run/systemd", "etc/cloud/cloud.cfg.d", "proc/1", "sys/class/dmi/id", "var/lib/cloud"):
        (root / folder).mkdir(parents=True)
    for name, text in (("proc/cmdline", "root=/dev/vda1"), ("proc/1/cmdline", "init"), ("proc/1/environ", ""),
                       ("proc/uptime", "1 1"), ("etc/cloud/cloud.cfg", (cloud_init / "etc/cloud/cloud.cfg").read_text())):
        (root / name).write_text(text)
    programs.mkdir()
    for name, script in (("blkid", f"echo DEVNAME=/dev/vdb; /sbin/blkid -p -o export {iso} | grep -v ^DEVNAME"),
                         ("systemd-detect-virt", "echo kvm")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    ended = subprocess.run(
        ["/bin/sh", str(cloud_init / "usr/lib/cloud-init/ds-identify"), "--force"],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "PATH_ROOT": str(root), "DI_LOG": "stderr"})
    result = root / "run/cloud-init/cloud.cfg"
    assert ended.returncode == (0 if listed else 1), ended.stderr
    written = result.read_text() if result.exists() else ""
    assert ("datasource_list: " + listed in written) if listed else "NoCloud" not in written


def test_every_version_knows_the_keys(python: Run) -> None:
    """The keys that decide about modules are the ones of the modules' own schema."""
    ended = python("-c", "import json, cloudinit, os; print(open(os.path.join(os.path.dirname(cloudinit.__file__), "
                         "'config/schemas/schema-cloud-config-v1.json')).read())")
    import json

    from vmbatch.context.cloudinit import DEFAULTS, LOCKED, MODULES
    schema = json.loads(ended.stdout)
    known = {key for part in schema["$defs"].values() for key in part.get("properties", {})}
    assert {*LOCKED, *DEFAULTS, *(key for _, _, keys in MODULES for key in keys)} <= known
