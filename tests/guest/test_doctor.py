"""`vmbatch doctor` on a node: a sound one, one with a fault at a time, and guests booted without a job."""

import contextlib
import hashlib
import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import init, leftover, place
from vmbatch.doctor.checks import CHECKS, READ
from vmbatch.errors import NodeError
from vmbatch.host import nfs
from vmbatch.units import Deadline

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "sound")]

VMBATCH = str(place.ENVIRONMENT / "bin/vmbatch")
CONFIG = Path("/etc/vmbatch/vmbatch.conf")
DOMAINS = Path("/etc/vmbatch/domains")
MOM = place.MOM / "mom_priv"
HOOK = place.PBS / "mom_priv/hooks/vmbatch.HK"
CRON = Path("/etc/cron.d/vmbatch")
MACHINE = {"clock"}
"""What the machine decides on which the suite runs."""


@contextlib.contextmanager
def replaced(path: Path, text: str) -> Iterator[None]:
    """Another content for a file, which may be new, for a while."""
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


@contextlib.contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    text = path.read_text()
    assert old in text
    with replaced(path, text.replace(old, new, 1)):
        yield


@contextlib.contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = path.stat().st_mode & 0o7777
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


@contextlib.contextmanager
def template(disk: str) -> Iterator[None]:
    """One more template, the lab's smallest with a disk more, of a queue of its own."""
    text = (DOMAINS / "busybox.xml").read_text().replace("<devices>", f"<devices>{disk}", 1)
    with replaced(DOMAINS / "faulty.xml", text), changed(CONFIG, "[queues]\n", "[queues]\nfaulty = \"faulty.xml\"\n"):
        yield


def image_disk(source: str, more: str = "") -> str:
    return (f"<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
            f"<vbdisksource source='{source}' copy_method='cow'/>{more}<target dev='vdc' bus='virtio'/></disk>")


@pytest.fixture(scope="module")
def sound() -> Iterator[None]:
    """What a site adds to the lab's node: mom's job starter, the hook in OpenPBS's mom, the sweep in cron."""
    with (replaced(MOM / "config", f"$prologalarm 300\n$job_starter {MOM}/remoteshell\n"),
          replaced(HOOK, "hook_name=vmbatch\nalarm=600\nevent=execjob_begin,execjob_prologue,execjob_launch,execjob_end\n"),
          replaced(CRON, f"*/15 * * * * root {VMBATCH} sweep\n@reboot root {VMBATCH} sweep\n")):
        yield


class Said:
    """What `vmbatch doctor --json` said."""

    def __init__(self, *options: str, uid: int = 0) -> None:
        begin = time.monotonic()
        account = pwd.getpwuid(uid)
        done = subprocess.run([*place.VMBATCH, "doctor", "--json", *options], capture_output=True, text=True, check=False,
                              user=uid, group=account.pw_gid, extra_groups=[], cwd="/")
        self.seconds = time.monotonic() - begin
        self.status = done.returncode
        assert done.stdout, done.stderr
        self.whole: dict[str, Any] = json.loads(done.stdout)
        self.findings: list[dict[str, str]] = self.whole["findings"]

    def wrong(self) -> list[tuple[str, str, str]]:
        """(check, level, found) of all that is not ok, but for what the machine decides."""
        return [(each["check"], each["level"], each["found"]) for each in self.findings
                if each["level"] != "ok" and each["check"] not in MACHINE]

    def only(self, check: str, level: str, words: str) -> dict[str, str]:
        """The one finding that is not ok."""
        assert [(name, how) for name, how, _ in self.wrong()] == [(check, level)], self.wrong()
        found = next(each for each in self.findings if each["check"] == check and each["level"] == level)
        assert words in found["found"]
        assert found["advice"]
        assert self.status == {"warning": 1, "error": 2}[level]
        return found


def test_a_sound_node() -> None:
    said = Said("--user", "alice")
    assert said.wrong() == []
    assert said.status in (0, 1)  # by the machine's clock alone
    assert {each["check"] for each in said.findings} == {*READ, *(check.name for check in CHECKS)}
    assert said.seconds < 15


def test_its_json() -> None:
    whole = Said("--only", "libvirt", "--only", "templates").whole
    assert set(whole) == {"node", "time", "level", "findings", "left_out", "boot"}
    assert (whole["node"], whole["level"], whole["boot"]) == (os.uname().nodename, "ok", None)
    assert abs(whole["time"] - time.time()) < 60
    assert [set(each) for each in whole["findings"]] == [{"check", "level", "found", "advice"}] * 2
    assert [each["check"] for each in whole["findings"]] == ["templates", "libvirt"]
    assert whole["left_out"] == []


