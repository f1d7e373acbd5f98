"""What each check makes of what it has seen: level, words, and what to do."""

import errno
import ipaddress
import os
import re
from pathlib import Path

import msgspec
import pytest

from vmbatch import drain, journal, resume
from vmbatch.admission import Room
from vmbatch.claim import Claim
from vmbatch.config import Config
from vmbatch.doctor import batch, checks, hypervisor, images, networks, node, room, settings, share, storage, tools
from vmbatch.doctor.finding import LEVELS, Finding, Site, error, of_error, ok, warning, worst
from vmbatch.errors import InputError, NodeError
from vmbatch.facts import Facts
from vmbatch.grant import Grant
from vmbatch.host import acl, clock, file
from vmbatch.host.virtnet import Network
from vmbatch.image.saved import Saved
from vmbatch.record import Waits
from vmbatch.template import Template

from .sample import TEMPLATE, facts, form
from .sample import settings as configured

GIB = 1 << 30
CONFIG = configured()


def one(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def test_levels_are_exit_statuses_and_the_worst_counts() -> None:
    assert [LEVELS.index(level) for level in ("ok", "warning", "error")] == [0, 1, 2]
    assert worst([]) == "ok"
    assert worst([ok("a"), warning("b"), ok("c")]) == "warning"
    assert worst([warning("b"), error("d"), ok("c")]) == "error"


def test_a_finding_for_each_mistake_of_a_file() -> None:
    wrong = InputError("/etc/v.conf", [(3, "bad"), (0, "worse")], "do this")
    assert [(each.found, each.advice) for each in of_error(wrong)] == [("/etc/v.conf: worse", "do this"),
                                                                       ("/etc/v.conf:3: bad", "do this")]
    assert of_error(NodeError("broken", "mend it")) == [error("broken", "mend it")]


def test_every_check_has_a_name_of_its_own_and_says_what_it_looks_at() -> None:
    names = [*checks.READ, *(check.name for check in checks.CHECKS)]
    assert len(names) == len(set(names))
    assert all(name.islower() and name.isalpha() and len(name) <= 13 for name in names)
    assert all(check.about and not check.about.endswith(".") for check in checks.CHECKS)


# settings

def test_settings_that_fit() -> None:
    config = configured(queues={"vm": ("a.xml", "b.xml"), "large": ("b.xml",)}, types={"big": "b.xml"}, features={"el": "a.xml"})
    assert list(settings.judge(config, "v.conf")) == [ok("v.conf: queues large vm")]


def test_no_queue_and_a_template_of_none() -> None:
    found = list(settings.judge(configured(types={"big": "b.xml"}), "v.conf"))
    assert [each.level for each in found] == ["warning", "warning"]
    assert found[0].found == "v.conf gives no queue a template, so no job gets a guest"
    assert found[1].found == "[types] big = b.xml: no queue has this template"


# hypervisor

KVM = hypervisor.Kvm(0, processor=True, refused="")


def test_kvm_that_can_be_used() -> None:
    assert one(list(hypervisor.judge_kvm(KVM, ["a.xml"], []))).level == "ok"


@pytest.mark.parametrize(("found", "said", "advice"), [
    (hypervisor.Kvm(errno.ENOENT, processor=False, refused=""), "the processor offers no virtualization", "firmware"),
    (hypervisor.Kvm(errno.ENOENT, processor=True, refused=""), "/dev/kvm is not there: a.xml cannot start", "modprobe"),
    (hypervisor.Kvm(errno.EACCES, processor=True, refused=""), "Permission denied", "chgrp kvm"),
    (hypervisor.Kvm(0, processor=True, refused="libvirt has no domains of type kvm: x"), "no domains of type kvm",
     "domcapabilities"),
])
def test_kvm_that_cannot(found: hypervisor.Kvm, said: str, advice: str) -> None:
    finding = one(list(hypervisor.judge_kvm(found, ["a.xml"], [])))
    assert finding.level == "error"
    assert said in finding.found
    assert advice in finding.advice


def test_emulation_where_kvm_is_there() -> None:
    assert one(list(hypervisor.judge_kvm(KVM, [], ["q.xml"]))) == warning(
        "q.xml: guests are emulated, and /dev/kvm is there", "with <domain type='kvm'> they are many times faster")
    assert list(hypervisor.judge_kvm(hypervisor.Kvm(errno.ENOENT, processor=False, refused=""), [], ["q.xml"])) == []


CAPABILITIES = ("<capabilities><host><secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+{0}:+{0}</baselabel>"
                "</secmodel></host></capabilities>")


def test_the_account_of_guests() -> None:
    good = one(list(hypervisor.judge_accounts("#user = \"root\"\nremember_owner = 0\n", CAPABILITIES.format(64055))))
    assert good == ok("guests' QEMUs run as uid 64055 and gid 64055; security drivers: dac")
    assert one(list(hypervisor.judge_accounts("dynamic_ownership = 0", CAPABILITIES.format(64055)))).level == "error"
    assert one(list(hypervisor.judge_accounts("", CAPABILITIES.format(0)))).level == "warning"


# networks

NET = "<network><bridge name='br'/><ip address='10.0.0.1'><dhcp><range start='10.0.0.2' end='10.0.0.9'/></dhcp></ip></network>"


@pytest.mark.parametrize(("found", "dhcp", "level", "said"), [
    (Network(True, True, NET, 2), networks.Dhcp(8, 2), "ok", "net is active: DHCP has 8 addresses, 6 of them free"),
    (Network(False), networks.Dhcp(0, 0), "error", "libvirt has no network net"),
    (Network(True, False, NET), networks.Dhcp(8, 0), "error", "libvirt's network net is not active"),
    (Network(True, True, NET, 8), networks.Dhcp(8, 8), "error", "net is active: DHCP has 8 addresses, 0 of them free"),
    (Network(True, True, NET, 8), None, "ok", "net is active"),
    (Network(True, True, "<network><forward mode='bridge'/></network>"), networks.Dhcp(0, 0), "ok",
     "net is active; its DHCP is not libvirt's"),
])
def test_networks(found: Network, dhcp: networks.Dhcp | None, level: str, said: str) -> None:
    finding = networks.judge_network("net", found, dhcp, CONFIG)
    assert (finding.level, finding.found) == (level, said)


def test_fewer_addresses_than_guests() -> None:
    finding = networks.judge_network("net", Network(True, True, NET, 0), networks.Dhcp(8, 0), configured(admission_slots=9))
    assert (finding.level, finding.advice) == ("warning", "[admission] slots = 9: make the range larger")


FILTERING = networks.Filtering(True, "", (), (10, 100), ())


@pytest.mark.parametrize(("changed", "level", "said"), [
    ({}, "ok", "nft can filter"),
    ({"refused": "nft is not on this node"}, "error", "nft is not on this node"),
    ({"unguarded": ("ovs",)}, "error", "no filter can guard the network ovs"),
    ({"connections": (81, 100)}, "warning", "81 of 100 entries"),
    ({"connections": None}, "ok", "nft can filter"),
    ({"bridged": ("iptables",)}, "warning", "passes this node's iptables"),
])
def test_filters(changed: dict[str, object], level: str, said: str) -> None:
    finding = one(list(networks.judge_filters(msgspec.structs.replace(FILTERING, **changed), CONFIG)))
    assert finding.level == level
    assert said in finding.found


def test_no_filters_by_the_sites_will() -> None:
    found = one(list(networks.judge_filters(networks.Filtering(False, "", (), None, ()), configured(network_filter=False))))
    assert found.level == "warning"
    assert list(networks.judge_filters(networks.Filtering(False, "", (), None, ()), CONFIG)) == []


# share

PLACE = share.Place(0, 0o711, mounted=True, readonly=False)


@pytest.mark.parametrize(("changed", "level", "said"), [
    ({}, "ok", "has mode 0711 and can be written to"),
    ({"owner": 1000}, "error", "owner 1000: it must be root's"),
    ({"mode": 0o755}, "error", "show no guest the names of others' directories"),
    ({"mode": 0o700}, "error", "guests cannot enter their parts"),
    ({"readonly": True}, "error", "is read-only"),
    ({"mounted": False}, "error", "is not mounted"),
    ({"skew": 9.2}, "warning", "server is 9 s ahead of this node's"),
    ({"skew": -60.0}, "warning", "server is 60 s behind this node's"),
])
def test_the_share(changed: dict[str, object], level: str, said: str) -> None:
    finding = one(list(share.judge_directory(msgspec.structs.replace(PLACE, **changed), configured(share_local=False))))
    assert finding.level == level
    assert said in finding.found


def test_the_share_is_looked_at_where_no_template_can_be_read() -> None:
    nowhere = "/nonexistent/share"
    assert list(share.directory(Site(configured(share_directory=nowhere), ()))) == []
    found = one(list(share.directory(Site(configured(share_directory=nowhere, queues={"vm": ("broken.xml",)}), ()))))
    assert (found.level, nowhere in found.found) == ("error", True)


def test_a_share_of_this_node_needs_no_mount() -> None:
    assert one(list(share.judge_directory(msgspec.structs.replace(PLACE, mounted=False), CONFIG))).level == "ok"


@pytest.mark.parametrize(("source", "parts"), [
    ("10.0.0.1:/share", ("10.0.0.1", "/share")), ("[fd00::1]:/a/b", ("fd00::1", "/a/b")),
    ("nfs.example.org:/", ("nfs.example.org", "/")),
    ("", ("", "")), ("server", ("", "")), ("a:b:/c", ("", "")), ("server:share", ("", "")),
])
def test_the_source_of_a_share(source: str, parts: tuple[str, str]) -> None:
    assert share.split(source) == parts


ETAB = ("/srv/vmbatch/share\t192.168.122.0/24(rw,sync,wdelay,hide,nocrossmnt,secure,root_squash,no_all_squash,no_subtree_check,"
        "anonuid=65534,anongid=65534,sec=sys,rw,secure,root_squash,no_all_squash)\n/srv/a\\040b\t*(ro,root_squash)\n")
GUESTS = [ipaddress.ip_network("192.168.122.64/26")]


def test_the_kernels_exports() -> None:
    table = share.exports(ETAB)
    assert [(each.path, each.client) for each in table] == [("/srv/vmbatch/share", "192.168.122.0/24"), ("/srv/a b", "*")]
    assert one(list(share.judge_exports(table, CONFIG, GUESTS))) == ok("/srv/vmbatch/share is exported to 192.168.122.0/24")


@pytest.mark.parametrize(("table", "said"), [
    ("", "is not exported"),
    (ETAB.replace("vmbatch/share", "vmbatch/shar"), "is not exported"),
    (ETAB.replace("192.168.122.0", "192.168.123.0"), "is not exported to 192.168.122.64/26, where guests are"),
    (ETAB.replace("rw,", ""), "is exported read-only"),
    (ETAB.replace("root_squash", "no_root_squash"), "root of a guest is root there"),
    (ETAB.replace("anonuid=65534", "anonuid=99"), "guests' root is another uid there"),
])
def test_exports_that_guests_cannot_use(table: str, said: str) -> None:
    finding = one(list(share.judge_exports(share.exports(table), CONFIG, GUESTS)))
    assert finding.level == "error"
    assert said in finding.found
    assert "exportfs -r" in finding.advice


def test_exports_by_a_directory_above_and_by_name() -> None:
    table = share.exports("/srv\tnodes.example.org(rw,root_squash,anonuid=65534)\n/srv\t@guests(rw,all_squash)\n")
    assert one(list(share.judge_exports(table, CONFIG, GUESTS))).level == "ok"


def test_ports_that_a_filter_shuts() -> None:
    assert list(share.judge_ports("10.0.0.1", CONFIG, ["10.0.0.1"])) == []
    assert "has not its port 2049" in one(list(share.judge_ports("10.0.0.1", configured(network_services=(53,)),
                                                                 ["10.0.0.1"]))).found
    assert list(share.judge_ports("10.0.0.9", configured(network_services=(53,)), ["10.0.0.1"])) == []
    assert "keeps guests from" in one(list(share.judge_ports("10.0.0.9", configured(network_closed=("10.0.0.0/24",)), []))).found
    assert list(share.judge_ports("10.0.0.1", configured(network_services=(), network_filter=False), ["10.0.0.1"])) == []


# storage

ROOM = storage.Place("/var/spool", 0, 0o711, readonly=False, free=5 * GIB, inodes=1000)


@pytest.mark.parametrize(("changed", "level", "said"), [
    ({}, "ok", "/var/spool: 5.0 GiB free"),
    ({"path": "/var"}, "ok", "/var/spool: 5.0 GiB free; it is made when the first job comes"),
    ({"owner": 7}, "error", "can be changed by others than root (mode 0711, owner 7)"),
    ({"mode": 0o777}, "error", "can be changed by others than root (mode 0777, owner 0)"),
    ({"readonly": True}, "error", "read-only"),
    ({"free": GIB - 1}, "error", "/var/spool: 1.0 GiB free"),
    ({"inodes": 3}, "error", "3 inodes free"),
    ({"inodes": None}, "ok", "5.0 GiB free"),
    ({"shut": "/var"}, "error", "/var cannot be entered by others"),
])
def test_a_directory(changed: dict[str, object], level: str, said: str) -> None:
    finding = storage.judge(msgspec.structs.replace(ROOM, **changed), "/var/spool", GIB, "spool.keep_free", open_to_qemu=True)
    assert finding.level == level
    assert said in finding.found


def test_a_directory_is_seen(tmp_path: Path) -> None:
    found = storage.look(str(tmp_path / "not/there"))
    assert (found.path, found.owner, found.readonly) == (str(tmp_path), os.getuid(), False)
    (tmp_path / "shut").mkdir(mode=0o700)
    assert storage.look(str(tmp_path / "shut")).shut


# tools

def test_the_programs_that_are_needed() -> None:
    always = {"setpriv", "prlimit", "ssh", "ssh-keygen"}
    assert set(tools.needed(Site(CONFIG, (form(),)))) == always
    blank = TEMPLATE.replace("<vbdisksource source='/srv/images/base.raw' copy_method='cow'/>",
                             "<vbdisksource source='scratch' create='always' size='1024' format='qcow2' filesystem='xfs'/>")
    assert blank != TEMPLATE
    assert tools.needed(Site(CONFIG, (form(blank),))).keys() - always == {"mkfs.xfs", "qemu-img"}
    assert tools.needed(Site(configured(userimages_signers="CN=.*"), ())).keys() - always == {"openssl"}


# images

def test_images_on_servers() -> None:
    assert images.judge_servers("a.xml vda", images.Answers({"http://a/x": ""}, None)) == ok("http://a/x")
    assert images.judge_servers("a.xml vda", images.Answers({"http://a/x": ""}, 0.0)) == ok("http://a/x (in the store)")
    half = images.judge_servers("a.xml vda",
                                images.Answers({"http://a/x": "http://a/x: the server answers 404", "http://b/x": ""}, None))
    assert (half.level, half.found) == ("warning", "a.xml vda: http://a/x: the server answers 404; others have it")
    old = images.judge_servers("a.xml vda", images.Answers({"http://a/x": "http://a/x: gone"}, 0.0))
    assert old.level == "warning"
    assert "jobs get the image of 19" in old.found
    assert images.judge_servers("a.xml vda", images.Answers({"http://a/x": "http://a/x: gone"}, None)).level == "error"


def test_saved_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of templates that boot nothing is said, and of those of which others have said what is wrong."""
    text = TEMPLATE.replace("<vbhypervisor>", "<vbstart>RESUME</vbstart><vbhypervisor>")
    forms = [msgspec.structs.replace(form(text), path=f"/{name}.xml") for name in ("has", "lacks", "broken", "also")]

    def seen(template: Template, _token: str, _config: Config) -> Facts:
        if template.path == "/broken.xml":
            raise NodeError("the image is not there")
        return msgspec.structs.replace(facts(), node=template.path)

    def sought(known: Facts, _form: Template, _granted: Grant, _config: Config) -> Facts:
        return msgspec.structs.replace(known, **({"booted": "the guest is booted: why"} if known.node == "/lacks.xml" else
                                                 {"saved": Saved("/store/saved/key", None)}))  # type: ignore[arg-type]

    monkeypatch.setattr(images, "look", seen)
    monkeypatch.setattr(resume, "look", sought)
    missing, there = images.saved(Site(CONFIG, (form(), *forms)))
    assert missing == warning("/lacks.xml: the guest is booted: why",
                              "vmbatch save --all; vmbatch-save.timer runs it every night")
    assert there == ok("a guest is saved of /has.xml /also.xml")
    assert list(images.saved(Site(CONFIG, (form(),)))) == []


def test_guests_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few, enough, too old ones, and templates of which none can."""
    pooled = form(TEMPLATE.replace("<vbhypervisor>", "<vbstart size='2'>POOL</vbstart><vbhypervisor>"))
    few, enough, never = (msgspec.structs.replace(pooled, path=f"/{name}.xml") for name in ("few", "enough", "never"))
    never = msgspec.structs.replace(never, console_shell="hvc0")

    def waits(path: str, seconds: float = 60.0) -> tuple[str, None, Waits]:
        return "", None, Waits(path, "key", "10.0.0.9", (), clock.boot_id(), clock.uptime() + seconds)

    there = [waits("/few.xml"), waits("/few.xml", -1.0), waits("/enough.xml"), waits("/enough.xml")]
    monkeypatch.setattr(journal, "waiting", lambda: there)
    lacking, cannot, fine = images.waiting(Site(CONFIG, (form(), few, never, enough)))
    assert lacking == warning("/few.xml: 1 of 2 guests wait for jobs",
                              "vmbatch pool refill says why; vmbatch-pool.path and vmbatch-pool.timer run it")
    assert (cannot.level, "<vbshell>CONSOLE</vbshell>" in cannot.found) == ("warning", True)
    assert fine == ok("guests wait for jobs: 2 of /enough.xml")
    assert list(images.waiting(Site(CONFIG, (form(),)))) == []


# room

ME = clock.ProcessIdentity(1, 1, "boot")


def claim(cores: int, mebibytes: int) -> Claim:
    return Claim(directory="/x", token="", job="1", cores=cores, memory=mebibytes << 20, asked=0.0, owner=ME)


def test_room_for_guests() -> None:
    forms = (form(),)  # 1 processor, 512 MiB and 128 for the hypervisor
    assert list(room.judge(forms, Room(2, 4, 2048 << 20), [], CONFIG)) == [ok("2 slots, 4 cores, 2048 MiB; 0 guests now")]
    assert list(room.judge(forms, Room(None, None, None), [claim(1, 1)], CONFIG)) == [ok("any number of guests; 1 guests now")]
    full = list(room.judge(forms, Room(None, 1, None), [claim(1, 1)], CONFIG))
    assert full == [ok("1 cores; 1 guests now, and none more of sample.xml until some have ended")]
    small = list(room.judge(forms, Room(None, None, 600 << 20), [], CONFIG))
    assert (small[0].level, small[0].found) == (
        "error", "sample.xml: a guest needs 640 MiB of memory, and this node has 600 for guests")


def test_what_users_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    without = ""
    monkeypatch.setattr(acl, "possible", lambda path: path != without)
    monkeypatch.setattr(file, "nearest", lambda path: path)
    assert one(list(storage.lists(Site(CONFIG, ())))).level == "ok"
    without = CONFIG.log_directory
    found = one(list(storage.lists(Site(CONFIG, ()))))
    assert (found.level, found.found) == (
        "warning", f"the file system of {without} has no access control lists, so vmbatch log is for root alone")


# batch systems

OURS = "#!/opt/vmbatch/bin/python3 -I\n\"\"\"A hook.\"\"\"\n\nfrom vmbatch.hooks import prologue\n\nprologue()\n"


def hooks(place: str, *names: str, **changed: object) -> list[batch.Hook]:
    good = batch.Hook("", there=True, ours=True, mode=0o755, interpreter="/bin/sh")
    return [msgspec.structs.replace(good, path=f"{place}/{name}", **changed) for name in names]


def test_a_drained_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "PATH", f"{tmp_path}/drained")
    site = Site(CONFIG, ())
    assert list(room.drained(site)) == [ok("nobody has")]
    drain.drain("carol", "new disks", 86400.0)
    found = one(list(room.drained(site)))
    assert (found.level, found.advice) == ("warning", "vmbatch undrain ends that")
    assert re.fullmatch(r"this node takes no new jobs with guests: drained by carol at 1970-01-0\d.*: new disks", found.found)


