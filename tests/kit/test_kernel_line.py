"""Parameters from the kernel's line: what the host writes is what the guest reads, and nothing else is taken for ours."""

import pytest

from vmbatch.context.kernelline import kernel_words
from vmbatch.errors import SiteError
from vmbatch.network import Net
from vmbatch.network import kernel_words as net_words
from vmbatch.network import parameters as net_parameters

from .guest import KIT, Guest

USER = {
    "VMBATCH_USER": "alice",
    "VMBATCH_GROUP": "staff.x",
    "VMBATCH_UID": "1500",
    "VMBATCH_GID": "1501",
    "VMBATCH_HOME": "/grid/home/alice",
    "VMBATCH_HOSTNAME": "vm-42-1",
    "VMBATCH_JOB": "42[1].vm",
}
WORDS = "vbuser=alice vbgroup=staff.x vbuid=1500 vbgid=1501 vbhome=/grid/home/alice vbhost=vm-42-1 vbjob=42[1].vm"
NETS = (
    Net("52:54:00:00:00:01"),
    Net(
        "52:54:00:00:00:02",
        "10.0.0.20/24",
        "10.0.0.1",
        "fd00::20/64",
        "fe80::1",
        ("10.0.0.1", "fd00::1"),
        ("example.org", "a.org"),
    ),
    Net("52:54:00:00:00:03", address6="fd00::30/64"),
)


def read(guest: Guest, line: str) -> tuple[int, dict[str, str], str]:
    """(0 for parameters, 1 for none, 2 for a failure; what a program that is started then has of them; what was said)."""
    guest.write("proc/cmdline", f"{line}\n")
    code = "fail() { echo \"failed: $1\"; exit; }; if kernel_line; then echo yes; env; else echo no; fi; echo end"
    said = guest.evaluate(f'. "{KIT}/kernel-line.sh"; {code}')
    found = dict(text.partition("=")[::2] for text in said.splitlines() if text.startswith("VMBATCH_") and "ROOT=" not in text)
    status = 2 if "failed: " in said else int("\nno\n" in f"\n{said}")
    assert status == 2 or said.endswith("end\n")
    return status, found, said.strip().removeprefix("failed: ")


def test_the_words_of_the_host() -> None:
    assert kernel_words(USER | {"VMBATCH_TOKEN": "secret", "VMBATCH_SHELL": "/bin/bash"}) == WORDS
    assert kernel_words(USER | {"VMBATCH_HOME": "/home/alice"}) == WORDS.replace("vbhome=/grid/home/alice ", "")
    assert kernel_words({"VMBATCH_JOB": "42.vm", "VMBATCH_HOSTNAME": ""}) == "vbjob=42.vm"
    assert kernel_words({}) == ""


@pytest.mark.parametrize(
    "name, word, value",
    [
        ("VMBATCH_USER", "vbuser", "al ice"),
        ("VMBATCH_USER", "vbuser", "host$"),
        ("VMBATCH_USER", "vbuser", "-alice"),
        ("VMBATCH_USER", "vbuser", "älice"),
        ("VMBATCH_GROUP", "vbgroup", 'a"b'),
        ("VMBATCH_GROUP", "vbgroup", "a'b"),
        ("VMBATCH_GROUP", "vbgroup", "a\n"),
        ("VMBATCH_UID", "vbuid", "0"),
        ("VMBATCH_UID", "vbuid", "15x"),
        ("VMBATCH_GID", "vbgid", "-1"),
        ("VMBATCH_HOME", "vbhome", "home"),
        ("VMBATCH_HOME", "vbhome", "/home/my home"),
        ("VMBATCH_HOME", "vbhome", "/home/x init=/bin/sh"),
        ("VMBATCH_HOSTNAME", "vbhost", "-vm"),
        ("VMBATCH_HOSTNAME", "vbhost", "vm_1"),
        ("VMBATCH_JOB", "vbjob", "42;reboot"),
        ("VMBATCH_USER", "vbuser", "x" * 65),
    ],
)
def test_what_the_kernel_line_cannot_carry(name: str, word: str, value: str) -> None:
    with pytest.raises(SiteError) as caught:
        kernel_words(USER | {name: value})
    assert caught.value.what == f"the kernel line cannot carry {word}={value!r}"
    assert caught.value.hint == "the template needs <vbkernelline>no</vbkernelline> for such jobs"


def test_what_the_host_writes_the_guest_reads(guest: Guest) -> None:
    line = f"root=/dev/vda1 ro console=ttyS0 {kernel_words(USER)} {' '.join(net_words(NETS))} quiet"
    status, found, _said = read(guest, line)
    assert status == 0
    assert found == USER | net_parameters(NETS) | {"VMBATCH_GROUPS": "", "VMBATCH_SHELL": ""}


