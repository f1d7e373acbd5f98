"""The interfaces of a guest: which free address a job gets, and the same settings in every form in which a guest can be told.

For the kit, in parameters.sh, all present for every interface N = 0, 1, ... below VMBATCH_NETS, in the domain's order:

    VMBATCH_NETS            '2'
    VMBATCH_NET{N}_MAC      '52:54:00:12:34:56', lower case
    VMBATCH_NET{N}_METHOD   'dhcp' or 'static'
    VMBATCH_NET{N}_ADDRESS4 '10.0.0.20/24'       or '', as all that follow where there is none, or the method is dhcp
    VMBATCH_NET{N}_GATEWAY4 '10.0.0.1'
    VMBATCH_NET{N}_ADDRESS6 'fd00::20/64'
    VMBATCH_NET{N}_GATEWAY6 'fd00::1', 'fe80::1'
    VMBATCH_NET{N}_DNS      '10.0.0.1 10.0.0.2'  both families, with spaces between them
    VMBATCH_NET{N}_SEARCH   'example.org a.org'

On the kernel line, a word for each interface; N is decimal without leading zeros:

    vbnetN=MAC                                                                      dhcp
    vbnetN=MAC,ADDRESS4/PREFIX,GATEWAY4,ADDRESS6/PREFIX,GATEWAY6,DNS;DNS,SEARCH;SEARCH   static

A static word has exactly six commas; what there is none of is empty, but one of both addresses is there. Lists have `;` between
their items. A word has no other characters than A-Z a-z 0-9 and `. : / , ; - =`, so neither quotes nor spaces. Its fields are
the values of the parameters above in this order, with `;` for the spaces in lists; METHOD follows from the commas. The words of
a line are vbnet0 to vbnetM without a gap, and VMBATCH_NETS is M + 1.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping

import msgspec

from .errors import NodeError, SiteError
from .template.network import InterfaceTag, Pool

_LIMIT = 16
"""Interfaces on a kernel line: at more than 32 words that it does not know, the kernel panics (init/main.c, MAX_INIT_ENVS)."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_WORD = re.compile(r"vbnet(0|[1-9][0-9]?)=([A-Za-z0-9.:/,;-]+)")
_NAMED = 5
"""How many takers of a full pool an error names."""


class Net(msgspec.Struct, frozen=True):
    """One interface of a guest; `mac` is lower case, addresses have their prefix, and all but `mac` is empty with DHCP."""

    mac: str
    address4: str = ""
    gateway4: str = ""
    address6: str = ""
    gateway6: str = ""
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """dhcp or static."""
        return "static" if self.address4 or self.address6 else "dhcp"


def candidates(pool: Pool, token: str) -> Iterable[str]:
    """Every address of a pool, from one on that the start's token decides, so that two starts seldom want the same."""
    begin = int(token, 16) % pool.size
    return (pool.address((begin + step) % pool.size) for step in range(pool.size))


def free(pool: Pool, token: str, taken: Mapping[str, str], template: str) -> str:
    """The address of a pool for a start to reserve; `taken` maps addresses to who has them. NodeError if none is free."""
    for address in candidates(pool, token):
        if address not in taken:
            return address
    who = sorted({taken[pool.address(number)] for number in range(pool.size)})
    named = ", ".join(who[:_NAMED]) + (f" and {len(who) - _NAMED} more" if len(who) > _NAMED else "")
    raise NodeError(f"no free address in the pool {pool.name} of {template}:{pool.line}: all {pool.size} are taken by {named}",
                    "give the template's <vbnetwork> more addresses, or the queue fewer jobs", code="VB601")


def choose(interfaces: Iterable[InterfaceTag], token: str, taken: Mapping[str, str],
           template: str) -> tuple[tuple[str, ...], ...]:
    """For each interface the addresses to reserve, one a pool, in the order of `InterfaceTag.pools`. NodeError."""
    return tuple(tuple(free(pool, token, taken, template) for pool in interface.pools) for interface in interfaces)


