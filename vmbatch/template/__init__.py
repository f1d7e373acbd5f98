"""Domain templates: a libvirt domain XML with VmBatch's tags in it."""

from .context import LABELS, GuestDisk, RootSsh
from .devices import NodeDirectory, channel_path, console_path
from .disk import BlankSource, Checksum, DiskTag, ImageSource, MediumTag, UserImage, known_format
from .read import Credential, TarFile, Template, parse
from .resources import Resources
from .share import Share
from .write import DiskChange, DomainChange, DriverChange, domain_xml

__all__ = [
    "LABELS", "BlankSource", "Checksum", "Credential", "DiskChange", "DiskTag", "DomainChange", "DriverChange", "GuestDisk",
    "ImageSource", "MediumTag", "NodeDirectory", "Resources", "RootSsh", "Share", "TarFile", "Template", "UserImage",
    "channel_path", "console_path", "domain_xml", "known_format", "parse",
]
