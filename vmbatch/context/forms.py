"""The forms of a medium: what lies beside VmBatch's own files for those in a guest who know nothing of VmBatch.

Each form is a function of the job's parameters, the medium's label, the guest's interfaces and the site's user-data.
docs/context-forms.md says what is in each.
"""

import base64
import json
import uuid
from collections.abc import Callable

from .. import network
from ..errors import InputError, SiteError
from ..network import Net
from . import cernvm, cloudinit, userdata
from .tree import Entry
from .userdata import SiteFile

Form = Callable[[dict[str, str], str, tuple[Net, ...], SiteFile | None], tuple[Entry, ...]]
_LIMITS = {"configdrive": 16 << 10, "cernvm": 16 << 10, "opennebula": 64 << 10}
"""Bytes of user-data: EC2's own limit for what is read as EC2's (EC2 User Guide, user data). OpenNebula's package has it in
the environment of its scripts, in base64, where Linux takes 128 KiB for one variable (MAX_ARG_STRLEN)."""


def entries(form: str, parameters: dict[str, str], label: str, nets: tuple[Net, ...], site: SiteFile | None) -> tuple[Entry, ...]:
    """The further files of a medium in a form. InputError for the site's user-data, SiteError."""
    return FORMS[form](parameters, label, nets, site)


def check(form: str, site: SiteFile) -> None:
    """Whether the form takes this user-data. InputError."""
    if form == "vmbatch":
        raise InputError(site.path, [(0, "is user-data, but the medium has the format 'vmbatch', which nobody in the guest reads "
                                         "user-data of")], "take userdata= out of <vbpreparecdrom>, or choose another format",
                         code="VB505")
    if form == "cernvm":
        cernvm.parse(site)
    else:
        userdata.parse(site)


def _vmbatch(parameters: dict[str, str], label: str, nets: tuple[Net, ...], site: SiteFile | None) -> tuple[Entry, ...]:
    if site is not None:
        check("vmbatch", site)
    return ()


def _nocloud(parameters: dict[str, str], label: str, nets: tuple[Net, ...], site: SiteFile | None) -> tuple[Entry, ...]:
    """cloudinit/sources/DataSourceNoCloud.py; programs of other makers read `meta-data` line by line."""
    name = parameters["VMBATCH_HOSTNAME"]
    meta = {"instance-id": _instance(parameters), **({"local-hostname": name} if name else {}), **_mode(site)}
    return (
        Entry("user-data", 0o600, _user_data(parameters, label, site)),
        Entry("meta-data", 0o600, "".join(f"{key}: {json.dumps(value)}\n" for key, value in meta.items()).encode()),
        *([Entry("network-config", 0o600, cloudinit.dump(network.cloud_v2(nets)))] if _says_something(nets) else []),
    )


def _configdrive(parameters: dict[str, str], label: str, nets: tuple[Net, ...], site: SiteFile | None) -> tuple[Entry, ...]:
    """cloudinit/sources/helpers/openstack.py, ConfigDriveReader."""
    identity, name = _instance(parameters), parameters["VMBATCH_HOSTNAME"]
    data = _limited("configdrive", _user_data(parameters, label, site), site)
    names = {"hostname": name, "name": name} if name else {}
    ec2: dict[str, object] = {"instance-id": identity, **({"hostname": name, "local-hostname": name} if name else {})}
    return (
        Entry("openstack/latest/meta_data.json", 0o600, cloudinit.dump({"uuid": identity, **names, "meta": _mode(site)})),
        Entry("openstack/latest/user_data", 0o600, data),
        *([Entry("openstack/latest/network_data.json", 0o600, cloudinit.dump(network.openstack(nets)))]
          if _says_something(nets) else []),
        Entry("openstack/latest/vendor_data.json", 0o600, cloudinit.dump({})),
        Entry("ec2/latest/meta-data.json", 0o600, cloudinit.dump(ec2)),
        Entry("ec2/latest/user-data", 0o600, data),
    )


def _opennebula(parameters: dict[str, str], label: str, nets: tuple[Net, ...], site: SiteFile | None) -> tuple[Entry, ...]:
    """For cloud-init (cloudinit/sources/DataSourceOpenNebula.py) and for OpenNebula's own package, which runs START_SCRIPT."""
    start = cloudinit.start(label, _instance(parameters), epilog=True)
    name = parameters["VMBATCH_HOSTNAME"]
    return (_context_sh({
        **({"SET_HOSTNAME": name} if name else {}),
        "USER_DATA": base64.b64encode(_limited("opennebula", _user_data(parameters, label, site), site)).decode(),
        "USER_DATA_ENCODING": "base64",
        "START_SCRIPT_BASE64": base64.b64encode(f"#!/bin/sh\n{start}".encode()).decode(),
        **network.opennebula(nets),
    }),)


def _cernvm(parameters: dict[str, str], label: str, nets: tuple[Net, ...], site: SiteFile | None) -> tuple[Entry, ...]:
    data = b"[amiconfig]\n" if site is None else _limited("cernvm", cernvm.parse(site), site)
    return (_context_sh({"EC2_USER_DATA": base64.b64encode(data).decode(), **network.opennebula(nets)}),)


FORMS: dict[str, Form] = {
    "vmbatch": _vmbatch, "nocloud": _nocloud, "configdrive": _configdrive, "opennebula": _opennebula, "cernvm": _cernvm,
}


def _instance(parameters: dict[str, str]) -> str:
    """New with each start, and the uuid of the domain, by which cloud-init sees that the medium is this machine's."""
    return str(uuid.UUID(hex=parameters["VMBATCH_TOKEN"], version=4))


def _user_data(parameters: dict[str, str], label: str, site: SiteFile | None) -> bytes:
    return userdata.render(label, _instance(parameters), None if site is None else userdata.parse(site))


def _says_something(nets: tuple[Net, ...]) -> bool:
    """One interface that asks DHCP is what every image does by itself."""
    return len(nets) > 1 or any(net.method != "dhcp" for net in nets)


def _mode(site: SiteFile | None) -> dict[str, str]:
    """Whether cloud-init runs bootcmd in its first stage, before the network, or in the second one."""
    return {"dsmode": "local"} if site is None else {}


def _limited(form: str, data: bytes, site: SiteFile | None) -> bytes:
    if len(data) > _LIMITS[form]:
        raise SiteError(f"{'the user-data' if site is None else site.path}: what the guest gets has {len(data)} bytes, and "
                        f"a medium in the format '{form}' takes {_LIMITS[form]}", "make it shorter, or choose another format",
                        code="VB505")
    return data


def _context_sh(values: dict[str, str]) -> Entry:
    lines = (f"{key}='" + value.replace("'", "'\\''") + "'\n" for key, value in values.items())
    return Entry("context.sh", 0o600, "".join(lines).encode())
