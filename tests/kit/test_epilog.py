"""epilog.sh: the share, and the messages to the host."""

import subprocess
import time

import pytest

from .guest import NONCE, Guest

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
    return {path.name: path.read_text() for path in directory.iterdir()} if directory.exists() else {}


def test_announce_and_ready(ready: Guest) -> None:
    done = ready.run(ready.medium / "epilog.sh", "start")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert share(ready) == {
        "announce": f"vmbatch 1 announce {NONCE} 10.77.0.42\n",
        "ready": f"vmbatch 1 ready {NONCE} 10.77.0.42\n",
    }


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
    assert (done.returncode, done.stdout) == (1, b"vmbatch: the context names no share to mount\n")
    assert ready.read("dev/console") == done.stdout.decode()


def test_share_that_cannot_be_mounted(ready: Guest) -> None:
    ready.functions |= {"mount": "echo mount: access denied >&2; return 32", "sleep": ":"}
    done = ready.run(ready.medium / "epilog.sh", "start")
    assert done.returncode == 1
    assert done.stdout == b"vmbatch: status 1 while mounting 10.77.0.1:/share/x: mount: access denied\n"


def test_stop(ready: Guest) -> None:
    assert ready.run(ready.medium / "epilog.sh", "stop").returncode == 0
    assert not (ready.root / "unmounted").exists()
    ready.write("proc/mounts", "rootfs / rootfs rw 0 0\n10.77.0.1:/share/x /mnt/vmbatch nfs4 rw 0 0\n")
    assert ready.run(ready.medium / "epilog.sh", "stop").returncode == 0
    assert ready.read("unmounted") == f"{ready.root}/mnt/vmbatch\n"
    assert ready.run(ready.medium / "epilog.sh").returncode == 2


def test_nobody_logs_in(ready: Guest) -> None:
    (ready.base / "job/login").unlink()
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
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 0
    assert not (ready.root / "mounted").exists()


def test_mount_is_tried_again(ready: Guest) -> None:
    ready.functions |= {
        "mount": f'echo x >>"{ready.root}/tries"; read -r _ <"{ready.root}/tries"; [ -f "{ready.root}/up" ]',
        "sleep": f'touch "{ready.root}/up"',
    }
    assert ready.run(ready.medium / "epilog.sh", "start").returncode == 0
    assert ready.read("tries") == "x\nx\n"
