"""What cloud-init in a guest is told: mount the medium, run prolog.sh and epilog.sh, and do nothing else that takes time.

cloud-init merges user-data over the image's /etc/cloud/cloud.cfg, its lists of modules included (cloudinit/config/modules.py,
Modules.cfg and _read_modules; in versions before 22.2 in cloudinit/stages.py), so the lists here are those that run.
"""

import json
import re

import msgspec

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

LOCKED: dict[str, object] = {
    "ssh_deletekeys": False,
    "ssh_genkeytypes": ["ed25519"],
    "ssh_pwauth": False,
    "disable_root": True,
    "preserve_hostname": True,
}
"""Ours, whatever the site says. The kit has installed the ed25519 key before cc_ssh looks, so cc_ssh makes none."""

DEFAULTS: dict[str, object] = {
    "package_update": False,
    "package_upgrade": False,
    "growpart": {"mode": "off"},
    "resize_rootfs": False,
}
"""Ours unless the site says otherwise: they take time."""

_INIT = "cloud_init_modules"
_CONFIG = "cloud_config_modules"
_FINAL = "cloud_final_modules"
MODULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (_INIT, "seed_random", ("random_seed",)),
    (_INIT, "bootcmd", ("bootcmd",)),
    (_INIT, "write-files", ("write_files",)),
    (_INIT, "growpart", ("growpart",)),
    (_INIT, "resizefs", ("resize_rootfs",)),
    (_INIT, "disk_setup", ("disk_setup", "fs_setup")),
    (_INIT, "mounts", ("mounts", "swap", "mount_default_fields")),
    (_INIT, "update_etc_hosts", ("manage_etc_hosts",)),
    (_INIT, "ca-certs", ("ca_certs", "ca-certs")),
    (_INIT, "rsyslog", ("rsyslog",)),
    (_INIT, "users-groups", ("users", "groups")),
    (_INIT, "ssh", ("ssh_authorized_keys",)),
    (_CONFIG, "timezone", ("timezone",)),
    (_CONFIG, "runcmd", ("runcmd",)),
    (_FINAL, "scripts-user", ("runcmd",)),
)
"""Modules that do no more than their keys say: (list, module, keys), in cloud-init's own order (config/cloud.cfg.tmpl)."""
_SHORT = frozenset(key for _list, _module, keys in MODULES for key in keys)


_MOUNT = """\
PATH=${PATH:+$PATH:}/usr/sbin:/usr/bin:/sbin:/bin
medium=/var/lib/vmbatch/medium
find_medium() {
    for device in /dev/disk/by-label/@LABEL@ /dev/sr? /dev/vd? /dev/sd? /dev/hd? /dev/xvd?; do
        [ -r "$device" ] || continue
        { name=$(dd if="$device" bs=1 skip=32808 count=32); } 2>/dev/null
        [ "$name" != '@FIELD@' ] || return 0
    done
    echo 'vmbatch: no medium with the label @LABEL@' >&2
    return 1
}
if [ ! -f "$medium/prolog.sh" ]; then
    find_medium || exit 1
    mkdir -p "$medium"
    mount -t iso9660 -o ro "$device" "$medium" || { modprobe isofs && mount -t iso9660 -o ro "$device" "$medium"; } || exit 1
fi
"""
"""All that is read of foreign devices is where ISO 9660 has its label."""

_ONCE = """\
before=
[ ! -f "${medium%/*}/instance" ] || IFS= read -r before <"${medium%/*}/instance"
[ "$before" != @INSTANCE@ ] || exit 0
echo @INSTANCE@ >"${medium%/*}/instance"
"""

_WAIT = """\
[ ! -d /run/systemd/system ] || timeout 20 systemctl start local-fs.target systemd-sysusers.service 2>/dev/null
"""
"""In its first stage, cloud-init runs beside what mounts /home and what writes /etc/passwd."""

_PROLOG = """\
/bin/sh "$medium/prolog.sh" start </dev/null
"""

