"""wait.sh: a guest that waits to be saved, and what becomes of those that are made of it."""

import subprocess

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
    """It has copied the kit off its medium; `sleep` brings what the node does, with the medium of a job."""
    for script in KIT.glob("*.sh"):
        guest.write(f"var/lib/vmbatch/kit/{script.name}", script.read_text())
    guest.write("var/lib/vmbatch/kit/reseed", f'#!/bin/sh\necho reseed >>"{guest.root}/done"\n', 0o755)
    guest.write_medium()
    guest.add_to_medium("seed", "seed", 0o600)
    guest.add_to_medium("ssh/host_key", "PRIVATE\n", 0o600)
    guest.add_to_medium("ssh/host_key.pub", "ssh-ed25519 AAAAHOST\n")
    guest.add_to_medium("ssh/authorized_key", "ssh-ed25519 AAAAJOB job\n", 0o600)
    guest.add_to_medium("job/script", "#!/bin/sh\necho job\n", 0o700)
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
        "mount": f'[ -f "$5" ] || return 32; echo "mount $*" >>"{done}"; rm -rf "{medium}"; cp -R "{guest.medium}" "{medium}"',
        "sleep": EVENTS.format(root=guest.root),
        "restorecon": ":",
    }
    return guest


def wait(guest: Guest) -> "subprocess.CompletedProcess[bytes]":
    environment = {**guest.environment, "VMBATCH_TOKEN": NONCE}
    command = [*guest.shell, "-c", f'{guest.prelude}. "$0"', str(guest.base / "kit/wait.sh"), "start"]
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)


def done(guest: Guest) -> list[str]:
    return guest.read("done").replace(str(guest.root), "").splitlines()


def test_it_waits_and_then_becomes_somebody(waiting: Guest) -> None:
    ended = wait(waiting)
    assert ended.returncode == 0, waiting.read("var/lib/vmbatch/wait.log")
    medium = "/var/lib/vmbatch/medium"
    assert done(waiting) == [
        "date -s @1700000000", "reseed", f"umount {medium}", "sync",
        f"mount -t iso9660 -o ro /dev/vdb {medium}", "reseed", "date -s @1700000000"]
    assert waiting.read("dev/urandom") == "seed", "and the numbers are renewed after it"
    assert waiting.read("etc/machine-id") == UUID.replace("-", "") + "\n"
    assert waiting.read("var/lib/vmbatch/resumed") == "3.50\n"
    assert waiting.read("var/lib/vmbatch/failed") == ""
    assert waiting.read("etc/passwd").startswith("alice:x:1500:")
    assert waiting.read("etc/hostname") == "vm-42\n"
    assert waiting.read("etc/ssh/ssh_host_ed25519_key") == "PRIVATE\n"
    assert waiting.read("home/alice/.ssh/authorized_keys") == "ssh-ed25519 AAAAJOB job\n"
    assert waiting.read("var/lib/vmbatch/job/script") == "#!/bin/sh\necho job\n"
    assert sorted(path.name for path in (waiting.root / "etc").iterdir() if path.name.startswith(".")) == []


def test_whatever_fails_in_its_context_is_told_as_of_any_guest(waiting: Guest) -> None:
    waiting.add_to_medium("site/prolog.d/10", "echo no licence >&2; exit 3\n")
    assert wait(waiting).returncode == 1
    assert waiting.read("var/lib/vmbatch/failed") == "status 3 while running site/prolog.d/10: no licence\n"
    assert "vmbatch: gave up: status 3 while running site/prolog.d/10: no licence\n" in waiting.read("dev/console")


@pytest.mark.parametrize("started", [True, False])
def test_an_interface_that_comes_behind_the_start_of_the_network(waiting: Guest, started: bool) -> None:
    """Where ifup has been run before, as by SysV's rcS, it is run again; elsewhere the guest's own start is still to come."""
    waiting.context |= {"VMBATCH_NETS": "1", "VMBATCH_NET0_METHOD": "dhcp", "VMBATCH_NET0_MAC": "52:54:00:00:00:01"}
    waiting.write_medium()
    if started:
        waiting.write("run/network/ifstate", "lo=lo\n")
    waiting.write("sys/class/net/eth0/address", "52:54:00:00:00:01\n")
    waiting.functions["ifup"] = f'echo "ifup $*" >>"{waiting.root}/done"'
    assert wait(waiting).returncode == 0
    assert ("ifup eth0" in done(waiting)) == started


def test_another_disk_with_such_a_file_system_is_not_kept(waiting: Guest) -> None:
    waiting.write("dev/zram0", "")
    medium = waiting.base / "medium"
    waiting.functions["mount"] += f'; [ "$5" != "{waiting.root}/dev/zram0" ] || rm "{medium}"/*.sh "{medium}/seed"'
    assert wait(waiting).returncode == 0
    place = "/var/lib/vmbatch/medium"
    assert done(waiting)[4:7] == [f"mount -t iso9660 -o ro /dev/zram0 {place}", f"umount {place}",
                                  f"mount -t iso9660 -o ro /dev/vdb {place}"]


def test_accounts_are_those_of_when_the_job_comes(waiting: Guest) -> None:
    """Not of when the guest was saved; after a time that any shell sees."""
    waiting.functions["mount"] += f'; command sleep 1.1; echo "late:x:77:77::/:/bin/sh" >>"{waiting.root}/etc/passwd"'
    assert wait(waiting).returncode == 0
    assert "late:x:77:77::/:/bin/sh\n" in waiting.read("etc/passwd")


def test_what_it_says(waiting: Guest) -> None:
    """That it waits is said twice a second, as the kernel may write between; that it is alone once, and nothing behind it."""
    waiting.functions["sleep"] = waiting.functions["sleep"].replace("3)", "13)").replace("5)", "15)").replace("7)", "17)")
    wait(waiting)
    said = [line for line in waiting.read("dev/console").splitlines() if line]
    assert said == [f"vmbatch 1 waiting {NONCE}"] * 2 + [f"vmbatch 1 alone {NONCE}"]


def test_links_are_not_followed(waiting: Guest) -> None:
    waiting.write("elsewhere", "precious")
    (waiting.root / "etc/machine-id").unlink()
    (waiting.root / "etc/machine-id").symlink_to(waiting.root / "elsewhere")
    assert wait(waiting).returncode == 0
    assert waiting.read("elsewhere") == "precious"


@pytest.mark.parametrize(("lacking", "why"), [
    ("sys/class/rtc/rtc0/since_epoch", "the guest has no hardware clock, /sys/class/rtc/rtc0"),
    ("var/lib/vmbatch/kit/reseed",
     "the kernel does not renew its random numbers (RNDRESEEDCRNG, Linux 4.14), or /var is mounted noexec"),
])
def test_what_it_cannot_do_it_says_before_it_is_saved(waiting: Guest, lacking: str, why: str) -> None:
    (waiting.root / lacking).unlink()
    assert wait(waiting).returncode == 1
    assert waiting.read("dev/console") == f"\nvmbatch 1 failed {NONCE} {why}\n"
    assert not (waiting.root / "count").exists()


@pytest.mark.parametrize(("before", "now", "since"), [
    ("3.50", "4.05", "0.55"), ("3.05", "13.04", "9.99"), ("3.50", "3.50", "0.00"), ("0.08", "100.09", "100.01")])
def test_the_seconds_of_its_boot_count_from_where_it_went_on(guest: Guest, before: str, now: str, since: str) -> None:
    guest.write("var/lib/vmbatch/resumed", f"{before}\n")
    assert guest.evaluate(f'now={now}; since_resumed; echo "$now"') == f"{since}\n"