def test_whether_a_hook_is_ours(tmp_path: Path) -> None:
    (tmp_path / "prologue").write_text(OURS)
    (tmp_path / "epilogue").write_text("#!/bin/sh\necho from vmbatch.hooks import prologue\n")
    assert (batch.hook(f"{tmp_path}/prologue").ours,
            batch.hook(f"{tmp_path}/prologue").interpreter) == (True, "/opt/vmbatch/bin/python3")
    assert not batch.hook(f"{tmp_path}/epilogue").ours
    assert not batch.hook(f"{tmp_path}/none").there


@pytest.mark.parametrize(("changed", "said"), [
    ({"there": False}, "/m/prologue is not there"),
    ({"ours": False}, "/m/prologue is not VmBatch's"),
    ({"trouble": "/m can be changed by others"}, "/m can be changed by others"),
    ({"mode": 0o644}, "has mode 0644"),
    ({"mode": 0o700}, "has mode 0700"),
    ({"interpreter": "/nowhere/python3"}, "is for /nowhere/python3, which is not there any more"),
])
def test_a_hook_that_does_not_run(changed: dict[str, object], said: str) -> None:
    found = batch.judge_hook(hooks("/m", "prologue", **changed)[0], "--torque")
    assert found is not None
    assert found.level == "error"
    assert said in found.found
    assert batch.judge_hook(hooks("/m", "prologue")[0], "--torque") is None


