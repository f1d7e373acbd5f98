"""Parameters on the kernel's command line, for guests that want them before their context; anyone in the guest reads them."""

import re
from collections.abc import Mapping

from ..errors import SiteError

_WORDS = {
    "vbuser": ("VMBATCH_USER", r"[A-Za-z0-9._@+][A-Za-z0-9._@+-]{0,63}"),
    "vbgroup": ("VMBATCH_GROUP", r"[A-Za-z0-9._@+][A-Za-z0-9._@+-]{0,63}"),
    "vbuid": ("VMBATCH_UID", r"[1-9][0-9]{0,9}"),
    "vbgid": ("VMBATCH_GID", r"[1-9][0-9]{0,9}"),
    "vbhome": ("VMBATCH_HOME", r"/[A-Za-z0-9._@+/:-]{0,200}"),
    "vbhost": ("VMBATCH_HOSTNAME", r"[A-Za-z0-9.][A-Za-z0-9.-]{0,63}"),
    "vbjob": ("VMBATCH_JOB", r"[A-Za-z0-9._\[\]-]{1,160}"),
}


def kernel_words(parameters: Mapping[str, str]) -> str:
    """The words of user, host and job, as kit/kernel-line.sh reads them: `vbuser=alice vbgroup=physics ...`.

    `vbhome` is there only if it is not /home/USER, and what is empty is not. The kernel knows quotes, but no escape for one
    (Linux, lib/cmdline.c, next_arg): SiteError for a value of other than plain characters.
    """
    words = []
    for word, (name, pattern) in _WORDS.items():
        value = parameters.get(name, "")
        if not value or (word == "vbhome" and value == f"/home/{parameters.get('VMBATCH_USER', '')}"):
            continue
        if not re.fullmatch(pattern, value):
            raise SiteError(f"the kernel line cannot carry {word}={value[:80]!r}",
                            "the template needs <vbkernelline>no</vbkernelline> for such jobs", code="VB504")
        words.append(f"{word}={value}")
    return " ".join(words)
