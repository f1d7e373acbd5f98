"""User-data for CernVM: root's shell in the guest sources a part of it, so every line is looked at."""

import re

import pytest

from vmbatch.context import cernvm
from vmbatch.context.userdata import LIMIT, SiteFile
from vmbatch.errors import InputError

GOOD = """\
#!/bin/sh
echo before
exit 0
# of the site
[amiconfig]
plugins=cernvm
disabled_plugins = rootsshkeys

[cernvm]
organisations: alice
; a comment
proxy=http://squid.example.org:3128;DIRECT
[ucernvm-begin]
# of µCernVM
cvmfs_http_proxy="http://squid.example.org:3128|http://two:3128;DIRECT"
cvmfs_pac_urls='http://wpad/wpad.dat'
resize_rootfs=off
CVMFS_BRANCH=cernvm-prod.cern.ch
cvmfs_tag=
cernvm_inject=aGVsbG8=
useglideinWMS=true
[ucernvm-end]
"""


def wrong(text: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(InputError) as caught:
        cernvm.parse(SiteFile("/etc/site", text if isinstance(text, bytes) else text.encode()))
    assert caught.value.path == "/etc/site"
    return caught.value.problems


@pytest.mark.parametrize("text", [GOOD, "", "# nothing\n", "[cernvm]\n", "[ucernvm-begin]\n[ucernvm-end]\n"])
def test_passed_on_as_it_is(text: str) -> None:
    assert cernvm.parse(SiteFile("/etc/site", text.encode())) == text.encode()


@pytest.mark.parametrize("value", [
    "$(reboot)", "`reboot`", "a;reboot", "a b", "a\tb", "a&b", "a|b", "a>b",
    '"a', '"a"b"', '"$HOME"', '"`id`"', '"a\\"', '"!x"', "'a'b'",
    "'a", "~root", "*", "(a)", "a#b c", "\\a", '"a" reboot', "'a';reboot", "a'b", "☃",
])
def test_what_a_shell_would_not_take_for_one_word(value: str) -> None:
    assert wrong(f"[ucernvm-begin]\ncvmfs_http_proxy={value}\n[ucernvm-end]\n") == [
        (2, "has for cvmfs_http_proxy a value that root's shell in the guest would not read as one word; put it in double "
            "quotes, and have no $, `, \\ or ! in it")]


@pytest.mark.parametrize(("old", "new", "line", "what"), [
    ("resize_rootfs=off", "resize_root=off", 17, "has the unknown key resize_root for µCernVM; it knows cernvm_inject, "),
    ("resize_rootfs=off", "resize_rootfs = off", 17, "has 'resize_rootfs = off' for µCernVM; expected KEY=VALUE without blanks"),
    ("resize_rootfs=off", " resize_rootfs=off", 17, "has ' resize_rootfs=off' for µCernVM; expected KEY=VALUE"),
    ("resize_rootfs=off", "reboot", 17, "has 'reboot' for µCernVM; expected KEY=VALUE"),
    ("resize_rootfs=off", "a;b=off", 17, "has 'a;b=off' for µCernVM; expected KEY=VALUE"),
    ("resize_rootfs=off", "[ucernvm-begin]", 17, "has [ucernvm-begin] in the section that begins in line 13"),
    ("cernvm_inject=aGVsbG8=", "cernvm_inject=aGVsbG8", 20, "has for cernvm_inject what is not base64"),
    ("[ucernvm-begin]", " [ucernvm-begin]", 13, "has [ucernvm-begin] with other characters on its line; µCernVM would not"),
    ("[ucernvm-end]", "[ucernvm-end] ", 22, "has [ucernvm-end] with other characters on its line"),
    ("[ucernvm-end]\n", "", 13, "has [ucernvm-begin] without [ucernvm-end]"),
    ("[ucernvm-begin]\n", "", 21, "has [ucernvm-end] without [ucernvm-begin] before it"),
    ("[ucernvm-end]\n", "[ucernvm-end]", 22, "has no line end at its end; µCernVM loses such a line"),
    ("[ucernvm-end]\n", "[ucernvm-end]\n[ucernvm-begin]\n[ucernvm-end]\n", 0, "has a second [ucernvm-begin]; µCernVM"),
    ("[cernvm]", "[amiconfig]", 9, "has a second [amiconfig]; the first is in line 5"),
    ("[cernvm]", "[cern vm]", 9, "has '[cern vm]'; expected [SECTION], NAME=VALUE or a comment"),
    ("organisations: alice", "proxy: alice", 12, "has a second proxy in [cernvm]; the first is in line 10"),
    ("organisations: alice", " organisations: alice", 10, "has ' organisations: alice'; expected [SECTION]"),
    ("plugins=cernvm", "plugin=cernvm", 6, "has plugin in [amiconfig], which knows plugins and disabled_plugins"),
    ("# of the site", "users=x", 4, "has users before any [SECTION]"),
    ("exit 0\n", "", 1, "begins with a script that has no line with exit at its end"),
])
def test_mistakes(old: str, new: str, line: int, what: str) -> None:
    assert GOOD.count(old) == 1
    found = wrong(GOOD.replace(old, new))
    assert any(at == line and said.startswith(what) for at, said in found), found


@pytest.mark.parametrize(("data", "line", "what"), [
    (b"[a]\r\n", 1, "has carriage returns"), (b"[a]\n\xff\n", 2, "is not text in UTF-8"),
    (b"#" * LIMIT + b"\n", 0, f"has {LIMIT + 1} bytes")])
def test_not_text(data: bytes, line: int, what: str) -> None:
    assert any(at == line and said.startswith(what) for at, said in wrong(data))


def test_keys_are_told_apart_like_micro_cernvm_does() -> None:
    """It makes them capitals, so `useglideinwms` is the same."""
    assert cernvm.parse(SiteFile("s", b"[ucernvm-begin]\nUSEGLIDEINWMS=1\n[ucernvm-end]\n"))
    assert all(re.fullmatch(r"[A-Za-z_]+", key) for key in cernvm.KEYS)