def test_the_time_that_a_batch_system_gives() -> None:
    config = configured(timeouts_boot=200.0, timeouts_scale=1.0, timeouts_margin=20.0)
    assert batch.judge_alarm(220, config, "x").level == "ok"
    assert batch.judge_alarm(219, config, "x") == warning("x: a guest has 199 s to boot, and [timeouts] boot = 200 s",
                                                          "give a prologue 220 s")
    assert batch.judge_alarm(20, config, "x").level == "error"


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A line for mom's configuration."""
    monkeypatch.setattr(file, "check_trusted", lambda *paths: None)
    return f"$job_starter {tmp_path}/remoteshell  # ours\n"


MOM = ("prologue", "epilogue", "prologue.parallel", "epilogue.parallel")


def test_a_mom_that_is_right(starter: str) -> None:
    assert one(list(batch.judge_torque("/m", hooks("/m", *MOM), starter, 290, CONFIG))) == ok(
        "/m has our hooks and $job_starter; a prologue has 290 s")


@pytest.mark.parametrize(("config", "level", "said"), [
    ("", "error", "has no $job_starter"),
    ("#$job_starter /x/remoteshell", "error", "has no $job_starter"),
    ("$job_starter /usr/bin/env", "error", "is not remoteshell"),
    ("@$job_starter_run_privileged true", "error", "would start as root"),
])
def test_a_mom_that_would_run_jobs_on_the_node(starter: str, config: str, level: str, said: str) -> None:
    finding = one(list(batch.judge_torque("/m", hooks("/m", *MOM), config.replace("@", starter), 290, CONFIG)))
    assert finding.level == level
    assert said in finding.found


