"""The further file systems of a template."""

import pytest
from lxml import etree

from vmbatch.template.schema import Problem
from vmbatch.template.share import Share, read_shares

USER = "<devices><disk><vbuserimage/></disk></devices>"


def read(shares: str, more: str = "") -> tuple[tuple[Share, ...], list[Problem]]:
    found: list[Problem] = []
    root = etree.fromstring(f"<domain><vbconfig>\n<vbshares>{shares}</vbshares></vbconfig>{more}</domain>")
    return read_shares(root, found), found


@pytest.mark.parametrize(("tag", "share"), [
    ("<vbshare type='nfs4' source='10.0.0.1:/home' target='/home' options='vers=4.2,soft'/>",
     Share(2, "nfs4", "10.0.0.1:/home", "/home", "vers=4.2,soft", False)),
    ("<vbshare type='nfs' source='nfs.example.org:/' target='/home/physics' readonly='yes'/>",
     Share(2, "nfs", "nfs.example.org:/", "/home/physics", "", True)),
    ("<vbshare type='nfs4' source='[fd00::1]:/a b'/>".replace("a b'", "a' target='/opt/a'"),
     Share(2, "nfs4", "[fd00::1]:/a", "/opt/a", "", False)),
    ("<vbshare type='9p' source='/srv/soft ware' target='/opt/software' readonly='yes'/>",
     Share(2, "9p", "/srv/soft ware", "/opt/software", "", True)),
])
def test_right(tag: str, share: Share) -> None:
    assert read(tag) == ((share,), [])


@pytest.mark.parametrize(("tag", "said"), [
    ("<vbshare type='nfs4' source='/home' target='/home'/>", "expected SERVER:/PATH"),
    ("<vbshare type='nfs4' source='server:home' target='/home'/>", "expected SERVER:/PATH"),
    ("<vbshare type='nfs4' source='-x:/home' target='/home'/>", "expected SERVER:/PATH"),
    ("<vbshare type='virtiofs' source='server:/home' target='/home'/>", "expected a directory of the node"),
    ("<vbshare type='virtiofs' source='/srv/../etc' target='/home'/>", "expected a directory of the node"),
    ("<vbshare type='9p' source='/' target='/home'/>", "expected a directory of the node"),
    ("<vbshare type='nfs4' source='s:/h' target='/'/>", "expected an absolute path"),
    ("<vbshare type='nfs4' source='s:/h' target='/etc'/>", "this is a directory of the guest's system"),
    ("<vbshare type='nfs4' source='s:/h' target='/usr'/>", "this is a directory of the guest's system"),
    ("<vbshare type='nfs4' source='s:/h' target='/var/lib/vmbatch/medium'/>", "this is a directory of the guest's system"),
    ("<vbshare type='nfs4' source='s:/h' target='/home/../etc'/>", "expected an absolute path"),
    ("<vbshare type='nfs4' source='s:/h' target='/home/$USER'/>", "expected an absolute path"),
    ("<vbshare type='nfs4' source='s:/h' target='/home' options='a b'/>", "expected mount options"),
    ("<vbshare type='nfs4' source='s:/h' target='/home' options='a&quot;'/>", "expected mount options"),
])
def test_wrong(tag: str, said: str) -> None:
    [(line, text)] = read(tag)[1]
    assert line == 2
    assert said in text


def test_one_place_twice() -> None:
    tag = "<vbshare type='nfs4' source='s:/h' target='/home'/>"
    assert read(f"{tag}\n{tag}")[1] == [(3, "a second <vbshare target='/home'>")]


def test_no_root_of_a_users_in_the_nodes_directories() -> None:
    [(_, text)] = read("<vbshare type='virtiofs' source='/srv/a' target='/srv/a'/>", USER)[1]
    assert text.startswith("<vbshare type='virtiofs'> with <vbuserimage>: root of a user's image would be root in /srv/a")
    assert read("<vbshare type='9p' source='/srv/a' target='/srv/a'/>", USER)[1] == []


def test_what_holds_another_comes_first() -> None:
    """And a parent is not held back by names that sort between."""
    tag = "<vbshare type='nfs4' source='s:/{0}' target='{0}'/>"
    targets = ["/home/a/data", "/opt", "/home-old", "/home/a", "/home"]
    shares, found = read("".join(tag.format(target) for target in targets))
    assert found == []
    assert [share.target for share in shares] == ["/home", "/home/a", "/home/a/data", "/home-old", "/opt"]


