"""Whether a job may be ours, asked in a way that costs a native job nothing."""

CONFIG = "/etc/vmbatch/vmbatch.conf"
JOBS = "/var/lib/vmbatch/jobs"


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

    name = job_id.replace("[", "-").replace("]", "")
    return bool(name) and "/" not in name and os.path.exists(f"{JOBS}/{name}.journal")
