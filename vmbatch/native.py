"""Whether a job may be ours, asked in a way that costs a native job nothing."""

CONFIG = "/etc/vmbatch/vmbatch.conf"
JOBS = "/var/lib/vmbatch/jobs"
PBS_NOTES = "/run/vmbatch/openpbs"


def uncoerce() -> None:
    """Takes back what Python itself sets in a C locale (PEP 538): programs that we execute, and jobs, must not inherit it."""
    import os

    if os.environ.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return
    with open("/proc/self/environ", "rb") as file:
        before = [entry[9:] for entry in file.read().split(b"\0") if entry.startswith(b"LC_CTYPE=")]
    if before:
        os.environb[b"LC_CTYPE"] = before[0]
    else:
        del os.environ["LC_CTYPE"]


def may_name_queue(queue: str) -> bool:
    """Whether the configuration may have a template for the queue; no false "no"."""
    try:
        with open(CONFIG, "rb") as file:
            return names_queue(file.read(), queue)
    except FileNotFoundError:
        return False


def names_queue(text: bytes, queue: str) -> bool:
    """TOML can name a key only literally or with a backslash; whole-line comments do not count, but in multi-line strings."""
    settings = text
    if b'"""' not in text and b"'''" not in text:
        settings = b"\n".join(line for line in text.split(b"\n") if not line.lstrip().startswith(b"#"))
    return b"\\" in settings or queue.encode(errors="surrogateescape") in settings


def has_journal(job_id: str) -> bool:
    """Whether a start of the job may have left something."""
    import os

    name = _slug(job_id)
    return bool(name) and "/" not in name and os.path.exists(f"{JOBS}/{name}.journal")


def noted_queue(job_id: str) -> str | None:
    """The queue of a job of OpenPBS's, as our hook in pbs_mom has noted it (batch/pbsfacts.py); None if it has not."""
    name = _slug(job_id)
    if not name or "/" in name:
        return None
    try:
        with open(f"{PBS_NOTES}/{name}.facts", "rb") as file:
            line = file.readline()
    except FileNotFoundError:
        return None
    return line[:-1].decode(errors="surrogateescape") if line.endswith(b"\n") else None


def _slug(job_id: str) -> str:
    return job_id.replace("[", "-").replace("]", "")