def test_a_mom_without_patience(starter: str) -> None:
    finding = one(list(batch.judge_torque("/m", hooks("/m", *MOM), starter, 50, CONFIG)))
    assert (finding.level, finding.advice) == ("warning", "$prologalarm 265, and restart pbs_mom")
    assert one(list(batch.judge_torque("/m", hooks("/m", *MOM), starter, 10, CONFIG))).level == "error"


def test_a_mom_without_hooks_for_sisters(starter: str) -> None:
    found = [*hooks("/m", *MOM[:3]), *hooks("/m", MOM[3], there=False)]
    assert one(list(batch.judge_torque("/m", found, starter, 290, CONFIG))).level == "warning"


def test_openpbs(tmp_path: Path) -> None:
    (tmp_path / "vmbatch.HK").write_text("hook_name=vmbatch\ntype=0\nalarm=600\nevent=execjob_begin,execjob_launch\n")
    assert batch.pbs_hook(f"{tmp_path}/vmbatch.HK") == (600.0, {"execjob_begin", "execjob_launch"})
    (tmp_path / "vmbatch.HK").write_text("hook_name=vmbatch\n")
    assert batch.pbs_hook(f"{tmp_path}/vmbatch.HK") == (30.0, set())
    assert batch.pbs_hook(f"{tmp_path}/none") == (None, set())
    good = hooks("/m", "prologue", "epilogue", "openpbs")
    assert one(list(batch.judge_openpbs("/m", good, 600.0, {"execjob_launch"}, CONFIG))).level == "ok"
    assert "has no hook vmbatch" in one(list(batch.judge_openpbs("/m", good, None, set(), CONFIG))).found
    assert "does not listen to execjob_launch" in one(list(batch.judge_openpbs("/m", good, 600.0, {"execjob_end"}, CONFIG))).found
    short = one(list(batch.judge_openpbs("/m", good, 30.0, {"execjob_launch"}, CONFIG)))
    assert (short.level, short.advice) == ("warning", 'qmgr -c "set hook vmbatch alarm = 255"')


