"""The disks of VmBatch's published Xen templates, and those that its texts describe, each by the name it has in docs/xen.md."""

from vmbatch.facts import Image

FAT = "http://cernvm.cern.ch/releases/ucernvm-prod.1.18-13.cernvm.x86_64.fat"
STORED = "/var/lib/vmbatch/store/objects/" + "ab" * 32
ONCE = "/var/lib/vmbatch/store/once/" + "cd" * 16
SIZE = 1 << 30


def _stored(form: str, path: str = STORED) -> Image:
    return Image(path, form, SIZE, SIZE, stored=True)


def _local(form: str) -> Image:
    return Image(f"/srv/images/base.{form}", form, SIZE, SIZE)


DISKS: dict[str, tuple[str, Image | None]] = {
    "boot disk, downloaded": (
        f"<driver name='tap2' type='aio'/><vbdisksource source='{FAT}' copy_method='download'/>"
        "<target dev='xvdb' bus='xen'/>", None),
    "boot disk, shared": (
        f"<driver name='tap2' type='aio'/><vbdisksource source='{FAT}' copy_method='shared'/>"
        "<target dev='xvdb' bus='xen'/><readonly/>", _stored("raw")),
    "cache, new for each job": (
        "<driver name='tap2' type='vhd'/>"
        "<vbdisksource source='cernvm-hd.vhd' size='20480' create='always' format='vhd-util-vhd'/>"
        "<target dev='xvdaa' bus='xen'/>", None),
    "cache, made once": (
        "<driver name='tap2' type='vhd'/><vbdisksource source='cernvm-hd.vhd' size='20480' create='once' format='vhd-util-vhd'/>"
        "<target dev='xvdaa' bus='xen'/>", _stored("vhd", ONCE)),
    "medium": (
        "<driver name='tap2' type='aio'/><vbpreparecdrom source='context.iso'/><target dev='xvdc' bus='xen'/><readonly/>", None),
    "copy-on-write as VHD": (
        "<driver name='tap2' type='aio'/><vbdisksource source='/srv/images/base.raw' copy_method='cow' format='vhd-util-vhd'/>"
        "<target dev='xvda' bus='xen'/>", _local("raw")),
    "copy-on-write as Xen's qcow": (
        "<driver name='tap' type='aio'/><vbdisksource source='/srv/images/base.raw' copy_method='cow' format='qcow-create-qcow'/>"
        "<target dev='xvda' bus='xen'/>", _local("raw")),
    "a VHD, copied": (
        "<driver name='tap2' type='vhd'/><vbdisksource source='/srv/images/base.vhd' copy_method='copy'/>"
        "<target dev='xvda' bus='xen'/>", _local("vhd")),
    "a qcow, copied": (
        "<driver name='tap' type='qcow'/><vbdisksource source='/srv/images/base.qcow' copy_method='copy'/>"
        "<target dev='xvda' bus='xen'/>", _local("qcow")),
    "a raw file by loop": (
        "<driver name='file'/><vbdisksource source='/srv/images/base.raw' copy_method='copy' source_format='raw'/>"
        "<target dev='xvda' bus='xen'/>", _local("raw")),
}
