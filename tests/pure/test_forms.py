"""The forms of a medium, byte by byte, and read back as those in a guest would."""

import base64
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from vmbatch import network
from vmbatch.context import forms
from vmbatch.context.userdata import SiteFile
from vmbatch.errors import InputError, SiteError
from vmbatch.network import Net
from vmbatch.template import LABELS

GOLDEN = Path(__file__).parent / "golden" / "forms"
PARAMETERS = {"VMBATCH_TOKEN": "0123456789abcdef0123456789abcdef", "VMBATCH_HOSTNAME": "vm-42"}
INSTANCE = "01234567-89ab-4def-8123-456789abcdef"
DHCP = (Net("52:54:00:12:34:56"),)
STATIC = (Net("52:54:00:12:34:56", "10.0.0.20/24", "10.0.0.1", "", "", ("10.0.0.2",), ("example.org",)),)
SITE = SiteFile("/etc/vmbatch/site.yaml",
                b"#cloud-config\nruncmd:\n  - echo late\nbootcmd:\n  - [echo, early]\ntimezone: Europe/Berlin\n")
SQUID = SiteFile("/etc/vmbatch/site.cvm", b'[cernvm]\nproxy=DIRECT\n[ucernvm-begin]\ncvmfs_http_proxy="http://squid:3128;DIRECT"\n[ucernvm-end]\n')


def made(form: str, nets: tuple[Net, ...] = DHCP, site: SiteFile | None = None) -> dict[str, bytes]:
    found = forms.entries(form, PARAMETERS, LABELS[form], nets, site)
    assert len({entry.name for entry in found}) == len(found)
    assert {entry.mode for entry in found} <= {0o600}
    assert not any(entry.source for entry in found)
    return {entry.name: entry.data for entry in found}


def variables(text: bytes) -> dict[str, str]:
    """What a shell would have after sourcing a context.sh."""
    return dict(word.split("=", 1) for line in text.decode().splitlines() for word in shlex.split(line))


@pytest.mark.parametrize(("case", "form", "nets", "site"), [
    ("nocloud", "nocloud", DHCP, None),
    ("nocloud-site", "nocloud", DHCP, SITE),
    ("configdrive", "configdrive", DHCP, None),
    ("opennebula", "opennebula", DHCP, None),
    ("cernvm", "cernvm", DHCP, SQUID),
])
def test_golden(case: str, form: str, nets: tuple[Net, ...], site: SiteFile | None) -> None:
    found = made(form, nets, site)
    expected = {str(path.relative_to(GOLDEN / case)): path.read_bytes() for path in (GOLDEN / case).rglob("*") if path.is_file()}
    assert found == expected


def test_our_own_form_has_nothing_beside() -> None:
    assert made("vmbatch", STATIC) == {}


def test_forms_are_those_of_the_template() -> None:
    assert set(forms.FORMS) == set(LABELS)


def test_nocloud_read_back() -> None:
    found = made("nocloud")
    assert set(found) == {"user-data", "meta-data"}
    assert yaml.safe_load(found["meta-data"]) == {"instance-id": INSTANCE, "local-hostname": "vm-42", "dsmode": "local"}
    config = yaml.safe_load(found["user-data"])
    assert config == json.loads(found["user-data"].split(b"\n", 1)[1])
    assert config["cloud_init_modules"] == ["bootcmd"]
    assert config["cloud_config_modules"] == config["cloud_final_modules"] == []
    assert "runcmd" not in config


def test_nocloud_with_the_sites_own_keeps_the_stages() -> None:
    found = made("nocloud", DHCP, SITE)
    assert yaml.safe_load(found["meta-data"]) == {"instance-id": INSTANCE, "local-hostname": "vm-42"}
    assert b"systemctl --no-block stop" not in found["user-data"]


def test_a_name_that_yaml_would_take_for_something_else() -> None:
    name = {**PARAMETERS, "VMBATCH_HOSTNAME": "1e5"}
    (_, meta) = forms.entries("nocloud", name, "cidata", DHCP, None)
    assert yaml.safe_load(meta.data)["local-hostname"] == "1e5"


@pytest.mark.parametrize("form", ["nocloud", "configdrive", "opennebula"])
def test_without_a_name(form: str) -> None:
    found = forms.entries(form, {**PARAMETERS, "VMBATCH_HOSTNAME": ""}, LABELS[form], DHCP, None)
    plain = next(entry.data for entry in found if entry.name in ("meta-data", "openstack/latest/meta_data.json", "context.sh"))
    assert b"hostname" not in plain.lower().split(b"user_data")[0]


def test_each_start_is_a_new_instance() -> None:
    other = {**PARAMETERS, "VMBATCH_TOKEN": "f" * 32}
    texts = [forms.entries("nocloud", each, "cidata", DHCP, None) for each in (PARAMETERS, other)]
    ids = {yaml.safe_load(entries[1].data)["instance-id"] for entries in texts}
    assert ids == {INSTANCE, "ffffffff-ffff-4fff-bfff-ffffffffffff"}
    assert all(f"!= {yaml.safe_load(entries[1].data)['instance-id']} ]" in entries[0].data.decode() for entries in texts)