def test_what_people_and_monitoring_read() -> None:
    shown = subprocess.run([VMBATCH, "doctor", "--only", "share"], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout) == (
        0, f"ok       share         {place.SHARE} has mode 0711 and can be written to\n\n1 ok, 0 warnings, 0 errors\n")
    brief = [VMBATCH, "doctor", "--brief", "--only", "share"]
    assert subprocess.run(brief, capture_output=True, text=True,
                          check=False).stdout == "VMBATCH OK - all is as it should be: 1 condition\n"
    with mode(place.SHARE, 0o755):
        done = subprocess.run(brief, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.count("\n")) == (2, 1)
        assert done.stdout.startswith(f"VMBATCH ERROR - error share: the share {place.SHARE} has mode 0755")


def test_a_check_that_is_none() -> None:
    done = subprocess.run([VMBATCH, "doctor", "--only", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no check nonsense; there are configuration, templates, libvirt" in done.stderr


def test_who_is_not_root() -> None:
    said = Said(uid=1500)
    only_root = {check.name for check in CHECKS if check.root}
    told = {each["check"] for each in said.findings if each["found"] == "only root can tell"}
    assert told == only_root
    assert [each for each in said.wrong() if each[0] not in only_root] == []
    assert said.status == 1


def test_settings_that_others_can_change() -> None:
    with mode(CONFIG, 0o666):
        said = Said()
        found = said.only("configuration", "error", "/etc/vmbatch/vmbatch.conf can be changed by others than root (mode 0666)")
        assert found["advice"] == "chmod go-w /etc/vmbatch/vmbatch.conf"
        assert {each["check"] for each in said.findings} == {"configuration",
                                                             *(each.name for each in CHECKS if not each.settings)}


def test_a_setting_that_is_none() -> None:
    with changed(CONFIG, "[share]\n", "[share]\nsauce = \"x\"\n"):
        assert "share.source" in Said().only("configuration", "error", "share.sauce: unknown setting")["found"]


def test_a_template_with_a_mistake() -> None:
    with changed(DOMAINS / "copy.xml", "<memory", "<vbnonsense/><memory"):
        Said().only("templates", "error", "copy.xml:")
        shown = subprocess.run([*place.VMBATCH, "doctor", "--only", "templates"], capture_output=True, text=True, check=False)
        assert shown.stdout.splitlines()[-1] == "Once the templates are mended, look again: what only they need was not looked at"


def test_a_network_that_is_down() -> None:
    """The share's server has its address there, so it does not answer either."""
    subprocess.run(["virsh", "-q", "net-destroy", "lab"], check=True)
    try:
        said = Said()
    finally:
        subprocess.run(["virsh", "-q", "net-create", str(init.DAEMONS / "network.xml")], check=True)
    assert said.status == 2
    assert {name for name, _, _ in said.wrong()} == {"networks", "nfs"}
    assert ("networks", "error", "libvirt has no network lab") in said.wrong()


def test_a_share_that_shows_others_names() -> None:
    with mode(place.SHARE, 0o755):
        Said().only("share", "error", "has mode 0755")


def test_a_share_that_is_not_exported() -> None:
    with changed(CONFIG, "10.77.0.1:/share", "10.77.0.1:/nowhere"):
        Said().only("nfs", "error", "the NFS server 10.77.0.1, asked for /nowhere, has nothing there")


def test_a_server_that_is_none() -> None:
    with changed(CONFIG, "10.77.0.1:/share", "10.77.0.99:/share"):
        said = Said()
    assert [name for name, _, _ in said.wrong()] == ["nfs"]
    assert said.seconds < 20


def test_the_labs_server_is_asked_as_guests_ask() -> None:
    nfs.check("10.77.0.1", "/share", Deadline(30))
    nfs.ping("10.77.0.1", 3, Deadline(30))
    with pytest.raises(nfs.NotShownError, match="has nothing there"):
        nfs.check("10.77.0.1", "/share/nothing/here", Deadline(30))
    with pytest.raises(NodeError):
        nfs.ping("10.77.0.1", 7, Deadline(30))


def test_a_spool_that_others_can_change() -> None:
    spool = Path("/var/lib/vmbatch/spool")
    spool.mkdir(mode=0o711, parents=True, exist_ok=True)
    with mode(spool, 0o777):
        Said().only("spool", "error", "can be changed by others than root")


def test_a_disk_that_is_full() -> None:
    with replaced(CONFIG, CONFIG.read_text() + "\n[spool]\nkeep_free = \"1000T\"\n"):
        said = Said()
    assert {name for name, _, _ in said.wrong()} == {"spool", "room"}
    assert any("no guest would be started now" in found for _, _, found in said.wrong())


def test_a_program_that_is_missing() -> None:
    with replaced(CONFIG, CONFIG.read_text() + "\n[images]\nhash_programs = [\"/usr/bin/no-such-sum\"]\n"):
        Said().only("tools", "error", "/usr/bin/no-such-sum is not there")


def test_an_alarm_that_is_too_short() -> None:
    with replaced(MOM / "config", f"$prologalarm 60\n$job_starter {MOM}/remoteshell\n"):
        found = Said().only("torque", "warning", "a guest has 35 s to boot, and [timeouts] boot = 240 s")
        assert found["advice"] == "$prologalarm 265, and restart pbs_mom"


def test_a_mom_without_a_job_starter() -> None:
    with replaced(MOM / "config", "$prologalarm 300\n"):
        Said().only("torque", "error", "has no $job_starter")


def test_a_hook_that_is_another() -> None:
    with replaced(MOM / "epilogue", "#!/bin/sh\n"):
        assert "epilogue.site" in Said().only("torque", "error", f"{MOM}/epilogue is not VmBatch's")["advice"]


def test_a_mom_whose_hook_is_for_another_event() -> None:
    with replaced(HOOK, "hook_name=vmbatch\nalarm=600\nevent=execjob_begin\n"):
        Said().only("openpbs", "error", "does not listen to execjob_launch")


def test_an_image_that_is_missing() -> None:
    with template(image_disk("/srv/vmbatch/nowhere.raw")):
        Said().only("images", "error", "faulty.xml vdc: ")


def test_an_image_with_another_digest(tmp_path: Path) -> None:
    image = Path("/srv/vmbatch/doctor.raw")
    image.write_bytes(bytes(1 << 20))
    right = hashlib.sha256(bytes(1 << 20)).hexdigest()
    try:
        for digest, whole, level, words in (
            (right, (), "warning", "not compared with its digest yet"),
            ("0" * 64, ("--images",), "error", f"has the sha256 {right}"),
        ):
            more = f"<vbcheckhash hashfunction='sha256' hashvalue='{digest}'/>"
            with template(image_disk(str(image), more)):
                Said(*whole).only("digests", level, words)
        with template(image_disk(str(image), f"<vbcheckhash hashfunction='sha256' hashvalue='{right}'/>")):
            assert Said("--images").wrong() == []
    finally:
        image.unlink()


def test_a_guest_that_never_fits() -> None:
    with changed(DOMAINS / "copy.xml", "<memory unit='MiB'>", "<memory unit='GiB'>9"):
        Said().only("room", "error", "copy.xml: a guest needs 9")


def test_what_slows_guests() -> None:
    """A template, and a network of libvirt's; nothing of that is wrong."""
    slow = Path("/run/slow-network.xml")
    slow.write_text("<network><name>slow</name><bridge name='slowbr0'/><ip address='10.81.0.1' netmask='255.255.255.0'>"
                    "<dhcp><range start='10.81.0.2' end='10.81.0.99'/></dhcp></ip></network>")
    text = (DOMAINS / "busybox.xml").read_text().replace("<source network='lab'/>", "<source network='slow'/>")
    text = text.replace("</cmdline>", "</cmdline><bootmenu enable='yes' timeout='4000'/>")
    subprocess.run(["virsh", "-q", "net-create", str(slow)], check=True)
    try:
        with replaced(DOMAINS / "slow.xml", text), changed(CONFIG, "[queues]\n", "[queues]\nslow = \"slow.xml\"\n"):
            said = Said("--only", "delays")
    finally:
        subprocess.run(["virsh", "-q", "net-destroy", "slow"], check=True)
        slow.unlink()
    assert (said.status, said.wrong()) == (0, [])
    told = {each["found"]: each["advice"] for each in said.findings}
    assert told["slow.xml: a start could take about 4.0 s less (boot-menu)"] == f"vmbatch check {DOMAINS}/slow.xml says more"
    assert "no-ping" in told["the DHCP of libvirt's network slow lets each guest wait 3 s for its address"]
    assert not any("network lab" in found for found in told)


def test_a_sweep_that_nobody_runs() -> None:
    with replaced(CRON, "# nothing\n"):
        Said().only("timers", "warning", "nothing runs vmbatch sweep")


def test_a_user_that_is_refused() -> None:
    with replaced(CONFIG, CONFIG.read_text() + "\n[users]\ndeny = [\"alice\"]\n"):
        said = Said("--user", "alice")
        said.only("user", "error", "jobs of alice (uid 1500) are refused")


NEEDS_LIBVIRT = {"plans", "emulators", "accounts", "networks", "filters", "saved", "room", "delays", "leftovers"}


def test_a_libvirtd_that_hangs() -> None:
    """What asks libvirt says so in time, and the others as ever."""
    number = next(int(entry.name) for entry in Path("/proc").iterdir()
                  if entry.name.isdigit() and (entry / "comm").read_text() == "libvirtd\n")
    os.kill(number, signal.SIGSTOP)
    try:
        said = Said()
    finally:
        os.kill(number, signal.SIGCONT)
    assert said.seconds < 35
    said.only("libvirt", "error", "no answer in time")
    assert set(said.whole["left_out"]) == NEEDS_LIBVIRT


def test_a_libvirtd_that_is_not_there() -> None:
    socket, aside = Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/aside")
    socket.rename(aside)
    try:
        said = Said()
    finally:
        aside.rename(socket)
    assert set(said.whole["left_out"]) == NEEDS_LIBVIRT
    assert "is libvirtd running on this node?" in said.only("libvirt", "error",
                                                            "libvirt at qemu:///system does not answer")["advice"]


# booting

PHASES = {"admission", "images", "turn", "disks", "context", "start", "boot", "guest kernel", "guest boot", "guest network",
          "guest shares", "login", "ready", "release"}


def test_a_guest_without_a_job() -> None:
    said = Said("--only", "libvirt", "--boot", "busybox", "--user", "alice")
    assert said.wrong() == []
    assert said.status == 0
    boot = next(each for each in said.findings if each["check"] == "boot")
    assert boot["found"].startswith("busybox.xml: alice could log in after ")
    phases = {each["name"]: each["seconds"] for each in said.whole["boot"]}
    assert phases.keys() >= PHASES, phases.keys()
    assert phases["boot"] > phases["guest kernel"] > 0


def test_a_guest_that_panics() -> None:
    done = subprocess.run([VMBATCH, "doctor", "--only", "libvirt", "--boot", str(DOMAINS / "panic.xml"), "--user", "alice"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ERROR    boot          panic.xml: " in done.stdout
    assert "the guest's console ended with:" in done.stdout
    assert "1 ok, 0 warnings, 1 error" in done.stdout


@pytest.mark.parametrize(("options", "words"), [
    (("--boot", "busybox"), "--boot needs --user"),
    (("--boot", "busybox", "--user", "nobody-such"), "this node knows no user nobody-such"),
])
def test_a_boot_that_cannot_begin(options: tuple[str, ...], words: str) -> None:
    done = subprocess.run([VMBATCH, "doctor", "--only", "libvirt", *options], capture_output=True, text=True, check=False,
                          env={name: value for name, value in os.environ.items() if name != "SUDO_USER"})
    assert done.returncode == 2
    assert words in done.stderr


def test_a_user_that_is_roots() -> None:
    said = Said("--only", "libvirt", "--boot", "busybox", "--user", "root")
    said.only("boot", "error", "jobs of root do not run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_boot_that_is_interrupted(number: signal.Signals) -> None:
    running = begun()
    running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors == "vmbatch: interrupted; the guest is removed\n"
    assert leftover.found() == []


def test_a_boot_that_is_killed() -> None:
    """The next sweep finds what it leaves, and so does doctor."""
    running = begun()
    running.kill()
    running.communicate(timeout=60)
    said = Said("--only", "leftovers")
    assert said.status == 1
    assert any("would release job" in found and ".doctor of alice: dead" in found for _, _, found in said.wrong()), said.wrong()
    subprocess.run([VMBATCH, "sweep"], check=True, capture_output=True)


def begun() -> "subprocess.Popen[str]":
    """A boot whose guest runs by now."""
    running = subprocess.Popen([VMBATCH, "doctor", "--only", "libvirt", "--boot", "busybox", "--user", "alice"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("  start "):
            return running
    raise AssertionError(running.communicate()[1])