def test_without_a_home(guest: Guest) -> None:
    assert read(guest, WORDS.replace("vbhome=/grid/home/alice ", ""))[1]["VMBATCH_HOME"] == "/home/alice"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "root=/dev/vda1 ro quiet",
        "vbuserx=alice xvbuser=alice VBUSER=alice vbuser vbnet=1 vbnetx=1",
        "root=x -- vbuser=alice",
        'dyndbg="file x vbuser=alice vbjob=1"',
        'opt="vbjob=1',
        'a="b c" d="e vbuser=root f"',
        '"vbuser=alice" "vbjob=1 2"',
        "* ? [a-z]* /*",
    ],
)
def test_lines_without_ours(guest: Guest, line: str) -> None:
    assert read(guest, line)[:2] == (1, {})


def test_no_line_at_all(guest: Guest) -> None:
    assert "none" in guest.evaluate(f'. "{KIT}/kernel-line.sh"; kernel_line || echo none')


def test_ours_around_quotes(guest: Guest) -> None:
    status, found, _said = read(guest, 'vbjob=1.vm foo="bar  vbjob=2 baz"x vbhost=vm-1 "q w"')
    assert (status, found) == (0, {"VMBATCH_JOB": "1.vm", "VMBATCH_HOSTNAME": "vm-1", "VMBATCH_NETS": "0"})


FOUR = "vbuser=alice vbgroup=staff vbuid=1500 vbgid=1501"
MAC = "52:54:00:00:00:01"


@pytest.mark.parametrize(
    "line, said",
    [
        (f"{FOUR} vbuser=bob", "the kernel's line has vbuser= twice"),
        (f"{FOUR} vbuser=", "the kernel's line has a bad vbuser="),
        ("vbuser=alice", "the kernel's line must have vbuser=, vbgroup=, vbuid= and vbgid=, or none of them"),
        ("vbgid=1501", "the kernel's line must have vbuser=, vbgroup=, vbuid= and vbgid=, or none of them"),
        ("vbgroup=a vbuid=1 vbgid=1", "the kernel's line must have vbuser=, vbgroup=, vbuid= and vbgid=, or none of them"),
        ("vbhome=/home/x", "the kernel's line has vbhome= without vbuser="),
        (FOUR.replace("1500", "0"), "the kernel's line has a bad vbuid="),
        (FOUR.replace("1500", "0x10"), "the kernel's line has a bad vbuid="),
        (FOUR.replace("1501", "15010000000"), "the kernel's line has a bad vbgid="),
        (FOUR.replace("alice", "-alice"), "the kernel's line has a bad vbuser="),
        (FOUR.replace("alice", "a:b"), "the kernel's line has a bad vbuser="),
        (FOUR.replace("alice", "$(reboot)"), "the kernel's line has a bad vbuser="),
        (FOUR.replace("alice", "`reboot`"), "the kernel's line has a bad vbuser="),
        (FOUR.replace("alice", '"alice"'), "the kernel's line has a bad vbuser="),
        (FOUR.replace("alice", "'alice'"), "the kernel's line has a bad vbuser="),
        (FOUR + " vbhome=relative", "the kernel's line has a bad vbhome="),
        ("vbhost=vm_1", "the kernel's line has a bad vbhost="),
        ("vbjob=1;2", "the kernel's line has a bad vbjob="),
        (f"vbnet0={MAC} vbnet0={MAC}", "the kernel's line has vbnet0= twice"),
        (f"vbnet0={MAC} vbnet2={MAC}", "the kernel's line lacks vbnet1="),
        (f"vbnet1={MAC}", "the kernel's line lacks vbnet0="),
        (f"vbnet00={MAC}", "the kernel's line has a bad vbnet00="),
        (f"vbnet0x={MAC}", "the kernel's line has a bad vbnet0x="),
        ("vbnet0=eth0", "the kernel's line has a bad vbnet0="),
        ("vbnet0=", "the kernel's line has a bad vbnet0="),
        (f"vbnet0={MAC},10.0.0.2/24", "the kernel's line has a bad vbnet0="),
        (f"vbnet0={MAC},,,,,,", "the kernel's line has a bad vbnet0="),
        (f"vbnet0={MAC},10.0.0.2/24,,,,,,", "the kernel's line has a bad vbnet0="),
        (f"vbnet0={MAC},10.0.0.2/24;x,,,,,", "the kernel's line has a bad vbnet0="),
        (f"vbnet0={MAC},10.0.0.2/24,,,,$(reboot),", "the kernel's line has a bad vbnet0="),
    ],
)
def test_mistakes_are_named(guest: Guest, line: str, said: str) -> None:
    assert read(guest, f"ro {line} quiet") == (2, {}, said)


def test_the_user_can_be_made_of_it(guest: Guest) -> None:
    """What user.sh needs is there."""
    guest.write("proc/cmdline", f"{FOUR}\n")
    guest.base.mkdir()
    said = guest.evaluate(f'. "{KIT}/kernel-line.sh"; set -e; kernel_line; create_user; hand_over')
    assert said == ""
    assert guest.read("etc/passwd").splitlines()[0] == "alice:x:1500:1501::/home/alice:/bin/bash"
    assert guest.read("etc/group").splitlines()[0] == "staff:x:1501:"
