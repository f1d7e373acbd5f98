"""parameters.sh: what the kit in the guest must know, as shell assignments."""

from ..config import OPTIONS, Config
from ..job import Job, User
from ..template import Template


def hostname(pattern: str, job: Job) -> str:
    """The guest's host name: `{job}` becomes the job's number, with an array member's index; `-nRANK` follows at a sister."""
    number = job.slug.split(".", 1)[0]
    place = f"-n{job.rank}" if job.rank else ""
    return pattern.replace("{job}", number)[:63 - len(place)].rstrip("-") + place


def parameters(job: Job, template: Template, config: Config, share_source: str, *, nobody: bool = False) -> dict[str, str]:
    """The parameters by name; docs/architecture.md lists them. `share_source` is '' where no share is for messages.

    With `nobody` those of a guest that is to wait until there is a user.
    """
    found = _user(job.user, template) if not nobody else {"VMBATCH_POOL": "yes"}
    found |= {
        "VMBATCH_JOB": job.id,
        "VMBATCH_TOKEN": job.token,
        "VMBATCH_HOSTNAME": hostname(config.guest_hostname, job),
        "VMBATCH_SHARE_SOURCE": share_source,
        "VMBATCH_SHARE_TYPE": config.share_type,
        "VMBATCH_SHARE_OPTIONS": _options(config),
        "VMBATCH_SHARE_PATH": config.share_mountpoint,
        "VMBATCH_PATIENCE": str(max(10, int(config.timeouts_boot * config.timeouts_scale) - 10)),
        "VMBATCH_MESSAGES": template.messages.lower(),
        "VMBATCH_CONSOLE": template.console_shell,
        "VMBATCH_HEARTBEAT": str(template.lifetime.heartbeat // 4 or ""),
        "VMBATCH_WATCHDOG": "yes" if template.lifetime.watchdog else "",
        "VMBATCH_SHARES": str(len(template.shares)),
    }
    if template.pool is not None and template.pool.reuses:
        found["VMBATCH_REUSE"] = "yes"
    for number, share in enumerate(template.shares):
        options = ",".join(option for option in ("ro" if share.readonly else "", share.options) if option)
        found |= {f"VMBATCH_SHARE{number}_TYPE": share.kind,
                  f"VMBATCH_SHARE{number}_SOURCE": share_tag(number) if share.of_node else share.source,
                  f"VMBATCH_SHARE{number}_PATH": share.target, f"VMBATCH_SHARE{number}_OPTIONS": options}
    return found


def _user(user: User, template: Template) -> dict[str, str]:
    return {
        "VMBATCH_USER": user.name,
        "VMBATCH_UID": str(user.uid),
        "VMBATCH_GROUP": user.group.name,
        "VMBATCH_GID": str(user.group.gid),
        "VMBATCH_GROUPS": " ".join(f"{group.name}:{group.gid}" for group in user.groups),
        "VMBATCH_HOME": user.home,
        "VMBATCH_SHELL": user.shell,
        "VMBATCH_HOME_SHARED": "yes" if any(_is_below(user.home, share.target) for share in template.shares) else "",
    }


def _options(config: Config) -> str:
    """The default is for NFS."""
    default = OPTIONS["share.options"].default
    return "" if config.share_type in ("virtiofs", "9p") and config.share_options == default else config.share_options


def _is_below(path: str, directory: str) -> bool:
    return f"{path}/".startswith(f"{directory}/")


def share_tag(number: int) -> str:
    """By which a guest mounts the node's directory of a template's share."""
    return f"vbshare{number}"


def assignments(values: dict[str, str]) -> bytes:
    """The parameters for a POSIX shell to source."""
    lines = (f"{name}='" + value.replace("'", "'\\''") + "'\n" for name, value in values.items())
    return "".join(lines).encode()