def nets(interfaces: Iterable[InterfaceTag], macs: Iterable[str], chosen: Iterable[tuple[str, ...]]) -> tuple[Net, ...]:
    """The settings of all interfaces, from the template's tags, their MACs, and what `choose` found. SiteError for a bad MAC."""
    return tuple(_net(interface, mac.strip().lower(), addresses)
                 for interface, mac, addresses in zip(interfaces, macs, chosen, strict=True))


def _net(interface: InterfaceTag, mac: str, addresses: tuple[str, ...]) -> Net:
    if not _MAC.fullmatch(mac):
        raise SiteError(f"the template's line {interface.line}: {mac[:80]!r} is not the MAC address of an interface",
                        "write for instance <mac address='52:54:00:12:34:56'/>, or leave it out", code="VB103")
    found = {4: "", 6: ""}
    for pool, address in zip(interface.pools, addresses, strict=True):
        found[pool.family] = f"{address}/{pool.prefix}"
    return Net(
        mac=mac,
        address4=found[4], gateway4="" if interface.ipv4 is None else interface.ipv4.gateway,
        address6=found[6], gateway6="" if interface.ipv6 is None else interface.ipv6.gateway,
        dns=tuple(dict.fromkeys(server for pool in interface.pools for server in pool.dns)),
        search=tuple(dict.fromkeys(domain for pool in interface.pools for domain in pool.search)),
    )


def parameters(of: tuple[Net, ...]) -> dict[str, str]:
    """For parameters.sh, as this module's text has them."""
    found = {"VMBATCH_NETS": str(len(of))}
    for number, net in enumerate(of):
        values = {
            "MAC": net.mac, "METHOD": net.method, "ADDRESS4": net.address4, "GATEWAY4": net.gateway4,
            "ADDRESS6": net.address6, "GATEWAY6": net.gateway6, "DNS": " ".join(net.dns), "SEARCH": " ".join(net.search),
        }
        found.update((f"VMBATCH_NET{number}_{name}", value) for name, value in values.items())
    return found


def kernel_words(of: tuple[Net, ...]) -> tuple[str, ...]:
    """For the kernel line, as this module's text has them. SiteError for more than a kernel takes."""
    if len(of) > _LIMIT:
        raise SiteError(f"{len(of)} interfaces are too many for a kernel line, which takes {_LIMIT}",
                        "take <vbkernelline> out of the template, or interfaces", code="VB504")
    return tuple(f"vbnet{number}={_word(net)}" for number, net in enumerate(of))


def _word(net: Net) -> str:
    if net.method == "dhcp":
        return net.mac
    return ",".join((net.mac, net.address4, net.gateway4, net.address6, net.gateway6, ";".join(net.dns), ";".join(net.search)))


def parse_kernel_words(line: str) -> tuple[Net, ...]:
    """The interfaces on a kernel line; other words are passed over. ValueError for a word of ours that is not well-formed."""
    found: dict[int, Net] = {}
    for word in line.split():
        if not re.match(r"vbnet[0-9]*=", word):
            continue
        match = _WORD.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is not vbnetN=MAC or vbnetN=MAC,...")
        if int(match[1]) in found:
            raise ValueError(f"a second vbnet{match[1]}")
        found[int(match[1])] = _parse_word(word, match[2])
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"vbnet{min(set(range(len(found))) - set(found))} is missing")
    return tuple(found[number] for number in range(len(found)))


def _parse_word(word: str, value: str) -> Net:
    fields = value.split(",")
    if len(fields) not in (1, 7) or not _MAC.fullmatch(fields[0]):
        raise ValueError(f"{word!r} does not have a MAC, or a MAC and six fields more")
    if len(fields) == 1:
        return Net(fields[0])
    dns, search = (tuple(item for item in text.split(";") if item) for text in fields[5:])
    net = Net(fields[0], fields[1], fields[2], fields[3], fields[4], dns, search)
    for text in (net.address4, net.address6):
        if text:
            ipaddress.ip_interface(text)
    for text in (net.gateway4, net.gateway6, *dns):
        if text:
            ipaddress.ip_address(text)
    if net.method == "dhcp":
        raise ValueError(f"{word!r} has no address")
    return net


