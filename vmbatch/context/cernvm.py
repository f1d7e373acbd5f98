"""What CernVM reads of a medium beside prolog.sh and epilog.sh: context.sh, and in it the site's user-data.

The image's vmcontext_prolog copies the medium to /var/lib/hepix/context and sources context.sh; EC2_USER_DATA goes to amiconfig
(cernvm/amiconfig, hepix/extra/hepix_functions), and before that, in the boot loader, to µCernVM (cernvm/cernvm-micro,
scripts.d/06context).
"""

import base64
import re

from ..errors import InputError
from .siteyaml import Problem
from .userdata import SiteFile, text_of

KEYS = frozenset((
    "resize_rootfs", "cvmfs_http_proxy", "cvmfs_pac_urls", "cvmfs_server", "cvmfs_cdn", "cvmfs_branch", "cvmfs_tag",
    "cvmfs_wait_on_squid", "cernvm_path", "cernvm_inject", "useglideinWMS", "use_boothd", "cvm_cluster_master", "cvm_cluster_pin",
))
"""Of µCernVM (cernvm-micro, scripts.d); its parser takes them in any case."""
_LOWER = {key.lower() for key in KEYS}
_SAFE = re.compile(r"""[A-Za-z0-9_./:=,@%+-]*|"[^"$`\\!]*"|'[^']*'""")
"""A value that a shell reads as one word and expands nothing in: root's shell sources KEY=VALUE (parse_user_data.cc)."""
_BEGIN, _END = "[ucernvm-begin]", "[ucernvm-end]"
_SECTION = re.compile(r"\[([A-Za-z0-9_.-]{1,64})\]\s*")
_OPTION = re.compile(r"([A-Za-z0-9_.-]{1,128})\s*[:=]\s*(.*)")
_AMICONFIG = ("plugins", "disabled_plugins")


def parse(file: SiteFile) -> bytes:
    """The site's user-data, to be passed on as it is. InputError with every mistake and its line.

    It has an amiconfig INI, a µCernVM section, and at its beginning a script, each if wanted. The script ends with a line
    that begins with `exit`, as amiconfig.sh looks for it.
    """
    problems: list[Problem] = []
    text = text_of(file.data, problems) or ""
    if text and not text.endswith("\n"):
        problems.append((text.count("\n") + 1, "has no line end at its end; µCernVM loses such a line"))
    lines = text.split("\n")
    script = _script(lines, problems)
    ini = _Ini(problems)
    inside = 0
    for number, line in enumerate(lines[script:], script + 1):
        if line.strip() in (_BEGIN, _END) and line not in (_BEGIN, _END):
            problems.append((number, f"has {line.strip()} with other characters on its line; µCernVM would not see it"))
        elif line in (_BEGIN, _END) and (line == _BEGIN) == bool(inside):
            problems.append((number, f"has {line} " + (f"in the section that begins in line {inside}" if inside else
                                                      f"without {_BEGIN} before it")))
        elif line == _BEGIN:
            inside = number
        elif line == _END:
            inside = 0
        elif inside:
            _micro(number, line, problems)
        else:
            ini.line(number, line)
    if inside:
        problems.append((inside, f"has {_BEGIN} without {_END}"))
    if text.count(f"\n{_BEGIN}\n") + text.startswith(f"{_BEGIN}\n") > 1:
        problems.append((0, f"has a second {_BEGIN}; µCernVM reads the first one alone"))
    if problems:
        raise InputError(file.path, problems, "see docs/context-forms.md", code="VB505")
    return file.data


def _script(lines: list[str], problems: list[Problem]) -> int:
    """How many lines at the beginning are a script."""
    if not lines[0].startswith("#!"):
        return 0
    for number, line in enumerate(lines, 1):
        if line.startswith("exit"):
            return number
        if line in (_BEGIN, _END):
            break
    problems.append((1, "begins with a script that has no line with exit at its end; amiconfig finds its end by that"))
    return len(lines)


def _micro(number: int, line: str, problems: list[Problem]) -> None:
    key, equals, value = line.partition("=")
    if not line.strip() or line.startswith("#"):
        return
    if not equals or not re.fullmatch(r"\w+", key, re.ASCII):
        problems.append((number, f"has {line[:80]!r} for µCernVM; expected KEY=VALUE without blanks around the ="))
    elif key.lower() not in _LOWER:
        problems.append((number, f"has the unknown key {key} for µCernVM; it knows {', '.join(sorted(KEYS))}"))
    elif not _SAFE.fullmatch(value):
        problems.append((number, f"has for {key} a value that root's shell in the guest would not read as one word; "
                                 "put it in double quotes, and have no $, `, \\ or ! in it"))
    elif key.lower() == "cernvm_inject" and not _is_base64(value):
        problems.append((number, f"has for {key} what is not base64"))


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text.encode(), validate=True)
    except ValueError:
        return False
    return True


class _Ini:
    """The INI of amiconfig, line by line. Python 2's ConfigParser in the guest takes a repeated name silently."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        self.sections: dict[str, int] = {}
        self.options: dict[str, int] = {}
        self.section = ""

    def line(self, number: int, line: str) -> None:
        """The next line."""
        if not line.strip() or line[0] in "#;":
            return
        if header := _SECTION.fullmatch(line):
            self.section = header[1]
            if self.section in self.sections:
                first = self.sections[self.section]
                self.problems.append((number, f"has a second [{self.section}]; the first is in line {first}"))
            self.sections.setdefault(self.section, number)
            self.options = {}
            return
        option = _OPTION.fullmatch(line)
        if option is None:
            self.problems.append((number, f"has {line[:80]!r}; expected [SECTION], NAME=VALUE or a comment"))
        elif not self.section:
            self.problems.append((number, f"has {option[1]} before any [SECTION]"))
        elif option[1].lower() in self.options:
            self.problems.append((number, f"has a second {option[1]} in [{self.section}]; the first is in line "
                                          f"{self.options[option[1].lower()]}"))
        else:
            self.options[option[1].lower()] = number
            if self.section == "amiconfig" and option[1].lower() not in _AMICONFIG:
                self.problems.append((number, f"has {option[1]} in [amiconfig], which knows {' and '.join(_AMICONFIG)}"))
