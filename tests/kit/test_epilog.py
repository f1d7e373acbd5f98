"""epilog.sh: the share, and the messages to the host."""

import os
import subprocess
import time

import pytest

from vmbatch.guest import parse_message, spans

from .guest import NONCE, Guest

QUICK = 'case $1 in 0.05 | 1) command sleep 0.01 ;; *) exec sleep "$1" ;; esac'
IMPATIENT = 'case $1 in 0.05 | 1) command sleep 0.01 ;; *) exec sleep 0.3 ;; esac'
"""What is waited for is cut short; in the second, also the time that a command is given."""
ROUTE = "10.77.0.1 dev eth0 src 10.77.0.42 uid 0 \\    cache"


@pytest.fixture
def ready(guest: Guest) -> Guest:
    """A guest whose prolog went well."""
    guest.write_medium()
    guest.write("var/lib/vmbatch/failed", "")
    guest.write("var/lib/vmbatch/job/login", "")
    guest.functions |= {
        "modprobe": ":",
        "ip": f"echo '{ROUTE}'",
        "mount": f'echo "$*" >>"{guest.root}/mounted"',
        "umount": f'echo "$*" >>"{guest.root}/unmounted"',
    }
    return guest


def share(guest: Guest) -> dict[str, str]:
    directory = guest.root / "mnt/vmbatch"
    found = {path.name: path.read_text() for path in directory.iterdir()} if directory.exists() else {}
    found.pop("times", "")
    return found


def test_announce_and_ready(ready: Guest) -> None:
    done = ready.run(ready.medium / "epilog.sh", "start")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert share(ready) == {
        "announce": f"vmbatch 1 announce {NONCE} 10.77.0.42\n",
        "ready": f"vmbatch 1 ready {NONCE} 10.77.0.42\n",
    }


def test_times(ready: Guest) -> None:
    """Before the guest is announced, so that whoever reads that can read these."""
    ready.write("var/lib/vmbatch/began", "1.25\n")
    ready.functions["mount"] = "sleep 0.3"
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 0
    [began, late, network, shares] = spans(
        parse_message((ready.root / "mnt/vmbatch/times").read_bytes(), NONCE).text).values()
    assert began == 1.25
    assert late > 0 <= network < 5
    assert shares >= 0.29


def test_ready_waits_for_the_login(ready: Guest) -> None:
    (ready.base / "job/login").unlink()
    command = [*ready.shell, "-c", f'{ready.prelude}. "$0"', str(ready.medium / "epilog.sh"), "start"]
    process = subprocess.Popen(command, env=ready.environment)
    while "announce" not in share(ready):
        time.sleep(0.01)
    time.sleep(0.3)
    assert "ready" not in share(ready)
    (ready.base / "job/login").touch()
    assert process.wait(timeout=10) == 0
    assert "ready" in share(ready)


def test_a_share_that_has_room_again(ready: Guest) -> None:
    full = ready.root / "mnt/vmbatch/ready"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    ready.functions["sleep"] = f'case $1 in 1) rm {full} ;; *) exec sleep "$1" ;; esac'
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 0
    assert share(ready)["ready"] == f"vmbatch 1 ready {NONCE} 10.77.0.42\n"


def test_a_share_that_stays_full(ready: Guest) -> None:
    full = ready.root / "mnt/vmbatch/ready"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    ready.functions["sleep"] = QUICK
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 1
    full.unlink()
    assert f"status 1 while writing {full}" in share(ready)["failed"]


def test_failed_prolog_is_reported(ready: Guest) -> None:
    ready.write("var/lib/vmbatch/failed", "one\ttwo\x1b[31m %s \\n é " + "x" * 600 + "\nand more\n")
    ready.add_to_medium("site/epilog.d/1", f"touch {ready.root}/not-reached\n")
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 1
    messages = share(ready)
    assert messages.keys() == {"failed"}
    head = f"vmbatch 1 failed {NONCE} "
    text = messages["failed"].removeprefix(head)
    assert text.startswith("prolog: one two [31m %s \\n ") and text.endswith("x\n")
    assert len(text) == 501 and text.count("\n") == 1 and text[:-1].isprintable() and text.isascii()
    assert not (ready.root / "not-reached").exists()


def test_prolog_that_never_ran(ready: Guest) -> None:
    (ready.base / "failed").unlink()
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 1
    assert share(ready) == {"failed": f"vmbatch 1 failed {NONCE} prolog.sh has not run\n"}


def test_failing_site_script(ready: Guest) -> None:
    ready.add_to_medium("site/epilog.d/10", 'echo "$VMBATCH_JOB" >"$VMBATCH_ROOT/trace"\n')
    ready.add_to_medium("site/epilog.d/20-bad", "echo no cvmfs >&2; exit 9\n")
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 1
    assert ready.read("trace") == "42.vm\n"
    assert share(ready)["failed"] == f"vmbatch 1 failed {NONCE} status 9 while running site/epilog.d/20-bad: no cvmfs\n"
    assert "ready" not in share(ready)


