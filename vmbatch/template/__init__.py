"""Domain templates: a libvirt domain XML with VmBatch's tags in it."""

from .disk import BlankSource, Checksum, DiskTag, ImageSource, UserImage
from .read import TarFile, Template, parse
from .write import DiskChange, DomainChange, domain_xml

__all__ = [
    "BlankSource", "Checksum", "DiskChange", "DiskTag", "DomainChange", "ImageSource", "TarFile", "Template", "UserImage",
    "domain_xml", "parse",
]
