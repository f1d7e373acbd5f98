"""vmbatch.conf: a typed and strict reading of the site's settings, with all mistakes at once."""

import os
import re
import tomllib
from collections.abc import Callable
from typing import Any

import msgspec

from .errors import InputError, JobError
from .job import check_name
from .units import parse_duration, parse_size

_KEY = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
SLURM_FAULTS = ("drain", "hold", "requeue")
PBS_REMEDIES = ("requeue", "hold", "offline")
SHARE_TYPES = ("nfs4", "nfs", "virtiofs", "9p")
_KEYS = rf"{_KEY}(?:\s*\.\s*{_KEY})*"


class Option(msgspec.Struct, frozen=True):
    """One setting: how its TOML value becomes ours, and its value where the file is silent."""

    read: Callable[[object], object]
    default: object
    meaning: str


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, by section and name: `share_directory` is `directory` in `[share]`. Bytes and seconds."""

    queues: dict[str, tuple[str, ...]]
    types: dict[str, str]
    features: dict[str, str]
    templates_directory: str
    libvirt_uri: str
    share_directory: str
    share_source: str
    share_type: str
    share_options: str
    share_mountpoint: str
    share_owner: int
    share_local: bool
    share_export: str
    share_limit: int
    network_reservations: str
    network_filter: bool
    network_services: tuple[int, ...]
    network_closed: tuple[str, ...]
    spool_directory: str
    spool_keep_free: int
    spool_job_limit: int
    spool_reserve: bool
    images_directory: str
    images_limit: int
    images_keep_free: int
    images_largest: int
    images_recheck: float
    images_connect: float
    images_read: float
    images_transfer: float
    images_wait: float
    images_proxy: str
    images_no_proxy: tuple[str, ...]
    images_ca_bundle: str
    images_client_certificate: str
    images_client_key: str
    images_netrc: str
    images_hash_programs: tuple[str, ...]
    images_account: str
    images_once_for_all_users: bool
    userimages_sources: tuple[str, ...]
    userimages_largest: int
    userimages_limit: int
    userimages_cpu: float
    userimages_memory: int
    userimages_digests: tuple[str, ...]
    userimages_signers: str
    userimages_authorities: str
    admission_slots: int | str
    admission_cores: int | str
    admission_memory: int | str
    admission_reserve_cores: int
    admission_reserve_memory: int
    admission_overhead: int
    admission_wait: float
    admission_starts: int | str
    admission_load: float | str
    admission_free_memory: int | str
    timeouts_scale: float
    timeouts_boot: float
    timeouts_release: float
    timeouts_margin: float
    requests_qstat: str
    requests_patience: float
    requests_keep: int
    requests_keep_longest: float
    nodes_directory: str
    users_minimum_uid: int
    users_allow: tuple[str, ...]
    users_deny: tuple[str, ...]
    guest_hostname: str
    guest_scripts: str
    guest_appliance: str
    guest_console_lines: int
    guest_display: bool
    slurm_node_fault: str
    slurm_ask: float
    openpbs_node_fault: str
    openpbs_site_fault: str
    torque_job_fault: str
    torque_node_fault: str
    torque_site_fault: str
    torque_failures: int
    torque_within: float
    torque_pause: float
    torque_programs: str
    torque_patience: float
    log_directory: str
    log_trace: str
    log_history: str
    submit_shell: str
    submit_default_queue: str

    @property
    def reservations(self) -> str:
        """The directory of the guests' addresses."""
        return self.network_reservations or os.path.join(self.share_directory, ".addresses")

    @property
    def meeting(self) -> str:
        """The directory where the nodes of a job meet."""
        return self.nodes_directory or os.path.join(self.share_directory, ".nodes")

    def template_path(self, queue: str, name: str = "") -> str | None:
        """The template `name` of a queue, or its first; None for a native queue."""
        names = self.queues.get(queue)
        return None if names is None else os.path.join(self.templates_directory, name or names[0])


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"must be a string such as \"text\", not {value!r}")
    return value


def _filled(value: object) -> str:
    if not _text(value):
        raise ValueError("must not be empty")
    return str(value)


def _path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/") or text.startswith("//") or os.path.normpath(text) != text:
        raise ValueError(f"must be an absolute path without '..' and without '/' at its end, not {text!r}")
    return text


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise ValueError(f"must be a whole number, not {value!r}")
    return value