def test_no_share(ready: Guest) -> None:
    ready.context["VMBATCH_SHARE_SOURCE"] = ""
    ready.write_medium()
    done = ready.run(ready.medium / "epilog.sh", "start")
    assert (done.returncode, done.stdout) == (1, b"vmbatch: gave up: the context names no share to mount\n")
    assert ready.read("dev/console") == done.stdout.decode()


def test_share_that_cannot_be_mounted(ready: Guest) -> None:
    denied = "printf '%s\\n' 'mount: access denied' '    dmesg(1) may have more information after failed mount' >&2"
    ready.functions |= {"mount": f"{denied}; return 32", "sleep": QUICK}
    done = ready.run(ready.medium / "epilog.sh", "start")
    assert done.returncode == 1
    assert done.stdout == b"vmbatch: gave up: failed while mounting 10.77.0.1:/share/x at /mnt/vmbatch: mount: access denied\n"


def test_kernel_without_the_file_system(ready: Guest) -> None:
    """Nothing is waited for that cannot come."""
    ready.write("proc/filesystems", "nodev\tproc\n\text4\n")
    ready.functions |= {"mount": "echo mount: unknown >&2; return 32",
                        "sleep": f'[ "$1" != 1 ] || touch "{ready.root}/slept"; {QUICK}'}
    done = ready.run(ready.medium / "epilog.sh", "start")
    why = b"the guest's kernel has no file system nfs4 (mount: unknown)"
    assert done.stdout == b"vmbatch: gave up: failed while mounting 10.77.0.1:/share/x at /mnt/vmbatch: " + why + b"\n"
    assert not (ready.root / "slept").exists()


def test_mount_that_hangs(ready: Guest) -> None:
    ready.functions |= {"mount": f"echo $$ >>'{ready.root}/begun'; exec sleep 20", "sleep": IMPATIENT}
    done = ready.run(ready.medium / "epilog.sh", "start")
    assert done.stdout == b"vmbatch: gave up: failed while mounting 10.77.0.1:/share/x at /mnt/vmbatch: it did not end\n"
    assert ready.read("begun").count("\n") == 1


def test_further_shares(ready: Guest) -> None:
    """Mounted in their order, before anything is announced; unmounted in the opposite one."""
    ready.context |= {"VMBATCH_SHARES": "3"}
    for number, values in enumerate((
        ("nfs", "10.77.0.2:/soft", "/opt/soft", "ro,soft"),
        ("9p", "vbshare1", "/opt/data", ""),
        ("virtiofs", "vbshare2", "/opt/own", ""),
    )):
        names = (f"VMBATCH_SHARE{number}_{name}" for name in ("TYPE", "SOURCE", "PATH", "OPTIONS"))
        ready.context |= dict(zip(names, values, strict=True))
    assert mount_line(ready).splitlines() == [
        "-t nfs4 -o addr=10.77.0.1,clientaddr=10.77.0.42,vers=4.2,soft 10.77.0.1:/share/x /mnt/vmbatch",
        "-t nfs -o addr=10.77.0.2,mountaddr=10.77.0.2,proto=tcp,mountproto=tcp,nolock,vers=3,ro,soft 10.77.0.2:/soft /opt/soft",
        "-t 9p -o trans=virtio,version=9p2000.L,msize=262144 vbshare1 /opt/data",
        "-t virtiofs vbshare2 /opt/own",
    ]
    mounts = "".join(f"x {path} y rw 0 0\n" for path in ("/mnt/vmbatch", "/opt/soft", "/opt/data", "/opt/own"))
    ready.write("proc/mounts", mounts)
    assert ready.run(ready.medium / "epilog.sh", "stop").returncode == 0
    unmounted = ready.read("unmounted").replace(str(ready.root), "").splitlines()
    assert unmounted == ["/opt/own", "/opt/data", "/opt/soft", "/mnt/vmbatch"]


def test_a_further_share_that_cannot_be_mounted(ready: Guest) -> None:
    ready.context |= {"VMBATCH_SHARES": "1", "VMBATCH_SHARE0_TYPE": "9p", "VMBATCH_SHARE0_SOURCE": "vbshare0",
                      "VMBATCH_SHARE0_PATH": "/opt/a", "VMBATCH_SHARE0_OPTIONS": ""}
    ready.write_medium()
    ready.functions |= {"mount": 'case "$*" in *9p*) echo; echo no such device >&2; return 32 ;; esac', "sleep": QUICK}
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 1
    assert share(ready) == {"failed": f"vmbatch 1 failed {NONCE} failed while mounting vbshare0 at /opt/a: no such device\n"}


