"""wait.sh: a guest that waits to be saved, and what becomes of those that are made of it."""

import pytest

from .guest import KIT, NONCE, Guest
from .test_guest import image

UUID = "7d7a4a5c-7c1f-4c0e-9d2e-2f1f6b0c9a11"
EVENTS = """
count=$(cat "{root}/count" 2>/dev/null || echo 0)
count=$((count + 1))
echo $count >"{root}/count"
case $count in
    3) rmdir "{root}/sys/block/vdb" ;;
    5) mkdir "{root}/sys/block/zram0" ;;
    7) mkdir "{root}/sys/block/vdb"; cp "{root}/medium.iso" "{root}/dev/vdb" ;;
    99) exit 9 ;;
esac
"""
"""By each call of sleep: the medium goes, another disk comes, a job's medium comes."""


@pytest.fixture
def waiting(guest: Guest) -> Guest:
    """It has copied itself off its medium; `sleep` brings what the node does."""
    place = guest.base / "wait"
    for name in ("wait.sh", "lib.sh"):
        guest.write(f"var/lib/vmbatch/wait/{name}", (KIT / name).read_text())
    guest.write("var/lib/vmbatch/wait/parameters.sh", f"VMBATCH_TOKEN='{NONCE}'\n")
    guest.write("var/lib/vmbatch/wait/reseed", f'#!/bin/sh\necho reseed >>"{guest.root}/done"\n', 0o755)
    for disk in ("vda", "vdb"):
        (guest.root / "sys/block" / disk).mkdir(parents=True)
        guest.write(f"dev/{disk}", b"\0" * 40000)
    guest.write("sys/class/rtc/rtc0/since_epoch", "1700000000\n")
    guest.write("proc/uptime", "3.50 1.0\n")
    guest.write("proc/sys/kernel/random/uuid", f"{UUID}\n")
    guest.write("etc/machine-id", "the saved guest's\n")
    guest.write("medium.iso", image("VMBATCH"))
    guest.write("dev/urandom", "")
    medium, done = guest.base / "medium", guest.root / "done"
    guest.functions |= {
        "umount": f'echo "umount $*" >>"{done}"',
        "sync": f'echo sync >>"{done}"',
        "modprobe": "return 1",
        "date": f'echo "date $*" >>"{done}"',
        "mount": f'echo "mount $*" >>"{done}"; mkdir -p "{medium}"; printf seed >"{medium}/seed"; '
                 f"echo 'echo \"prolog $*\" >>\"{done}\"' >\"{medium}/prolog.sh\"",
        "sleep": EVENTS.format(root=guest.root),
    }
    assert place.is_dir()
    return guest


def done(guest: Guest) -> list[str]:
    return guest.read("done").replace(str(guest.root), "").splitlines()


def test_it_waits_and_then_becomes_somebody(waiting: Guest) -> None:
    ended = waiting.run(waiting.base / "wait/wait.sh")
    assert ended.returncode == 0, waiting.read("var/lib/vmbatch/wait.log")
    medium = "/var/lib/vmbatch/medium"
    assert done(waiting) == [
        "date -s @1700000000", "reseed", f"umount {medium}", "sync",
        f"mount -t iso9660 -o ro /dev/vdb {medium}", "reseed", "date -s @1700000000", "prolog start"]
    assert waiting.read("dev/urandom") == "seed", "and the numbers are renewed after it"
    assert waiting.read("etc/machine-id") == UUID.replace("-", "") + "\n"
    assert waiting.read("var/lib/vmbatch/resumed") == "3.50\n"
    assert not (waiting.base / "wait").exists()


def test_what_it_says(waiting: Guest) -> None:
    """That it waits is said twice a second, as the kernel may write between; that it is alone once, and nothing behind it."""
    waiting.functions["sleep"] = waiting.functions["sleep"].replace("3)", "13)").replace("5)", "15)").replace("7)", "17)")
    waiting.run(waiting.base / "wait/wait.sh")
    said = [line for line in waiting.read("dev/console").splitlines() if line]
    assert said == [f"vmbatch 1 waiting {NONCE}"] * 2 + [f"vmbatch 1 alone {NONCE}"]


def test_links_are_not_followed(waiting: Guest) -> None:
    waiting.write("elsewhere", "precious")
    (waiting.root / "etc/machine-id").unlink()
    (waiting.root / "etc/machine-id").symlink_to(waiting.root / "elsewhere")
    assert waiting.run(waiting.base / "wait/wait.sh").returncode == 0
    assert waiting.read("elsewhere") == "precious"


@pytest.mark.parametrize(("lacking", "why"), [
    ("sys/class/rtc/rtc0/since_epoch", "the guest has no hardware clock, /sys/class/rtc/rtc0"),
    ("var/lib/vmbatch/wait/reseed",
     "the kernel does not renew its random numbers (RNDRESEEDCRNG, Linux 4.14), or /var is mounted noexec"),
])
def test_what_it_cannot_do_it_says_before_it_is_saved(waiting: Guest, lacking: str, why: str) -> None:
    (waiting.root / lacking).unlink()
    assert waiting.run(waiting.base / "wait/wait.sh").returncode == 1
    assert waiting.read("dev/console") == f"\nvmbatch 1 failed {NONCE} {why}\n"
    assert not (waiting.root / "count").exists()


@pytest.mark.parametrize(("before", "now", "since"), [
    ("3.50", "4.05", "0.55"), ("3.05", "13.04", "9.99"), ("3.50", "3.50", "0.00"), ("0.08", "100.09", "100.01")])
def test_the_seconds_of_its_boot_count_from_where_it_went_on(guest: Guest, before: str, now: str, since: str) -> None:
    guest.write("var/lib/vmbatch/resumed", f"{before}\n")
    assert guest.evaluate(f'now={now}; since_resumed; echo "$now"') == f"{since}\n"
