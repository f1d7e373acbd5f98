"""Domain templates: a libvirt domain XML with VmBatch's tags in it."""

from .adapt import adapted, brought
from .context import LABELS, GuestDisk, RootSsh
from .devices import NodeDirectory, channel_path, console_path
from .disk import BlankSource, Checksum, DiskTag, ImageSource, MediumTag, UserImage, known_format
from .pool import Pool
from .read import Credential, TarFile, Template, parse
from .resources import Resources, own_size
from .share import Share
from .start import Places, added_xml, digest_text, files, medium_xml, obstacle, places, pool_obstacle, resumed_xml, waiting_xml
from .virtnet import VirtNet, parse_network
from .write import DiskChange, DomainChange, DriverChange, InterfaceChange, domain_xml

__all__ = [
    "LABELS", "BlankSource", "Checksum", "Credential", "DiskChange", "DiskTag", "DomainChange",
    "DriverChange", "GuestDisk", "ImageSource", "InterfaceChange", "MediumTag", "NodeDirectory", "Places", "Pool", "Resources",
    "RootSsh", "Share", "TarFile", "Template", "UserImage", "VirtNet", "adapted", "added_xml", "brought", "channel_path",
    "console_path", "digest_text", "domain_xml", "files", "known_format", "medium_xml", "obstacle",
    "own_size", "parse", "parse_network", "places", "pool_obstacle", "resumed_xml", "waiting_xml",
]
