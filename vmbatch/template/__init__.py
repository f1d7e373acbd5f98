"""Domain templates: a libvirt domain XML with VmBatch's tags in it."""

from .read import DiskTag, ImageSource, TarFile, Template, parse
from .write import DiskChange, DomainChange, domain_xml

__all__ = ["DiskChange", "DiskTag", "DomainChange", "ImageSource", "TarFile", "Template", "domain_xml", "parse"]
