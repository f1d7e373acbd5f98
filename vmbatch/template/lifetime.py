"""How a template's guests are watched while their job runs, and how they end."""

import msgspec
from lxml import etree

from . import schema


class Lifetime(msgspec.Struct, frozen=True):
    """`heartbeat`: after how many seconds of silence a guest has hung, `shutdown`: how many it has to shut down; 0 for not.

    `watchdog`: the domain has one, which the guest is to feed.
    """

    heartbeat: int = 0
    shutdown: int = 0
    watchdog: bool = False


def read_lifetime(root: etree._Element, found: list[schema.Problem]) -> Lifetime:
    """What is asked of guests, and of the node, for this."""
    heartbeat = root.find("vbconfig/vbheartbeat")
    if heartbeat is not None and (root.findtext("vbconfig/vbmessages") or "").strip() == "CONSOLE":
        found.append((heartbeat.sourceline or 0, "<vbheartbeat>: the console is the job's alone; "
                                                 "use <vbmessages>SHARE</vbmessages> or CHANNEL"))
    return Lifetime(_seconds(heartbeat), _seconds(root.find("vbconfig/vbshutdown")), root.find("devices/watchdog") is not None)


def _seconds(tag: etree._Element | None) -> int:
    text = "" if tag is None else str(tag.get("seconds") or "")
    return int(text) if text.isdecimal() else 0  # the schema has said what is wrong
