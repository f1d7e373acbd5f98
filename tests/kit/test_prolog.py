"""prolog.sh: the early part of the context, whole, in a directory that stands for the guest."""

import gzip
import io
import os
import stat
import subprocess
import tarfile

import pytest

from .guest import Guest

KEY = "ssh-ed25519 AAAAJOB job"


@pytest.fixture
def ready(guest: Guest) -> Guest:
    """A guest with a whole medium."""
    guest.write_medium()
    guest.add_to_medium("ssh/authorized_key", KEY + "\n", 0o400)
    guest.add_to_medium("ssh/host_key", "PRIVATE\n", 0o400)
    guest.add_to_medium("ssh/host_key.pub", "ssh-ed25519 AAAAHOST\n", 0o400)
    guest.add_to_medium("job/script", "#!/bin/sh\necho job\n", 0o700)
    guest.add_to_medium("job/nodefile", "node\n", 0o444)
    guest.functions["restorecon"] = ":"
    del guest.functions["chown"]
    if os.geteuid() != 0:
        guest.context["VMBATCH_UID"], guest.context["VMBATCH_GID"] = str(os.getuid()), str(os.getgid())
        guest.write_medium()
    return guest


def start(guest: Guest, status: int = 0) -> str:
    done = guest.run(guest.medium / "prolog.sh", "start")
    log = guest.base / "prolog.log"
    assert done.returncode == status, (done.stdout, done.stderr, log.exists() and log.read_text())
    assert done.stderr == b""
    return guest.read("var/lib/vmbatch/failed")


def mode(guest: Guest, name: str) -> int:
    return stat.S_IMODE((guest.root / name).stat().st_mode)


def owner(guest: Guest, name: str) -> tuple[int, int]:
    found = (guest.root / name).stat()
    return found.st_uid, found.st_gid