def _factor(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value <= 100:
        raise ValueError(f"must be a number from 0.1 to 100, not {value!r}")
    return float(value)


def _size(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError(f"must be a size such as \"20G\", not {value!r}")
    return parse_size(value)


def _duration(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"must be a duration such as \"90s\", not {value!r}")
    return parse_duration(value)


def _share_type(value: object) -> str:
    if _text(value) not in SHARE_TYPES:
        raise ValueError(f"must be one of {', '.join(SHARE_TYPES)}, not {value!r}")
    return str(value)


def _choice(*words: str) -> Callable[[object], object]:
    def read(value: object) -> str:
        if _text(value) not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {value!r}")
        return str(value)

    return read


def _or(words: tuple[str, ...], read: Callable[[object], object]) -> Callable[[object], object]:
    """One of some words, or what `read` takes."""
    def either(value: object) -> object:
        if value in words:
            return value
        try:
            return read(value)
        except ValueError as error:
            raise ValueError(f"{error}; or one of {', '.join(words)}") from None

    return either


def _count(value: object) -> int:
    if not _whole(value):
        raise ValueError("must be at least 1")
    return int(str(value))


def _load(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10000:
        raise ValueError(f"must be a load such as 24.0, not {value!r}")
    return float(value)


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of names such as [\"alice\"], not {value!r}")
    for name in value:
        _check_name(_text(name), "user")
    return tuple(value)


def _optional_path(value: object) -> str:
    return _path(value) if value != "" else ""


def _paths(value: object) -> tuple[str, ...]:
    return tuple(_path(item) for item in _list(value, "paths such as [\"/usr/bin/cksum\"]"))


def _hosts(value: object) -> tuple[str, ...]:
    found = tuple(_text(item) for item in _list(value, "hosts such as [\"example.org\"]"))
    for item in found:
        if not re.fullmatch(r"\.?[A-Za-z0-9][A-Za-z0-9.:-]*", item):
            raise ValueError(f"{item!r} is not a host or domain such as \"example.org\"")
    return found


def _ports(value: object) -> tuple[int, ...]:
    found = _list(value, "ports such as [53, 2049]")
    for item in found:
        if isinstance(item, bool) or not isinstance(item, int) or not 1 <= item <= 65535:
            raise ValueError(f"{item!r} is not a port from 1 to 65535")
    return tuple(item for item in found if isinstance(item, int))


def _networks(value: object) -> tuple[str, ...]:
    return tuple(_network(_text(item)) for item in _list(value, "addresses and networks such as [\"10.1.0.0/16\"]"))


def _network(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{text!r} is neither an address nor a network such as \"10.1.0.0/16\"") from None


def _sources(value: object) -> tuple[str, ...]:
    """Directories, and URLs of directories, each with '/' at its end."""
    found = []
    for item in _list(value, "places such as [\"https://images.example.org/vm/\", \"/home/\"]"):
        text = _text(item)
        url = re.fullmatch(r"https?://(?:[^\s/?#@\\:]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[^\s?#\\]*)", text)
        path = url[2] if url else text
        if not re.fullmatch(r"(/(?!\.{1,2}/)[^/]+)*/", path) or (url and int(url[1] or 1) > 65535) or path == text == "/":
            raise ValueError(f"{text!r} is not a directory or the URL of one, with '/' at its end")
        found.append(text)
    return tuple(found)


def _digests(value: object) -> tuple[str, ...]:
    found = tuple(_text(item).lower() for item in _list(value, "SHA-256 digests"))
    for item in found:
        if not re.fullmatch(r"[0-9a-f]{64}", item):
            raise ValueError(f"{item!r} is not a SHA-256 digest of 64 hexadecimal digits")
    return found


def _pattern(value: object) -> str:
    try:
        re.compile(_text(value))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return str(value)


def _proxy(value: object) -> str:
    if value and not re.fullmatch(r"https?://[^\s/]+/?", _text(value)):
        raise ValueError(f"must be the URL of a proxy such as \"http://proxy.example.org:3128\", not {value!r}")
    return _text(value)


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of {what}, not {value!r}")
    return value


def _check_name(name: str, what: str) -> None:
    try:
        check_name(name, what)
    except JobError as error:
        raise ValueError(error.what) from None


def _template(value: object) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\.xml", _text(value)):
        raise ValueError(f"{value!r} is not the file name of a template; write for instance \"debian.xml\"")
    return str(value)


def _templates(value: object) -> tuple[str, ...]:
    """The templates of a queue: one, or a list of which the first is the queue's own."""
    if not isinstance(value, list):
        return (_template(value),)
    found = tuple(_template(item) for item in value)
    if not found or len(set(found)) != len(found):
        raise ValueError("a list of templates must not be empty, and name each once")
    return found


def _hostname(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"(?=.{1,60}$)([a-z0-9]|\{job\})([a-z0-9-]|\{job\})*", text):
        raise ValueError(f"must be a host name such as \"vm-{{job}}\", where {{job}} stands for the job's number, not {text!r}")
    return text


OPTIONS: dict[str, Option] = {
    "queues.*": Option(_templates, None, "QUEUE = TEMPLATE: jobs of this queue run in guests made from this template"),
    "types.*": Option(_template, None, "TYPE = TEMPLATE: jobs of this type (qsub -T) get this one of their queue's templates"),
    "features.*": Option(_template, None,
                         "FEATURE = TEMPLATE: jobs that ask for this feature get this one of their queue's templates"),
    "templates.directory": Option(_path, "/etc/vmbatch/domains", "where the domain templates are"),
    "libvirt.uri": Option(_filled, "qemu:///system", "libvirt's hypervisor on this node"),
    "share.directory": Option(_path, "/srv/vmbatch/share", "the share as this node sees it"),
    "share.source": Option(_text, "", "the share as guests mount it, SERVER:/PATH; without it no guest can start"),
    "share.type": Option(_share_type, "nfs4", "how the guest mounts the share: nfs4, nfs (version 3), virtiofs or 9p"),
    "share.options": Option(_text, "vers=4.2,sec=sys,soft,timeo=100,retrans=3", "options for the guest's mount"),
    "share.mountpoint": Option(_path, "/mnt/vmbatch", "where the guest mounts its part of the share"),
    "share.owner": Option(_whole, 65534, "uid and gid that root of a guest has on the share (NFS: the anonymous uid)"),
    "share.local": Option(_truth, True, "whether the NFS server is this node, so that changes are seen at once"),
    "share.export": Option(_choice("none", "exportfs"), "none",
                           "exportfs: this node's NFS server shows each job's part of the share to its guest's address alone"),
    "share.limit": Option(_size, 16 << 20, "what a guest may write there with virtiofs, 9p and export"),
    "network.reservations": Option(_optional_path, "", "where guests' addresses are reserved; empty for .addresses on the share"),
    "network.filter": Option(_truth, True, "whether a filter stands between each guest and its network"),
    "network.services": Option(_ports, (53, 111, 2049, 20048), "TCP and UDP ports of this node that guests may reach"),
    "network.closed": Option(_networks, (), "addresses and networks that guests cannot reach, such as the batch server's"),
    "spool.directory": Option(_path, "/var/lib/vmbatch/spool", "where jobs' disks and media are made"),
    "spool.keep_free": Option(_size, 1 << 30, "space that must remain free in the spool"),
    "spool.job_limit": Option(_size, 100 << 30, "space that a job's copies and empty disks may take"),
    "spool.reserve": Option(_truth, True, "whether the space of disks that are made empty is taken at once"),
    "images.directory": Option(_path, "/var/lib/vmbatch/store",
                               "the node's store of images: downloads, users' images, disks made once"),
    "images.limit": Option(_size, 200 << 30, "size that the store may have; the images used least recently go first"),
    "images.keep_free": Option(_size, 4 << 30, "space that must remain free beside the store"),
    "images.largest": Option(_size, 64 << 30, "size of the largest image that is downloaded, also when it is unpacked"),
    "images.recheck": Option(_duration, 600.0,
                             "how long an image without a digest is used before its server is asked for a newer one"),
    "images.connect": Option(_duration, 10.0, "for one attempt to connect to a server"),
    "images.read": Option(_duration, 30.0, "how long a server may send nothing"),
    "images.transfer": Option(_duration, 3600.0, "for the whole download of an image"),
    "images.wait": Option(_duration, 3600.0, "how long a job waits for another one that downloads or fills the same image"),
    "images.proxy": Option(_proxy, "", "HTTP proxy for downloads"),
    "images.no_proxy": Option(_hosts, (), "hosts and domains that are reached without the proxy"),
    "images.ca_bundle": Option(_optional_path, "", "certificate authorities for https; empty for those of the system"),
    "images.client_certificate": Option(_optional_path, "", "certificate by which this node is known to servers"),
    "images.client_key": Option(_optional_path, "", "key of that certificate, where it is in a file of its own"),
    "images.netrc": Option(_optional_path, "", "user names and passwords for servers, as netrc(5) has them"),
    "images.hash_programs": Option(_paths, (), "programs that a <vbcheckhash> may name beside the known digests"),
    "images.account": Option(_filled, "nobody", "account without rights under which images are converted"),
    "images.once_for_all_users": Option(_truth, False,
                                         "whether jobs see what another user's job wrote to a disk with create='once'"),
    "userimages.sources": Option(_sources, (), "where users' own images may come from; none without it"),
    "userimages.largest": Option(_size, 20 << 30, "size of the largest image of a user, as its guest sees it"),
    "userimages.limit": Option(_size, 50 << 30, "size of all images of one user in the store"),
    "userimages.cpu": Option(_duration, 300.0, "processor time for converting a user's image"),
    "userimages.memory": Option(_size, 1 << 30, "memory for converting a user's image"),
    "userimages.digests": Option(_digests, (), "if not empty, only images with these SHA-256 digests, as published"),
    "userimages.signers": Option(_pattern, "",
                                 "if not empty, only images signed by a subject that this regular expression matches"),
    "userimages.authorities": Option(_path, "/etc/grid-security/certificates", "certificate authorities of those signers"),
    "admission.slots": Option(_or(("none",), _count), "none", "how many guests this node has at once"),
    "admission.cores": Option(_or(("node", "none"), _count), "node", "how many cores all guests of this node have together"),
    "admission.memory": Option(_or(("node", "none"), _size), "node", "how much memory all guests of this node have together"),
    "admission.reserve_cores": Option(_whole, 0, "with cores = \"node\", so many are left to the node itself"),
    "admission.reserve_memory": Option(_size, 1 << 30, "with memory = \"node\", so much is left to the node itself"),
    "admission.overhead": Option(_size, 128 << 20, "memory that the hypervisor itself takes for a guest"),
    "admission.wait": Option(_duration, 10.0, "how long a job waits for room, as others may be ending"),
    "admission.starts": Option(_or(("none",), _count), "none", "how many guests are started at a time"),
    "admission.load": Option(_or(("none",), _load), "none", "no guest is started while the node's load is higher"),
    "admission.free_memory": Option(_or(("none",), _size), "none",
                                    "no guest is started unless so much memory remains free beside it"),
    "timeouts.scale": Option(_factor, 1.0, "factor on the timeouts for boot and release, for slow machines"),
    "timeouts.boot": Option(_duration, 240.0, "from the guest's start to its ready file"),
    "timeouts.release": Option(_duration, 30.0, "for one step of taking a job's things away"),
    "timeouts.margin": Option(_duration, 15.0, "left of $prologalarm for undoing a start that failed"),
    "requests.qstat": Option(_optional_path, "",
                             "Torque's qstat, to ask the server for what a job requests; empty for not asking it"),
    "requests.patience": Option(_duration, 5.0, "how long the server may take for its answer"),
    "requests.keep": Option(_whole, 0, "how many failed jobs' disks and consoles are kept at once, if their users ask for it"),
    "requests.keep_longest": Option(_duration, 86400.0, "how long they are kept at most"),
    "nodes.directory": Option(_optional_path, "",
                              "where the nodes of a job meet, the same for all; empty for .nodes on the share"),
    "users.minimum_uid": Option(_whole, 1000, "jobs of users below this uid are refused"),
    "users.allow": Option(_names, (), "if not empty, only these users' jobs run"),
    "users.deny": Option(_names, (), "these users' jobs are refused"),
    "guest.hostname": Option(_hostname, "vm-{job}", "host name of the guest; {job} is the job's number"),
    "guest.scripts": Option(_path, "/etc/vmbatch/guest.d", "the site's own scripts for guests"),
    "guest.appliance": Option(_path, "/var/lib/vmbatch/appliance",
                              "libguestfs' fixed appliance, for guests' disks with xfs, btrfs or scattered LVM"),
    "guest.console_lines": Option(_whole, 15, "lines of a failed guest's console shown to the user"),
    "guest.display": Option(_truth, False, "whether interactive jobs in guests may use their submitter's X display"),
    "slurm.node_fault": Option(_choice(*SLURM_FAULTS), "drain", "what becomes of a job whose guest the node cannot make: "
                               "drain (the node, and requeue the job), hold (requeue the job, and hold it) or requeue"),
    "slurm.ask": Option(_duration, 20.0, "how often a Prolog asks slurmctld whether its job is still wanted"),
    "openpbs.node_fault": Option(_choice(*PBS_REMEDIES), "requeue",
                                 "what OpenPBS's hook does with a job that this node cannot start: requeue, hold or offline"),
    "openpbs.site_fault": Option(_choice(*PBS_REMEDIES), "hold", "the same where configuration or templates are at fault"),
    "torque.job_fault": Option(_choice("tell", "abort", "hold"), "tell", "what is done when a job cannot start by its own fault"),
    "torque.node_fault": Option(_choice("requeue", "hold", "offline"), "requeue",
                                "what is done when a job cannot start by this node's fault"),
    "torque.site_fault": Option(_choice("requeue", "hold", "offline"), "requeue",
                                "what is done when a job cannot start by the site's fault"),
    "torque.failures": Option(_whole, 3, "so many failed starts within the time below are a row of failures"),
    "torque.within": Option(_duration, 600.0, "the time in which failed starts are counted"),
    "torque.pause": Option(_duration, 30.0, "in a row of failures, how long a job is kept from its queue"),
    "torque.programs": Option(_path, "/usr/bin", "the directory of qhold, qalter and pbsnodes"),
    "torque.patience": Option(_duration, 5.0, "for one run of such a program"),
    "log.directory": Option(_path, "/var/log/vmbatch", "one log for each job"),
    "log.trace": Option(_optional_path, "/var/log/vmbatch/trace",
                        "the directory of the record of which guest was whose, when and at which address; empty for none"),
    "log.history": Option(_optional_path, "/var/log/vmbatch/history",
                          "the directory of the record of how long each phase of each job took; empty for none"),
    "submit.shell": Option(_path, "/opt/vmbatch/hooks/remoteshell", "remoteshell on the nodes, for qsub's filter"),
    "submit.default_queue": Option(_text, "", "the queue of jobs that name none, for qsub's filter"),
}


def parse(text: bytes, path: str) -> Config:
    """The configuration in `text`; InputError names every mistake with its line."""
    try:
        tables: dict[str, Any] = tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise InputError(path, [(text[: error.start].count(b"\n") + 1, "is not UTF-8")], code="VB101") from None
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"at line (\d+)", str(error))
        message = re.sub(r" \(at .*\)$", "", str(error))
        line = int(match[1]) if match else len(text.splitlines())
        raise InputError(path, [(line, message)], "strings need quotes: name = \"value\"", code="VB101") from None
    lines = _lines(text.decode())
    values: dict[str, Any] = {name.replace(".", "_"): option.default for name, option in OPTIONS.items()}
    named: dict[str, dict[str, Any]] = {"queues": {}, "types": {}, "features": {}}
    problems: list[tuple[int, str]] = []
    for section, name, value in _settings(tables):
        full = f"{section}.{name}" if section else name
        try:
            if section in named:
                _check_name(name, {"queues": "queue", "types": "job type", "features": "feature"}[section])
                named[section][name] = OPTIONS[f"{section}.*"].read(value)
            elif full in OPTIONS:
                values[f"{section}_{name}"] = OPTIONS[full].read(value)
            else:
                raise ValueError(_unknown(section, name))
        except ValueError as error:
            problems.append((lines.get(full, lines.get(section or name, 0)), f"{full}: {error}"))
    if problems:
        raise InputError(path, problems, code="VB101")
    plain = {name: value for name, value in values.items() if not name.endswith("_*")}
    return Config(queues=named["queues"], types=named["types"], features=named["features"], **plain)


def _settings(tables: dict[str, Any]) -> list[tuple[str, str, object]]:
    found: list[tuple[str, str, object]] = []
    for section, table in tables.items():
        if isinstance(table, dict):
            found.extend((section, name, value) for name, value in table.items())
        else:
            found.append(("", section, table))
    return found


def _unknown(section: str, name: str) -> str:
    if not section:
        return "stands outside a section; write it below a line such as [share]"
    sections = {option.partition(".")[0] for option in OPTIONS}
    if section not in sections:
        return f"unknown section [{section}]; there are {', '.join(sorted(sections))}"
    known = [option.partition(".")[2] for option in OPTIONS if option.startswith(section + ".")]
    import difflib

    near = difflib.get_close_matches(name, known, 1, 0.6)
    if near:
        return f"unknown setting; did you mean {section}.{near[0]}?"
    return f"unknown setting; there are {', '.join(f'{section}.{option}' for option in known)}"


def _lines(text: str) -> dict[str, int]:
    """Line of every `section` and `section.name` that stands at the beginning of a line, as tomllib keeps none."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(rf"\s*\[\[?\s*({_KEYS})\s*\]", line):
            section = _plain_key(header[1])
            found.setdefault(section, number)
        elif setting := re.match(rf"\s*({_KEYS})\s*=", line):
            name = _plain_key(setting[1])
            found.setdefault(f"{section}.{name}" if section else name, number)
    return found


def _plain_key(text: str) -> str:
    return ".".join(part.strip("\"'") for part in re.findall(_KEY, text))