@pytest.mark.parametrize(("owner", "said"), [
    (1500, None), (0, "/home/alice on its share belongs to uid 0, not to alice"),
    (None, "/home/alice is not on the share that the template mounts there"),
])
def test_home_on_a_share(ready: Guest, owner: int | None, said: str | None) -> None:
    ready.context |= {"VMBATCH_HOME_SHARED": "yes"}
    ready.write_medium()
    if owner is not None:
        (ready.root / "home/alice").mkdir()
        os.chown(ready.root / "home/alice", owner, owner)
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == (1 if said else 0)
    assert share(ready).get("failed") == (said and f"vmbatch 1 failed {NONCE} {said}\n")


def test_ready_is_what_the_site_says(ready: Guest) -> None:
    """Polled; what it says last is shown once for as long as it says the same."""
    ready.add_to_medium("site/epilog.d/1", "echo epilog.d >>$VMBATCH_ROOT/order\n")
    ready.add_to_medium("site/ready",
                        "#!/bin/sh\necho ready >>$VMBATCH_ROOT/order; echo no cvmfs; [ -f $VMBATCH_ROOT/up ]\n", 0o755)
    ready.functions["sleep"] = f'[ "$1" != 1 ] || [ ! -f "{ready.root}/again" ] || touch "{ready.root}/up"; ' \
                               f'[ "$1" != 1 ] || touch "{ready.root}/again"; {QUICK}'
    done = ready.run(ready.medium / "epilog.sh", "start")
    assert (done.returncode, done.stdout) == (0, b"vmbatch: not ready yet: no cvmfs\n")
    assert ready.read("order") == "epilog.d\nready\nready\nready\n"
    assert share(ready).keys() == {"announce", "ready"}


@pytest.mark.parametrize(("script", "said"), [
    ("echo one; echo two >&2; exit 3", ": two"), ("exit 3", ""), ("exec sleep 20", ": it did not end"),
])
def test_never_ready(ready: Guest, script: str, said: str) -> None:
    ready.context |= {"VMBATCH_PATIENCE": "5"}
    ready.write_medium()
    ready.add_to_medium("site/ready", script + "\n")
    ready.functions["sleep"] = IMPATIENT if "sleep" in script else QUICK
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 1
    assert share(ready)["failed"] == f"vmbatch 1 failed {NONCE} site/ready did not succeed within 5 seconds{said}\n"
    assert "ready" not in share(ready)


def channel(guest: Guest) -> None:
    """A guest whose messages go through a port, for which a terminal stands in."""
    guest.context |= {"VMBATCH_MESSAGES": "channel", "VMBATCH_SHARE_SOURCE": ""}
    guest.write_medium()
    guest.write("sys/class/virtio-ports/vport1p1/name", "org.qemu.guest_agent.0\n")
    guest.write("sys/class/virtio-ports/vport1p2/name", "org.vmbatch.0\n")
    guest.functions["ip"] = "echo 'inet 127.0.0.1/8 scope host lo inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0'"


def said_on(terminal: int) -> list[str]:
    os.set_blocking(terminal, False)
    return os.read(terminal, 65536).decode().split("\r\n")[:-1]


def test_messages_through_a_port(ready: Guest) -> None:
    channel(ready)
    master, slave = os.openpty()
    (ready.root / "dev/vport1p2").symlink_to(os.ttyname(slave))
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 0
    times, *said = said_on(master)
    assert times.startswith(f"vmbatch 1 times {NONCE} ")
    assert said == [f"vmbatch 1 announce {NONCE} 10.0.2.15", f"vmbatch 1 ready {NONCE} 10.0.2.15"]
    assert not (ready.root / "mounted").exists()


def test_no_network_is_told_through_a_port(ready: Guest) -> None:
    channel(ready)
    master, slave = os.openpty()
    (ready.root / "dev/vport1p2").symlink_to(os.ttyname(slave))
    ready.functions |= dict.fromkeys(("ip", "ifconfig", "hostname"), "return 127") | {"sleep": '[ "$1" = 1 ]'}
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 1
    assert said_on(master) == [f"vmbatch 1 failed {NONCE} no network within 120 seconds: no address towards the host"]


def test_no_port(ready: Guest) -> None:
    channel(ready)
    ready.functions["sleep"] = '[ "$1" = 1 ]'
    done = ready.run(ready.medium / "epilog.sh", "start")
    assert done.stdout == b"vmbatch: gave up: the guest has no port org.vmbatch.0: is there a driver virtio_console?\n"


