"""parameters.sh: what the kit in the guest must know, as shell assignments."""

from ..config import Config
from ..job import Job


def hostname(pattern: str, job: Job) -> str:
    """The guest's host name: `{job}` becomes the job's number, with an array member's index."""
    number = job.slug.split(".", 1)[0]
    return pattern.replace("{job}", number)[:63].rstrip("-")


def parameters(job: Job, config: Config, share_source: str) -> dict[str, str]:
    """The parameters by name; docs/architecture.md lists them."""
    return {
        "VMBATCH_JOB": job.id,
        "VMBATCH_TOKEN": job.token,
        "VMBATCH_HOSTNAME": hostname(config.guest_hostname, job),
        "VMBATCH_USER": job.user.name,
        "VMBATCH_UID": str(job.user.uid),
        "VMBATCH_GROUP": job.user.group.name,
        "VMBATCH_GID": str(job.user.group.gid),
        "VMBATCH_GROUPS": " ".join(f"{group.name}:{group.gid}" for group in job.user.groups),
        "VMBATCH_HOME": job.user.home,
        "VMBATCH_SHELL": job.user.shell,
        "VMBATCH_SHARE_SOURCE": share_source,
        "VMBATCH_SHARE_TYPE": config.share_type,
        "VMBATCH_SHARE_OPTIONS": config.share_options,
        "VMBATCH_SHARE_PATH": config.share_mountpoint,
    }


def assignments(values: dict[str, str]) -> bytes:
    """The parameters for a POSIX shell to source."""
    lines = (f"{name}='" + value.replace("'", "'\\''") + "'\n" for name, value in values.items())
    return "".join(lines).encode()