def archive(**members: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size, member.mode = len(content), 0o640
            tar.addfile(member, io.BytesIO(content.encode()))
    return file.getvalue()


def test_everything_in_place(ready: Guest) -> None:
    for _ in range(2):
        assert start(ready) == ""
        assert ready.read("etc/passwd").startswith("alice:x:")
        assert ready.read("etc/ssh/ssh_host_ed25519_key") == "PRIVATE\n"
        assert mode(ready, "etc/ssh/ssh_host_ed25519_key") == 0o600
        assert mode(ready, "etc/ssh/ssh_host_ed25519_key.pub") == 0o644
        assert ready.read("home/alice/.ssh/authorized_keys") == KEY + "\n"
        assert mode(ready, "home/alice/.ssh/authorized_keys") == 0o600
        assert mode(ready, "home/alice/.ssh") == 0o700
        assert mode(ready, "var/lib/vmbatch") == 0o755
        assert mode(ready, "var/lib/vmbatch/job") == 0o700
        assert mode(ready, "var/lib/vmbatch/job/script") == 0o700
        assert ready.read("var/lib/vmbatch/job/nodefile") == "node\n"
        assert ready.read("proc/sys/kernel/hostname") == ready.read("etc/hostname") == "vm-42\n"
        assert ready.read("etc/hosts").splitlines().count("127.0.1.1 vm-42") == 1
        for name in ("", "home/alice", "home/alice/.ssh", "home/alice/.ssh/authorized_keys"):
            expected = int(ready.context["VMBATCH_UID"]), int(ready.context["VMBATCH_GID"])
            assert not name or owner(ready, name) == expected
        for name in ("job", "job/script", "job/nodefile"):
            assert owner(ready, f"var/lib/vmbatch/{name}") == expected
        kit = sorted(path.name for path in (ready.base / "kit").iterdir())
        assert kit == sorted(path.name for path in (ready.medium / "kit").iterdir())
        assert {mode(ready, f"var/lib/vmbatch/kit/{name}") & 0o444 for name in kit} == {0o444}
        assert ready.read("dev/console") == ""


def test_called_from_anywhere(ready: Guest) -> None:
    for arguments in (["./prolog.sh", "start"], ["prolog.sh", "start"]):
        environment = ready.environment | {"PATH": f"{ready.medium}:{ready.path}"}
        command = [*ready.shell, *arguments]
        done = subprocess.run(command, cwd=ready.medium, env=environment, check=False)
        assert done.returncode == 0
    assert ready.run(ready.medium / "prolog.sh", "stop").returncode == 0
    assert ready.run(ready.medium / "prolog.sh").returncode == 2


def test_job_directory_is_made_anew(ready: Guest) -> None:
    ready.write("var/lib/vmbatch/job/login", "")
    victim = ready.write("victim", "safe")
    (ready.base / "job/script").symlink_to(victim)
    assert start(ready) == ""
    assert victim.read_text() == "safe"
    assert sorted(path.name for path in (ready.base / "job").iterdir()) == ["nodefile", "script"]


def test_key_joins_the_users_own(ready: Guest) -> None:
    ready.write("home/alice/.ssh/authorized_keys", f"ssh-rsa OWN\n{KEY} 2", 0o640)
    if os.geteuid() == 0:
        for name in ("", "/.ssh", "/.ssh/authorized_keys"):
            os.chown(f"{ready.root}/home/alice{name}", 1500, 1501)
    for _ in range(2):
        assert start(ready) == ""
        assert ready.read("home/alice/.ssh/authorized_keys") == f"ssh-rsa OWN\n{KEY} 2\n{KEY}\n"


def test_links_in_the_home_are_refused(ready: Guest) -> None:
    ready.write("elsewhere/authorized_keys", "theirs")
    (ready.root / "home/alice").mkdir()
    (ready.root / "home/alice/.ssh").symlink_to(ready.root / "elsewhere")
    assert start(ready, 1) == "symbolic link in /home/alice/.ssh\n"
    (ready.root / "home/alice/.ssh").unlink()
    (ready.root / "home/alice/.ssh").mkdir()
    (ready.root / "home/alice/.ssh/authorized_keys").symlink_to(ready.root / "elsewhere/authorized_keys")
    assert start(ready, 1) == "symbolic link in /home/alice/.ssh\n"
    assert ready.read("elsewhere/authorized_keys") == "theirs"


def test_foreign_ssh_directory_is_refused(ready: Guest) -> None:
    ready.write("home/alice/.ssh/config", "")
    ready.functions["ls"] = "echo drwx------ 2 77 77 0 x"
    ready.functions["ls"] = f"case $2 in */.ssh) {ready.functions['ls']} ;; *) echo drwx------ 2 0 ;; esac"
    assert start(ready, 1) == "/home/alice/.ssh belongs to uid 77, not to alice\n"
    assert ready.read("dev/console") == "vmbatch: gave up: /home/alice/.ssh belongs to uid 77, not to alice\n"


def test_sshd_offers_the_key(ready: Guest) -> None:
    config = "Port 22\nHostKey /etc/ssh/ssh_host_rsa_key\nMatch User x\nX11Forwarding no\n"
    ready.write("etc/ssh/sshd_config", config, 0o600)
    for _ in range(2):
        assert start(ready) == ""
        assert ready.read("etc/ssh/sshd_config") == "HostKey /etc/ssh/ssh_host_ed25519_key\n" + config
    assert mode(ready, "etc/ssh/sshd_config") == 0o600
    default = "#HostKey /etc/ssh/ssh_host_rsa_key\nPort 22\n"
    ready.write("etc/ssh/sshd_config", default)
    assert start(ready) == ""
    assert ready.read("etc/ssh/sshd_config") == default


def test_running_sshd_takes_the_key(ready: Guest) -> None:
    ready.functions["kill"] = f'echo "$*" >>"{ready.root}/killed"'
    ready.write("run/sshd.pid", "77\n")
    assert start(ready) == ""
    ready.write("proc/77/stat", "77 (cron) S 1 77\n")
    assert start(ready) == ""
    assert not (ready.root / "killed").exists()
    ready.write("proc/77/stat", "77 (sshd) S 1 77\n")
    assert start(ready) == ""
    assert ready.read("killed") == "-HUP 77\n"


def test_dropbear(ready: Guest) -> None:
    (ready.root / "etc/ssh").rmdir()
    assert start(ready, 1).startswith("no place for the host key")
    (ready.root / "etc/dropbear").mkdir()
    ready.functions["dropbearconvert"] = '[ "$1 $2" = "openssh dropbear" ] && cat "$3" >"$4"'
    assert start(ready) == ""
    assert ready.read("etc/dropbear/dropbear_ed25519_host_key") == "PRIVATE\n"
    assert mode(ready, "etc/dropbear/dropbear_ed25519_host_key") == 0o600


def test_archives(ready: Guest) -> None:
    ready.add_to_medium("tar/list", "0 0 - /opt/a b\n1 2 - srv\n2 1 z /\n")
    ready.add_to_medium("tar/0.tar", archive(x__y="0"))
    ready.add_to_medium("tar/1.tar", archive(a__b__c="1", a__b__d__e="2"))
    ready.add_to_medium("tar/2.tar", gzip.compress(archive(top__etc__site="3")))
    assert start(ready) == ""
    found = [ready.read(name) for name in ("opt/a b/x/y", "srv/c", "srv/d/e", "etc/site")]
    assert found == ["0", "1", "2", "3"]
    assert mode(ready, "srv/c") == 0o640


def test_bad_archive(ready: Guest) -> None:
    ready.add_to_medium("tar/list", "7 1 - /opt\n")
    ready.add_to_medium("tar/7.tar", b"this is no archive" * 100)
    failed = start(ready, 1)
    assert failed.startswith("status ") and "while unpacking tar/7.tar to /opt: tar: " in failed


def test_site_scripts(ready: Guest) -> None:
    ready.add_to_medium("site/prolog.d/20-sh", f'echo "20 $VMBATCH_USER" >>"{ready.root}/trace"\n', 0o400)
    python = f"#!/usr/bin/python3 -IS\nopen('{ready.root}/trace', 'a').write('10\\n')\n"
    ready.add_to_medium("site/prolog.d/10-python", python, 0o500)
    ready.add_to_medium("site/prolog.d/9", f'cat; [ -f "{ready.root}/etc/passwd" ] && echo 9 >>"{ready.root}/trace"\n')
    ready.add_to_medium("site/epilog.d/1", "exit 1\n")
    assert start(ready) == ""
    assert ready.read("trace") == "10\n20 alice\n9\n"


def test_failing_site_script(ready: Guest) -> None:
    ready.add_to_medium("site/prolog.d/10-bad", "echo one >&2; echo 'no such disk' >&2; exit 3\n")
    ready.add_to_medium("site/prolog.d/20", f"touch {ready.root}/not-reached\n")
    assert start(ready, 1) == "status 3 while running site/prolog.d/10-bad: no such disk\n"
    assert not (ready.root / "not-reached").exists()
    (ready.medium / "site/prolog.d/10-bad").unlink()
    assert start(ready) == ""


def test_unusable_context(ready: Guest) -> None:
    (ready.medium / "parameters.sh").write_text("VMBATCH_USER='unbalanced\n")
    done = ready.run(ready.medium / "prolog.sh", "start")
    assert done.returncode != 0
    assert "while reading parameters.sh" in ready.read("var/lib/vmbatch/failed")
