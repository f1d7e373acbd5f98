"""The networks of templates: whether they are up, have addresses left, and can be filtered."""

import ipaddress
import os
from collections.abc import Iterator

import msgspec

from ..config import Config
from ..errors import NodeError
from ..exchange.address import taken
from ..guard import Guard, Port, rules
from ..host import nft, virtnet
from ..template import Template, parse_network
from .finding import Check, Finding, Site, error, ok, warning

_CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack_{}"
_FULL = 0.8
_BRIDGED = "/proc/sys/net/bridge/bridge-nf-call-{}"
_TABLES = ("iptables", "ip6tables", "arptables")


class Dhcp(msgspec.Struct, frozen=True):
    """What libvirt's DHCP has of addresses for a network's guests, and how many it has given away."""

    addresses: int
    leased: int


def named(site: Site) -> dict[str, list[Template]]:
    """The templates that use each network of libvirt's."""
    found: dict[str, list[Template]] = {}
    for form in site.templates:
        for interface in form.interfaces:
            if interface.network and form not in found.setdefault(interface.network, []):
                found[interface.network].append(form)
    return found


def bridges(site: Site) -> dict[str, list[str]]:
    """Of each bridge that templates name, these templates' names."""
    found: dict[str, list[str]] = {}
    for form in site.templates:
        for source in form.root.findall("devices/interface[@type='bridge']/source"):
            found.setdefault(str(source.get("bridge")), []).append(os.path.basename(form.path))
    return found


def guests(site: Site) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Where guests have their addresses, as far as libvirt's DHCP or a template's pool says it. NodeError."""
    spans = [net for name in named(site) for net in _given(virtnet.network(site.config.libvirt_uri, name))]
    spans += [net for form in site.templates for each in form.interfaces for pool in each.pools for net in pool.networks]
    return [ipaddress.ip_network(net) for net in dict.fromkeys(spans)]


def _given(found: virtnet.Network) -> tuple[str, ...]:
    """What its DHCP gives to strangers, as networks."""
    return parse_network(found.xml).networks if found.xml else ()


def networks(site: Site) -> Iterator[Finding]:
    """libvirt's networks, and bridges."""
    for name, forms in named(site).items():
        found = virtnet.network(site.config.libvirt_uri, name)
        asks = any(interface.network == name and interface.method == "dhcp" for form in forms for interface in form.interfaces)
        addresses = sum(ipaddress.ip_network(net).num_addresses for net in _given(found))
        yield judge_network(name, found, Dhcp(addresses, found.leases) if asks else None, site.config)
    for bridge, users in bridges(site).items():
        if not os.path.isdir(f"/sys/class/net/{bridge}/bridge"):
            yield error(f"the bridge {bridge} of {' '.join(users)} is not there",
                        f"make it, or correct <source bridge='{bridge}'>")
        elif not _is_up(bridge):
            yield error(f"the bridge {bridge} is down", f"ip link set {bridge} up")
        else:
            yield ok(f"the bridge {bridge} is up")


def _is_up(bridge: str) -> bool:
    """IFF_UP of linux/if.h: a bridge without ports has no carrier, and is up all the same."""
    with open(f"/sys/class/net/{bridge}/flags", encoding="ascii") as flags:
        return bool(int(flags.read(), 16) & 1)


def judge_network(name: str, found: virtnet.Network, dhcp: Dhcp | None, config: Config) -> Finding:
    """One network; without `dhcp` no guest asks for an address there."""
    if not found.there:
        return error(f"libvirt has no network {name}", f"virsh net-define and net-start it, or correct <source network='{name}'>")
    if not found.active:
        return error(f"libvirt's network {name} is not active", f"virsh net-start {name}; virsh net-autostart {name}")
    if dhcp is None or "<dhcp>" not in found.xml:
        return ok(f"{name} is active" + ("" if dhcp is None else "; its DHCP is not libvirt's"))
    said = f"{name} is active: DHCP has {dhcp.addresses} addresses, {max(dhcp.addresses - dhcp.leased, 0)} of them free"
    if dhcp.leased >= dhcp.addresses:
        return error(said, "starts take back what machines had that have gone; if guests have them all, make the range larger")
    if isinstance(config.admission_slots, int) and dhcp.addresses < config.admission_slots:
        return warning(said, f"[admission] slots = {config.admission_slots}: make the range larger")
    return ok(said)