@pytest.mark.parametrize(("attributes", "said"), [
    ("type='nfs' options='vers=4.2'", "<vbshare options='vers=4.2'>: vers=4.2 is for type='nfs4'"),
    ("type='nfs4' options='soft,nfsvers=3'", "<vbshare options='soft,nfsvers=3'>: nfsvers=3 is for type='nfs'"),
    ("type='nfs4' options='v3'", "<vbshare options='v3'>: v3 is for type='nfs'"),
    ("type='nfs4' options='soft,ro'", "<vbshare options='soft,ro'>: ro does not go here; write readonly='yes'"),
    ("type='nfs4' options='remount'", "<vbshare options='remount'>: remount does not go here; a mount of its own is made"),
    *((f"type='nfs4' options='{options}'",
       f"<vbshare options='{options}'>: expected mount options with commas between them, without blanks or quotes")
      for options in (",soft", "soft,", "a,,b", "a=", "$(id)", "a;b", "a\\b")),
])
def test_options(attributes: str, said: str) -> None:
    assert read(f"<vbshare source='s:/h' target='/home' {attributes}/>")[1] == [(2, said)]


@pytest.mark.parametrize(("attributes", "said"), [
    ("type='9p' options='trans=tcp'",
     "<vbshare options='trans=tcp'>: trans=tcp cannot be; QEMU has trans=virtio,version=9p2000.L"),
    ("type='virtiofs' options='vers=4.2'", "<vbshare options='vers=4.2'>: vers=4.2 is for type='nfs' and 'nfs4'"),
    ("type='virtiofs' readonly='yes'", "<vbshare type='virtiofs' readonly='yes'>: libvirt before 11.0 cannot keep guests from "
                                       "writing there; use type='9p', or share a directory that the node has mounted read-only"),
])
def test_what_a_directory_of_the_node_cannot_have(attributes: str, said: str) -> None:
    assert read(f"<vbshare source='/srv/a' target='/opt/a' {attributes}/>")[1] == [(2, said)]


@pytest.mark.parametrize("source", [
    "/etc", "/etc/ssh", "/root/x", "/usr", "/var/lib", "/var/lib/vmbatch/spool", "/proc/1", "/run/x",
])
def test_the_nodes_own_directories(source: str) -> None:
    said = f"<vbshare type='9p' source='{source}'>: this is a directory of the node's own system, which no guest may have"
    assert read(f"<vbshare type='9p' source='{source}' target='/opt/a' readonly='yes'/>")[1] == [(2, said)]


@pytest.mark.parametrize("source", ["/usr/share/doc", "/var/lib/vmbatch-data", "/etcetera", "/home"])
def test_other_directories_of_the_node(source: str) -> None:
    assert read(f"<vbshare type='9p' source='{source}' target='/opt/a' readonly='yes'/>")[1] == []


@pytest.mark.parametrize("target", [
    "/dev/x", "/proc/x", "/sys/x", "/run/x", "/var/run/x", "/var/lib/vmbatch", "/usr/lib", "/var/log",
])
def test_the_guests_own_directories(target: str) -> None:
    said = f"<vbshare target='{target}'>: this is a directory of the guest's system"
    assert read(f"<vbshare type='nfs4' source='s:/h' target='{target}'/>")[1] == [(2, said)]


@pytest.mark.parametrize("target", ["/usr/local", "/var/lib/x", "/home/a", "/rootfs", "/mnt/etc"])
def test_other_targets(target: str) -> None:
    assert read(f"<vbshare type='nfs4' source='s:/h' target='{target}'/>")[1] == []


def test_an_address_that_is_none() -> None:
    said = "<vbshare type='nfs4' source='[1.2.3.4]:/h'>: [1.2.3.4] is no IPv6 address"
    assert read("<vbshare type='nfs4' source='[1.2.3.4]:/h' target='/home'/>")[1] == [(2, said)]


@pytest.mark.parametrize(("more", "said"), [
    ("\n<memoryBacking>\n<access mode='private'/></memoryBacking>", (4, "<access mode='private'/>: {} mode='shared'")),
    ("\n<memoryBacking>\n<source type='anonymous'/></memoryBacking>",
     (4, "<source type='anonymous'/>: {} type='memfd' or 'file'")),
    ("\n<cpu><numa>\n<cell memAccess='private'/></numa></cpu>", (4, "<cell memAccess='private'>: {} memAccess='shared'")),
])
def test_memory_for_virtiofs(more: str, said: tuple[int, str]) -> None:
    wanted = said[0], said[1].format("<vbshare type='virtiofs'> needs")
    assert read("<vbshare type='virtiofs' source='/srv/a' target='/opt/a'/>", more)[1] == [wanted]
    assert read("<vbshare type='9p' source='/srv/a' target='/opt/a'/>", more)[1] == []
    assert read("<vbshare type='virtiofs' source='/srv/a' target='/opt/a'/>", more.replace("private", "shared")
                .replace("anonymous", "memfd"))[1] == []


def test_xen_has_no_directories_of_the_node() -> None:
    found: list[Problem] = []
    read_shares(etree.fromstring("<domain type='xen'><vbconfig><vbshares><vbshare type='9p' source='/srv/a' target='/opt/a'/>"
                                 "</vbshares></vbconfig></domain>"), found)
    assert found == [(1, "<vbshare type='9p'>: Xen has none; use NFS")]


def test_mistakes_that_the_schema_names_are_not_named_twice() -> None:
    assert read("<vbshare type='nfs4'/>")[1] == []