@pytest.mark.parametrize(("form", "name"), [("nocloud", "network-config"), ("configdrive", "openstack/latest/network_data.json")])
def test_network_only_where_it_says_something(form: str, name: str) -> None:
    assert name not in made(form, ()) and name not in made(form, DHCP)
    assert name in made(form, STATIC) and name in made(form, (*DHCP, Net("52:54:00:12:34:57")))


def test_network_in_each_form() -> None:
    """What the forms of the network are is told in test_network."""
    assert yaml.safe_load(made("nocloud", STATIC)["network-config"]) == network.cloud_v2(STATIC)
    assert json.loads(made("configdrive", STATIC)["openstack/latest/network_data.json"]) == network.openstack(STATIC)
    for form in ("opennebula", "cernvm"):
        values = variables(made(form, STATIC)["context.sh"])
        assert {key: value for key, value in values.items() if key.startswith("ETH")} == network.opennebula(STATIC)
        assert values["ETH0_IP"] == "10.0.0.20"
        assert not any(key.startswith("ETH") for key in variables(made(form, DHCP)["context.sh"]))


def test_configdrive_read_back() -> None:
    found = made("configdrive", STATIC)
    meta = json.loads(found["openstack/latest/meta_data.json"])
    assert meta == {"uuid": INSTANCE, "hostname": "vm-42", "name": "vm-42", "meta": {"dsmode": "local"}}
    assert found["openstack/latest/user_data"] == found["ec2/latest/user-data"]


def test_opennebula_read_back() -> None:
    values = variables(made("opennebula", STATIC)["context.sh"])
    assert values["SET_HOSTNAME"] == "vm-42"
    assert values["USER_DATA_ENCODING"] == "base64"
    config = yaml.safe_load(base64.b64decode(values["USER_DATA"]))
    script = base64.b64decode(values["START_SCRIPT_BASE64"]).decode()
    assert script.startswith("#!/bin/sh\n(\n")
    assert [line for line in config["bootcmd"] if "cloud-init-local" not in line and "local-fs.target" not in line and
            "cloud-config.service" not in line] == script.splitlines()[1:]


def test_cernvm_gets_the_sites_bytes() -> None:
    values = variables(made("cernvm", DHCP, SQUID)["context.sh"])
    assert values == {"EC2_USER_DATA": base64.b64encode(SQUID.data).decode()}


def test_cernvm_without_the_sites_own_and_static() -> None:
    values = variables(made("cernvm", STATIC)["context.sh"])
    assert base64.b64decode(values.pop("EC2_USER_DATA")) == b"[amiconfig]\n"
    assert "ROOT_PUBKEY" not in values


@pytest.mark.parametrize(("form", "limit"), [("configdrive", 16384), ("opennebula", 65536)])
def test_limits(form: str, limit: int) -> None:
    def sized(length: int) -> bytes:
        found = made(form, DHCP, SiteFile("/etc/s", b"#cloud-config\nntp: " + b"x" * length + b"\n"))
        plain = found.get("openstack/latest/user_data")
        return base64.b64decode(variables(found["context.sh"])["USER_DATA"]) if plain is None else plain

    overhead = len(sized(1)) - 1
    assert len(sized(limit - overhead)) == limit
    with pytest.raises(SiteError, match=rf"^/etc/s: what the guest gets has {limit + 1} bytes, and a medium in the format "
                                        rf"'{form}' takes {limit}$"):
        sized(limit - overhead + 1)


def test_cernvm_limit() -> None:
    assert made("cernvm", DHCP, SiteFile("/etc/s", b"[a]\n" + b"#" * (16384 - 5) + b"\n"))
    with pytest.raises(SiteError, match="/etc/s: what the guest gets has 16385 bytes"):
        made("cernvm", DHCP, SiteFile("/etc/s", b"[a]\n" + b"#" * (16384 - 4) + b"\n"))


@pytest.mark.error("VB505")
def test_user_data_for_nobody() -> None:
    with pytest.raises(InputError, match="format 'vmbatch', which nobody in the guest reads user-data of"):
        forms.check("vmbatch", SITE)
    with pytest.raises(InputError, match="format 'vmbatch'"):
        forms.entries("vmbatch", PARAMETERS, "VMBATCH", DHCP, SITE)


def test_check_is_what_entries_does() -> None:
    for form in ("nocloud", "configdrive", "opennebula"):
        forms.check(form, SITE)
        with pytest.raises(InputError):
            forms.check(form, SQUID)
    forms.check("cernvm", SQUID)
    with pytest.raises(InputError):
        forms.check("cernvm", SITE)


@pytest.mark.parametrize("label", ["a b", "$(x)", "", "a'b", "x" * 65, "a\n"])
def test_a_label_cannot_become_a_command(label: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a script"):
        forms.entries("nocloud", PARAMETERS, label, DHCP, None)


def test_the_label_is_looked_for_in_all_its_bytes() -> None:
    (entry, *_) = forms.entries("nocloud", PARAMETERS, "SITE-7", DHCP, None)
    assert re.search(r"'SITE-7 {26}'", entry.data.decode())
    assert "/dev/disk/by-label/SITE-7 " in entry.data.decode()