def pools(site: Site) -> Iterator[Finding]:
    """The static addresses of templates, of which others on other nodes may have some."""
    config = site.config
    with_pools = [form for form in site.templates if any(interface.pools for interface in form.interfaces)]
    if not with_pools:
        return
    used = taken(config.reservations)
    for pool in {pool for form in with_pools for interface in form.interfaces for pool in interface.pools}:
        free = sum(pool.address(number) not in used for number in range(pool.size))
        said = f"{pool.name} has {pool.size} addresses, {free} of them free"
        yield ok(said) if free else error(said, f"give the template more; {config.reservations} shows who has them")


class Filtering(msgspec.Struct, frozen=True):
    """`wanted` by templates; `refused`: why this node cannot make any, or ''; `unguarded` are networks that no filter can guard.

    `connections` in the kernel's table, and how many it can have; `bridged` are the tables that bridged packets pass.
    """

    wanted: bool
    refused: str
    unguarded: tuple[str, ...]
    connections: tuple[int, int] | None
    bridged: tuple[str, ...]


def filters(site: Site) -> Iterator[Finding]:
    """What network filters need, and what of the node's own firewall may be in guests' way."""
    config = site.config
    guarded = [form for form in site.templates if any(interface.guarded for interface in form.interfaces)]
    wanted = config.network_filter and bool(guarded)
    unguarded, refused = [], ""
    if wanted:
        refused = _refused()
        names = {each.network for form in guarded for each in form.interfaces if each.guarded and each.network}
        known = {name: virtnet.network(config.libvirt_uri, name) for name in sorted(names)}
        unguarded = [name for name, found in known.items() if found.there and not parse_network(found.xml).bridge]
    try:
        connections = (_number(_CONNTRACK.format("count")), _number(_CONNTRACK.format("max")))
    except OSError:
        connections = None
    bridged = tuple(table for table in _TABLES if os.path.exists(_BRIDGED.format(table)) and _number(_BRIDGED.format(table)))
    yield from judge_filters(Filtering(wanted, refused, tuple(unguarded), connections, bridged if bridges(site) else ()), config)


def _refused() -> str:
    """Why nft, or this node's kernel, does not take a guest's rules, if so; nothing is changed."""
    everything = Guard("52:54:00:00:00:00", (), "fd00::1", True, ("192.0.2.1", "fd00::2"), (), (53,), 32768, learns=True)
    try:
        nft.check(rules(Port("0" * 32, 0), everything))
    except NodeError as refused:
        return refused.what
    return ""


def judge_filters(found: Filtering, config: Config) -> Iterator[Finding]:
    """What of that keeps guests from their network, or strangers from nothing."""
    fine = True
    if found.wanted and found.refused:
        fine = False
        yield error(found.refused, nft.HINT)
    for name in found.unguarded:
        fine = False
        yield error(f"no filter can guard the network {name}, as it has no bridge",
                    "see <vbnetwork filter='no'>, and docs/security.md")
    if found.connections is not None and found.connections[0] > _FULL * found.connections[1]:
        fine = False
        yield warning("the kernel's table of connections has {} of {} entries: new ones will fail".format(*found.connections),
                      "raise net.netfilter.nf_conntrack_max")
    if found.bridged:
        fine = False
        yield warning(f"what guests send over a bridge passes this node's {' '.join(found.bridged)}, too",
                      "if the firewall does not mean them: sysctl " + " ".join(f"net.bridge.bridge-nf-call-{table}=0"
                                                                               for table in found.bridged))
    if fine:
        if found.wanted:
            yield ok("nft can filter what guests send and get")
        elif not config.network_filter:
            yield warning("[network] filter = false: guests may pretend to be other guests, or this node", "see docs/security.md")


def _number(path: str) -> int:
    with open(path, encoding="ascii") as setting:
        return int(setting.read())


CHECKS = (
    Check("networks", "whether the templates' networks and bridges are up, and their DHCP has addresses left", networks,
          root=True, needs="libvirt"),
    Check("addresses", "whether the templates' static addresses are not all taken", pools, root=True),
    Check("filters", "whether nft can filter guests' packets, and what of the node's firewall is in their way", filters,
          root=True, needs="libvirt"),
)