SLURM = {"prolog": ["/site/prolog", "/h/slurm-prolog"], "epilog": ["/h/slurm-epilog"], "prologflags": ["Alloc,Contain"],
         "getenvtimeout": ["0"],
         "prologepilogtimeout": ["300"], "batchstarttimeout": ["300"]}
STACK = "# required /none/vmbatch.so\nrequired vmbatch.so task=/bin/sh partitions=vm\n"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in /h is a hook of ours."""
    monkeypatch.setattr(batch, "hook", lambda path: hooks("/h", os.path.basename(path), there=path.startswith("/h/"))[0])


def test_slurm_that_is_right(scripts: None) -> None:
    assert one(list(batch.judge_slurm(SLURM, STACK, 300.0, CONFIG))).level == "ok"


@pytest.mark.parametrize(("changed", "stack", "seconds", "level", "said"), [
    ({"prolog": []}, STACK, 300.0, "error", "Prolog is not slurm-prolog"),
    ({"prolog": ["/nowhere/slurm-prolog"]}, STACK, 300.0, "error", "slurm-prolog is not there"),
    ({"epilog": ["/site/epilog"]}, STACK, 300.0, "error", "Epilog is not slurm-epilog"),
    ({"prologflags": []}, STACK, 300.0, "warning", "has no Alloc"),
    ({"getenvtimeout": ["2"]}, STACK, 300.0, "warning", "GetEnvTimeout=0"),
    ({}, "", 300.0, "error", "plugstack.conf has no vmbatch.so"),
    ({}, STACK.replace("\nrequired", "\noptional"), 300.0, "error", "is optional"),
    ({}, STACK.replace("/bin/sh", "/nowhere/slurm-task"), 300.0, "error", "/nowhere/slurm-task is not there"),
    ({}, STACK, 100.0, "warning", "a guest has 85 s to boot"),
    ({"batchstarttimeout": ["10"]}, STACK, 300.0, "warning", "BatchStartTimeout=10"),
])
def test_slurm_that_is_not(changed: dict[str, list[str]], stack: str, seconds: float, level: str, said: str,
                                scripts: None) -> None:
    finding = one(list(batch.judge_slurm({**SLURM, **changed}, stack, seconds, CONFIG)))
    assert finding.level == level
    assert said in finding.found


# node

def test_the_clock() -> None:
    assert [node.judge_clock(state).level for state in (0, 5, -1)] == ["ok", "warning", "warning"]


def test_the_timers() -> None:
    good = {"vmbatch-sweep-boot.service": "enabled", "vmbatch-sweep.timer": "active"}
    assert one(list(node.judge_units(good, set(good)))).level == "ok"
    bad = {**good, "vmbatch-sweep.timer": "inactive"}
    assert list(node.judge_units(bad, set(good))) == [warning("vmbatch-sweep.timer is inactive",
                                                              "systemctl enable --now vmbatch-sweep.timer")]
    assert list(node.judge_units(bad, set())) == [warning("vmbatch-sweep.timer is inactive",
                                                          "vmbatch install brings systemd's units, and enables them")]