def cloud_v2(of: tuple[Net, ...]) -> dict[str, object]:
    """cloud-init's network-config, version 2, found by MAC.

    `ethN`: before 20.1 the name in here is taken for the interface's (cloudinit/net/network_state.py, handle_ethernets), and the
    images of that time have these names. `gateway4`: most renderers give a default route among `routes` to the first address, of
    whatever family (_v2_to_v1_ipcfg).
    """
    return {"version": 2, "ethernets": {f"eth{number}": _ethernet(net) for number, net in enumerate(of)}}


def _ethernet(net: Net) -> dict[str, object]:
    found: dict[str, object] = {"match": {"macaddress": net.mac}}
    if net.method == "dhcp":
        return {**found, "dhcp4": True}
    found |= {"dhcp4": False, "dhcp6": False, "accept-ra": False,
              "addresses": [address for address in (net.address4, net.address6) if address]}
    for name, gateway in (("gateway4", net.gateway4), ("gateway6", net.gateway6)):
        if gateway:
            found[name] = gateway
    names = {"addresses": list(net.dns), "search": list(net.search)}
    if net.dns or net.search:
        found["nameservers"] = {name: value for name, value in names.items() if value}
    return found


def openstack(of: tuple[Net, ...]) -> dict[str, object]:
    """OpenStack's network_data.json: links by MAC, networks, services (nova/virt/netutils.py, get_network_metadata)."""
    links: list[dict[str, object]] = []
    networks: list[dict[str, object]] = []
    for number, net in enumerate(of):
        link = f"vbnet{number}"
        links.append({"id": link, "type": "phy", "ethernet_mac_address": net.mac})
        found: list[dict[str, object]] = [{"type": "ipv4_dhcp"}] if net.method == "dhcp" else []
        if net.address4:
            found.append(_network("ipv4", net.address4, net.gateway4))
        if net.address6:
            found.append(_network("ipv6", net.address6, net.gateway6))
        if net.search:
            found[0]["dns_search"] = list(net.search)
        for each in found:
            name = f"network{len(networks)}"
            networks.append({"id": name, "network_id": name, "link": link, **each})
    servers = dict.fromkeys(server for net in of for server in net.dns)
    return {"links": links, "networks": networks, "services": [{"type": "dns", "address": server} for server in servers]}


def _network(kind: str, address: str, gateway: str) -> dict[str, object]:
    interface = ipaddress.ip_interface(address)
    nowhere = str(type(interface.ip)(0))
    routes = [{"network": nowhere, "netmask": nowhere, "gateway": gateway}] if gateway else []
    return {"type": kind, "ip_address": str(interface.ip), "netmask": str(interface.netmask), "routes": routes}


def opennebula(of: tuple[Net, ...]) -> dict[str, str]:
    """OpenNebula's variables of a context.sh; none where every interface asks DHCP. SiteError for what the form cannot say.

    Where a variable ETHx_IP is missing, cloud-init makes an IPv4 address of the MAC, also for interfaces that are not in the
    context (cloudinit/sources/DataSourceOpenNebula.py, gen_conf); so it is static IPv4 for all or DHCP for all.
    """
    if all(net.method == "dhcp" for net in of):
        return {}
    found: dict[str, str] = {}
    for number, net in enumerate(of):
        if not net.address4:
            raise SiteError(f"a medium in the form 'opennebula' cannot say that interface {number} "
                            f"{'asks DHCP' if net.method == 'dhcp' else 'has no IPv4 address'} while another one is static",
                            "give every interface a static IPv4 address or none, or choose another format of <vbpreparecdrom>",
                            code="VB505")
        four = ipaddress.IPv4Interface(net.address4)
        values = {"MAC": net.mac, "METHOD": "static", "IP": str(four.ip), "MASK": str(four.netmask),
                  "NETWORK": str(four.network.network_address), "GATEWAY": net.gateway4,
                  "DNS": " ".join(net.dns), "SEARCH_DOMAIN": " ".join(net.search)}
        if net.address6:
            six = ipaddress.IPv6Interface(net.address6)
            values |= {"IP6_METHOD": "static", "IP6": str(six.ip), "IP6_PREFIX_LENGTH": str(six.network.prefixlen),
                       "IP6_GATEWAY": net.gateway6, "GATEWAY6": net.gateway6}
        found.update((f"ETH{number}_{name}", value) for name, value in values.items() if value)
    return found