def test_stop(ready: Guest) -> None:
    assert ready.run(ready.medium / "epilog.sh", "stop").returncode == 0
    assert not (ready.root / "unmounted").exists()
    ready.write("proc/mounts", "rootfs / rootfs rw 0 0\n10.77.0.1:/share/x /mnt/vmbatch nfs4 rw 0 0\n")
    assert ready.run(ready.medium / "epilog.sh", "stop").returncode == 0
    assert ready.read("unmounted") == f"{ready.root}/mnt/vmbatch\n"
    assert ready.run(ready.medium / "epilog.sh").returncode == 2


def test_nobody_logs_in(ready: Guest) -> None:
    (ready.base / "job/login").unlink()
    ready.write("proc/mounts", "x /mnt/vmbatch nfs4 rw 0 0\n")
    (ready.root / "mnt/vmbatch").mkdir(parents=True)
    ready.functions["sleep"] = '[ "$1" = 1 ]'
    ready.run(ready.medium / "epilog.sh", "start")
    assert share(ready)["failed"].endswith(" the host did not log in within 600 seconds\n")


def mount_line(guest: Guest) -> str:
    guest.write_medium()
    done = guest.run(guest.medium / "epilog.sh", "start")
    assert done.returncode == 0, guest.read("var/lib/vmbatch/failed")
    return guest.read("mounted").replace(str(guest.root), "")


def test_mount_without_helper(ready: Guest) -> None:
    assert mount_line(ready) == (
        "-t nfs4 -o addr=10.77.0.1,clientaddr=10.77.0.42,vers=4.2,soft 10.77.0.1:/share/x /mnt/vmbatch\n"
    )


def test_mount_with_helper(ready: Guest) -> None:
    ready.write("sbin/mount.nfs4", "", 0o755)
    assert mount_line(ready) == "-t nfs4 -o vers=4.2,soft 10.77.0.1:/share/x /mnt/vmbatch\n"


@pytest.mark.parametrize(("given", "without", "with_helper"), [
    ("", "nfs -o addr={0},mountaddr={0},proto=tcp,mountproto=tcp,nolock,vers=3", "nfs -o nolock,vers=3"),
    ("soft", "nfs -o addr={0},mountaddr={0},proto=tcp,mountproto=tcp,nolock,vers=3,soft", "nfs -o nolock,vers=3,soft"),
    ("nfsvers=3,lock", "nfs -o addr={0},mountaddr={0},proto=tcp,mountproto=tcp,nfsvers=3,lock", "nfs -o nfsvers=3,lock"),
    ("vers=4.2", "nfs4 -o addr={0},clientaddr=10.77.0.42,vers=4.2", "nfs -o vers=4.2"),
    ("v4.1", "nfs4 -o addr={0},clientaddr=10.77.0.42,v4.1", "nfs -o v4.1"),
    ("timeo=9", "nfs -o addr={0},mountaddr={0},proto=tcp,mountproto=tcp,nolock,vers=3,timeo=9", "nfs -o nolock,vers=3,timeo=9"),
])
def test_nfs_is_version_3(ready: Guest, given: str, without: str, with_helper: str) -> None:
    """Where the options name no other: mount.nfs would take the newest that there is (mount.nfs(8))."""
    ready.context |= {"VMBATCH_SHARE_TYPE": "nfs", "VMBATCH_SHARE_OPTIONS": given}
    assert mount_line(ready) == f"-t {without.format('10.77.0.1')} 10.77.0.1:/share/x /mnt/vmbatch\n"
    (ready.root / "mounted").unlink()
    ready.write("sbin/mount.nfs", "", 0o755)
    assert mount_line(ready) == f"-t {with_helper} 10.77.0.1:/share/x /mnt/vmbatch\n"


def test_mount_of_another_kind(ready: Guest) -> None:
    ready.context |= {
        "VMBATCH_SHARE_TYPE": "virtiofs",
        "VMBATCH_SHARE_OPTIONS": "",
        "VMBATCH_SHARE_SOURCE": "tag",
    }
    ready.functions["ip"] = "echo 'inet 127.0.0.1/8 scope host lo inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0'"
    assert mount_line(ready) == "-t virtiofs tag /mnt/vmbatch\n"


def test_mounted_already(ready: Guest) -> None:
    ready.write("proc/mounts", "x /mnt/vmbatch nfs4 rw 0 0\n")
    (ready.root / "mnt/vmbatch").mkdir(parents=True)
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 0
    assert not (ready.root / "mounted").exists()


def test_mount_is_tried_again(ready: Guest) -> None:
    ready.functions |= {
        "mount": f'echo x >>"{ready.root}/tries"; read -r _ <"{ready.root}/tries"; [ -f "{ready.root}/up" ]',
        "sleep": f'[ "$1" != 1 ] || touch "{ready.root}/up"; command sleep 0.01',
    }
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 0
    assert ready.read("tries") == "x\nx\n"