_EPILOG = """\
start_epilog() {
    [ -d /run/systemd/system ] || return 1
    cat >/run/systemd/system/vmbatch-epilog.service <<'END' || return 1
[Unit]
Description=VmBatch context: share, messages to the host
After=network.target systemd-user-sessions.service ssh.socket sshd.socket ssh.service sshd.service
[Service]
ExecStart=/bin/sh /var/lib/vmbatch/medium/epilog.sh start
RemainAfterExit=yes
END
    systemctl --no-block start vmbatch-epilog.service
}
if ! start_epilog; then
    setsid /bin/sh /var/lib/vmbatch/medium/epilog.sh start </dev/null >/dev/null 2>&1 &
fi
"""

_LEAVE = """\
! grep -q '/cloud-init-local[.]service' /proc/self/cgroup ||
    systemctl --no-block stop cloud-init.service cloud-config.service cloud-final.service
"""
"""A start that waits in systemd's queue is taken out of it by a stop. Since 24.3 all stages are one process, and not stopped."""


def start(label: str, instance: str, *, epilog: bool, alone: bool = False) -> str:
    """The shell lines that mount the medium and run it, once for each instance.

    `epilog`: epilog.sh, too, behind network and sshd. `alone`: nobody wants anything of cloud-init's other stages.
    """
    for name in (label, instance):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot stand in a script")
    lines = _MOUNT + _ONCE + (_WAIT if alone else "") + _PROLOG + (_EPILOG if epilog else "") + (_LEAVE if alone else "")
    return "(\n" + lines.replace("@LABEL@", label).replace("@FIELD@", label.ljust(32)).replace("@INSTANCE@", instance) + ":\n)\n"


class Wishes(msgspec.Struct, frozen=True):
    """Of the site's user-data: `config` is its cloud-config, which `userdata` has checked; whether there are scripts beside it,
    which cloud-init runs last; whether there are includes, of which nobody knows here what the guest will load."""

    config: dict[str, object] = {}
    scripts: bool = False
    includes: bool = False


def config(label: str, instance: str, site: Wishes | None) -> dict[str, object]:
    """Our cloud-config merged with the site's: its bootcmd behind ours, its runcmd before ours, our LOCKED, its other keys.

    epilog.sh starts with prolog.sh; but where the site has something for the end of the boot, it starts behind that. For keys
    that are not in MODULES, and with includes, the image's own lists of modules stay. Without user-data of the site nothing is
    left to do for cloud-init after bootcmd.
    """
    wanted = Wishes() if site is None else site
    unknown = wanted.includes or not wanted.config.keys() - LOCKED.keys() <= _SHORT or any(
        isinstance(item, dict) and item.get("defer") for item in _items(wanted.config, "write_files"))
    late = unknown or wanted.scripts or bool(_items(wanted.config, "runcmd"))
    script = start(label, instance, epilog=not late, alone=site is None)
    merged = {**DEFAULTS, **wanted.config, **LOCKED, "bootcmd": [*script.splitlines(), *_items(wanted.config, "bootcmd")]}
    if late:
        merged["runcmd"] = [*_items(wanted.config, "runcmd"), *_EPILOG.splitlines()]
    if not unknown:
        keys_there = {*wanted.config, "bootcmd", *(["runcmd"] if late else [])}
        for name in (_INIT, _CONFIG, _FINAL):
            merged[name] = [module for place, module, keys in MODULES if place == name and not keys_there.isdisjoint(keys)]
    return merged


def _items(site: dict[str, object], key: str) -> list[object]:
    value = site.get(key)
    return value if isinstance(value, list) else []


def dump(values: dict[str, object], header: str = "") -> bytes:
    """JSON that is YAML 1.1, too, for PyYAML of any age: ASCII alone, with YAML's escapes in its strings."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    return (header + re.sub(r"[^\n -~]", _escape, text) + "\n").encode("ascii")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
