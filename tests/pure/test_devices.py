"""What a domain gets beside the template's own devices."""

import pytest
from lxml import etree

from vmbatch.template import NodeDirectory, channel_path, console_path
from vmbatch.template.devices import add_channel, add_console, add_directory

DOMAIN = "<domain type='kvm'>{}<devices><serial type='pty'/></devices></domain>"


def devices(root: etree._Element) -> etree._Element:
    found = root.find("devices")
    assert found is not None
    return found


def texts(root: etree._Element, path: str) -> list[str]:
    return [etree.tostring(element, with_tail=False).decode() for element in root.findall(path)]


@pytest.mark.parametrize(("device", "path", "xml"), [
    ("hvc0", "devices/console", '<console type="pty"><target type="virtio" port="0"/></console>'),
    ("ttyS1", "devices/serial[2]", '<serial type="pty"><target port="1"/></serial>'),
])
def test_a_console_beside_the_logged_one(device: str, path: str, xml: str) -> None:
    root = etree.fromstring(DOMAIN.format(""))
    add_console(devices(root), device)
    assert texts(root, path) == [xml]
    logged = '<serial type="pty"/>' if device == "hvc0" else '<serial type="pty"><target port="0"/></serial>'
    assert texts(root, "devices/serial[1]") == [logged], "libvirt would give it the number behind ours"


def test_where_a_console_is() -> None:
    running = """<domain><devices>
      <serial type='pty'><source path='/dev/pts/1'/><target port='0'/></serial>
      <serial type='pty'><source path='/dev/pts/2'/><target port='1'/></serial>
      <console type='pty' tty='/dev/pts/1'><source path='/dev/pts/1'/><target type='serial' port='0'/></console>
      <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><target type='virtio' port='0'/></console>
    </devices></domain>"""
    assert console_path(running, "hvc0") == "/dev/pts/3"
    assert console_path(running, "ttyS1") == "/dev/pts/2"
    assert console_path("<domain><devices/></domain>", "hvc0") is None


def test_a_channel() -> None:
    root = etree.fromstring(DOMAIN.format(""))
    add_channel(devices(root))
    assert texts(root, "devices/channel") == [
        '<channel type="unix"><source mode="bind"/><target type="virtio" name="org.vmbatch.0"/></channel>']
    assert channel_path(etree.tostring(root).decode()) is None, "it is libvirt that chooses"
    running = """<domain><devices>
      <channel type='unix'><source mode='bind' path='/a'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
      <channel type='unix'><source mode='bind' path='/b'/><target type='virtio' name='org.vmbatch.0'/></channel>
    </devices></domain>"""
    assert channel_path(running) == "/b"


def test_a_directory_by_virtiofs() -> None:
    root = etree.fromstring(DOMAIN.format(""))
    add_directory(root, devices(root), NodeDirectory("virtiofs", "/srv/a", "vbshare0", False))
    assert texts(root, "devices/filesystem") == [
        '<filesystem type="mount" accessmode="passthrough"><driver type="virtiofs"/><source dir="/srv/a"/>'
        '<target dir="vbshare0"/></filesystem>']
    assert texts(root, "memoryBacking") == ['<memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>']


@pytest.mark.parametrize(("before", "after"), [
    ("<memoryBacking><hugepages/></memoryBacking>", '<memoryBacking><hugepages/><access mode="shared"/></memoryBacking>'),
    ("<memoryBacking><source type='file'/><access mode='private'/></memoryBacking>",
     '<memoryBacking><source type="file"/><access mode="shared"/></memoryBacking>'),
])
def test_memory_that_the_template_has_chosen(before: str, after: str) -> None:
    root = etree.fromstring(DOMAIN.format(before))
    for number in range(2):
        add_directory(root, devices(root), NodeDirectory("virtiofs", "/srv/a", f"vbshare{number}", False))
    assert texts(root, "memoryBacking") == [after]


def test_a_directory_by_9p() -> None:
    root = etree.fromstring(DOMAIN.format(""))
    add_directory(root, devices(root), NodeDirectory("9p", "/srv/a", "vbshare0", True))
    assert texts(root, "devices/filesystem") == [
        '<filesystem type="mount" accessmode="squash"><source dir="/srv/a"/><target dir="vbshare0"/><readonly/></filesystem>']
    assert texts(root, "memoryBacking") == []
