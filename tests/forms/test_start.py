"""The lines that cloud-init runs in a guest, under every shell, with a folder for the guest's root."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbatch.context import cloudinit
from vmbatch.context.tree import Entry

INSTANCE = "01234567-89ab-4def-8123-456789abcdef"
OTHER = "11111111-89ab-4def-8123-456789abcdef"
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}


class Guest:
    """A root folder with devices that are files, and functions that only note how they are called.

    Functions, as busybox prefers its own programs to those in PATH.
    """

    def __init__(self, root: Path, shell: list[str]) -> None:
        self.root, self.shell = root, shell
        self.medium = root / "var/lib/vmbatch/medium"
        self.calls = root / "calls"
        self.functions: dict[str, str] = {}
        for folder in ("dev", "run", "proc/self", "var/lib/vmbatch"):
            (root / folder).mkdir(parents=True)
        for name in ("systemctl", "modprobe", "timeout"):
            self.program(name)
        self.program("mount", f'cp -R {root}/content/. "$6"')
        self.cgroup("0::/system.slice/other.service")
        (root / "content").mkdir()
        for name in ("prolog", "epilog"):
            (root / f"content/{name}.sh").write_text(f'echo "{name} $1 $PWD" >>{self.calls}\n')

    def program(self, name: str, body: str = ":") -> None:
        self.functions[name] = f'echo "{name} $*" >>{self.calls}\n{body}\n'

    def cgroup(self, text: str) -> None:
        (self.root / "proc/self/cgroup").write_text(text + "\n")

    def device(self, name: str, label: str, offset: int = 32808) -> Path:
        path = self.root / "dev" / name
        path.write_bytes(bytes(offset) + label.ljust(32).encode() + bytes(100))
        return path

    def run(self, text: str) -> list[str]:
        """Runs the lines, and waits for what they leave in the background; the calls."""
        for place in ("/dev/", "/run/", "/proc/", "/var/lib/"):
            text = text.replace(place, f"{self.root}{place}")
        text = text.replace(f"{self.root}/dev/null", "/dev/null")
        script = self.root / "script"
        script.write_text("".join(f"{name}() {{\n{body}}}\n" for name, body in self.functions.items()) + text)
        self.calls.write_text("")
        reader, writer = os.pipe()
        try:
            ended = subprocess.run([*self.shell, str(script)], cwd="/", capture_output=True, text=True, timeout=20, check=False,
                                   env={"PATH": os.environ["PATH"]}, pass_fds=(writer,))
            os.close(writer)
            os.read(reader, 1)
        finally:
            os.close(reader)
        self.said = ended.stderr
        return self.calls.read_text().splitlines()


@pytest.fixture(params=sorted(SHELLS))
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Guest:
    assert shutil.which(SHELLS[request.param][0])
    return Guest(tmp_path, SHELLS[request.param])


def start(*, epilog: bool = True, alone: bool = False, label: str = "cidata", instance: str = INSTANCE) -> str:
    return cloudinit.start(label, instance, epilog=epilog, alone=alone)


def test_mounts_and_runs_both(guest: Guest) -> None:
    device = guest.device("vdb", "cidata")
    assert guest.run(start()) == [f"mount -t iso9660 -o ro {device} {guest.medium}", "prolog start /", "epilog start /"]
    assert (guest.root / "var/lib/vmbatch/instance").read_text() == INSTANCE + "\n"
    assert guest.said == ""


def test_once_for_each_instance(guest: Guest) -> None:
    guest.device("vdb", "cidata")
    assert guest.run(start(epilog=False))[1:] == ["prolog start /"]
    assert guest.run(start(epilog=False)) == []
    assert guest.run(start(instance=OTHER)) == ["prolog start /", "epilog start /"]
    assert guest.run(start(instance=OTHER)) == []


def test_mounted_again_after_a_reboot_and_no_more(guest: Guest) -> None:
    guest.device("vdb", "cidata")
    guest.run(start())
    shutil.rmtree(guest.medium)
    assert [line.split()[0] for line in guest.run(start())] == ["mount"]


@pytest.mark.parametrize("name", ["sr0", "vdz", "sdb", "hdc", "xvdd", "disk/by-label/cidata"])
def test_devices(guest: Guest, name: str) -> None:
    (guest.root / "dev/disk/by-label").mkdir(parents=True)
    device = guest.device(name, "cidata")
    assert guest.run(start())[0] == f"mount -t iso9660 -o ro {device} {guest.medium}"


def test_only_the_whole_label_in_its_place(guest: Guest) -> None:
    guest.device("sr0", "cidata2")
    guest.device("sr1", "CIDATA")
    guest.device("vda", "cidata", offset=32807)
    (guest.root / "dev/vdb").write_bytes(b"short")
    (guest.root / "dev/vdc").write_bytes(os.urandom(40000))
    assert guest.run(start()) == []
    assert guest.said == "vmbatch: no medium with the label cidata\n"
    assert not (guest.root / "var/lib/vmbatch/instance").exists()
    device = guest.device("vdd", "cidata")
    assert guest.run(start())[0].split()[5] == str(device)


def test_the_module_of_the_file_system_is_loaded_if_need_be(guest: Guest) -> None:
    device = guest.device("vdb", "config-2")
    first = f"[ -f {guest.root}/second ] || {{ >{guest.root}/second; return 32; }}"
    guest.program("mount", f'{first}\ncp -R {guest.root}/content/. "$6"')
    again = f"mount -t iso9660 -o ro {device} {guest.medium}"
    assert guest.run(start(label="config-2"))[:4] == [again, "modprobe isofs", again, "prolog start /"]


def test_nothing_runs_from_what_cannot_be_mounted(guest: Guest) -> None:
    guest.device("vdb", "cidata")
    guest.program("mount", "return 32")
    assert [line.split()[0] for line in guest.run(start(alone=True))] == ["mount", "modprobe", "mount"]


def test_the_epilog_runs_though_the_prolog_failed(guest: Guest) -> None:
    """It tells the host why."""
    guest.device("vdb", "cidata")
    (guest.root / "content/prolog.sh").write_text("exit 1\n")
    assert guest.run(start())[1:] == ["epilog start /"]


def test_with_systemd_the_epilog_is_a_unit(guest: Guest) -> None:
    guest.device("vdb", "cidata")
    (guest.root / "run/systemd/system").mkdir(parents=True)
    assert guest.run(start())[1:] == ["prolog start /", "systemctl --no-block start vmbatch-epilog.service"]
    unit = (guest.root / "run/systemd/system/vmbatch-epilog.service").read_text().splitlines()
    assert f"ExecStart=/bin/sh {guest.medium}/epilog.sh start" in unit and "RemainAfterExit=yes" in unit
    assert unit[2].startswith("After=network.target ") and unit[2].endswith(" sshd.service")


def test_where_systemd_does_not_want_it(guest: Guest) -> None:
    guest.device("vdb", "cidata")
    (guest.root / "run/systemd/system").mkdir(parents=True)
    guest.program("systemctl", "return 1")
    assert guest.run(start())[-1] == "epilog start /"


def test_alone_it_waits_and_leaves_the_other_stages_out(guest: Guest) -> None:
    guest.device("vdb", "cidata")
    (guest.root / "run/systemd/system").mkdir(parents=True)
    guest.cgroup("1:name=systemd:/system.slice/cloud-init-local.service")
    assert guest.run(start(alone=True))[1:] == [
        "timeout 20 systemctl start local-fs.target systemd-sysusers.service",
        "prolog start /",
        "systemctl --no-block start vmbatch-epilog.service",
        "systemctl --no-block stop cloud-init.service cloud-config.service cloud-final.service"]


@pytest.mark.parametrize("unit", ["cloud-init.service", "cloud-init-main.service", "cloud-final.service"])
def test_no_stage_ever_stops_itself(guest: Guest, unit: str) -> None:
    guest.device("vdb", "cidata")
    guest.cgroup(f"0::/system.slice/{unit}")
    assert not [line for line in guest.run(start(alone=True)) if line.startswith("systemctl --no-block stop")]


def test_what_follows_in_bootcmd(guest: Guest) -> None:
    """It is one script: the site's commands see neither our variables nor our end."""
    guest.device("vdb", "cidata")
    after = f'echo "after $medium$device$before" >>{guest.calls}\n'
    assert "after " in guest.run(start() + after)
    assert guest.run(start() + after) == ["after "]
    shutil.rmtree(guest.medium)
    assert guest.run(start(label="other", instance=OTHER) + after) == ["after "]


@pytest.mark.parametrize("alone", [False, True])
def test_shellcheck(alone: bool, tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text("#!/bin/sh\n" + start(alone=alone))
    ended = subprocess.run(["shellcheck", "-s", "sh", str(script)], capture_output=True, text=True, check=False)
    assert ended.stdout == ""


def test_the_real_medium_has_its_label_there(medium: Callable[[str, tuple[Entry, ...]], Path]) -> None:
    with open(medium("config-2", ()), "rb") as image:
        image.seek(32808)
        assert image.read(32) == b"config-2".ljust(32)
