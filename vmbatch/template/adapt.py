"""A template made to fit a user's own machine: another image, and emulation where there is no KVM."""

import os

from lxml import etree

from ..errors import InputError, JobError

_FORMATS = {"qcow2": "qcow2", "raw": "raw", "vhd": "vpc", "vpc": "vpc"}


def brought() -> bytes:
    """The template that VmBatch brings for guests of a user's own, which lacks an image."""
    with open(os.path.join(os.path.dirname(__file__), "session.xml"), "rb") as opened:
        return opened.read()


def adapted(text: bytes, path: str, image: str, *, emulated: bool) -> bytes:
    """The template in `text`, at `path`, with `image` (an absolute path or a URL, or '') as its first one. InputError, JobError.

    `emulated`: where it is for KVM it becomes one for QEMU's own emulation.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(text, parser)
    except etree.XMLSyntaxError as error:
        raise InputError(path, [(error.lineno or 0, f"is not XML: {error.msg}")], code="VB103") from None
    if image:
        _take(image, root, path)
    if emulated and root.get("type") == "kvm":
        _emulate(root)
    return etree.tostring(root.getroottree())


def _take(image: str, root: etree._Element, path: str) -> None:
    """Has the template's first image be this one, whose format its name tells."""
    disk = next((disk for disk in root.iterfind("devices/disk") for tag in disk.findall("vbdisksource")
                 if not tag.get("create")), None)
    if disk is None:
        raise JobError(f"the template {path} has no disk with an image", "leave out --image", code="VB308")
    form = _FORMATS.get(image.rpartition(".")[2].lower())
    if form is None:
        raise JobError(f"{image}: the name does not tell the image's format", "it must end with .qcow2, .raw or .vhd",
                       code="VB308")
    for tag in disk.findall("vbdisksource"):
        tag.set("source", image)
        tag.set("source_format", form)
    for check in disk.findall("vbcheckhash"):  # of the image that is not used
        disk.remove(check)


def _emulate(root: etree._Element) -> None:
    root.set("type", "qemu")
    hypervisor, model = root.find("vbconfig/vbhypervisor"), root.find("cpu")
    if hypervisor is not None:
        hypervisor.text = "QEMU"
    if model is not None and model.get("mode") in ("host-passthrough", "host-model"):
        model.attrib.clear()
        model.set("mode", "maximum")
