"""share.sh: which address of ours the share's server sees."""

from .guest import Guest

OLD_IFCONFIG = """eth0      Link encap:Ethernet  HWaddr 52:54:00:00:00:01
          inet addr:10.0.0.5  Bcast:10.0.0.255  Mask:255.255.255.0
lo        Link encap:Local Loopback
          inet addr:127.0.0.1  Mask:255.0.0.0"""
NEW_IFCONFIG = """lo: flags=73<UP,LOOPBACK,RUNNING>  mtu 65536
        inet 127.0.0.1  netmask 255.0.0.0
eth0: flags=4163<UP>  mtu 1500
        inet 10.0.0.6  netmask 255.255.255.0  broadcast 10.0.0.255"""
IP_ADDRESS = """1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN
    inet 127.0.0.1/8 scope host lo
2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500
    inet 10.0.0.7/24 brd 10.0.0.255 scope global eth0"""


def find(guest: Guest, source: str = "10.77.0.1:/share", **programs: str) -> str:
    """What find_address finds where each program prints that text, or fails."""
    guest.functions |= {name: f"cat <<'EOF'\n{text}\nEOF" for name, text in programs.items()}
    for name in {"ip", "ifconfig", "hostname", "getent"} - programs.keys():
        guest.functions[name] = "return 127"
    guest.functions["sleep"] = '[ "$1" = 1 ]'
    code = 'trap \'echo "$reason"\' EXIT; find_address; echo "$server $address"'
    return guest.evaluate(code, {"VMBATCH_SHARE_SOURCE": source}).strip()


def test_by_the_route(guest: Guest) -> None:
    for line in (
        "10.77.0.1 dev eth0 src 10.77.0.42 uid 0\n    cache",
        "10.77.0.1 via 10.0.0.1 dev eth0  src 10.77.0.42\n    cache  mtu 1500 advmss 1460 hoplimit 64",
        "10.77.0.1 dev eth0 src 10.77.0.42",
    ):
        assert find(guest, ip=line) == "10.77.0.1 10.77.0.42"


def test_ipv6(guest: Guest) -> None:
    line = "fd00::1 from :: dev eth0 proto ra src fd00::42 metric 256 pref medium"
    assert find(guest, "[fd00::1]:/share", ip=line) == "fd00::1 fd00::42"


def test_server_by_name(guest: Guest) -> None:
    line = "10.77.0.9 dev eth0 src 10.77.0.42 uid 0"
    assert find(guest, "nfs.example.org:/x", ip=line, getent="10.77.0.9  nfs.example.org") == "10.77.0.9 10.77.0.42"


def test_no_way_yet(guest: Guest) -> None:
    assert find(guest) == "no network within 120 seconds: no address towards 10.77.0.1"
    assert find(guest, ip="RTNETLINK answers: Network is unreachable").startswith("no network")


def test_network_comes_up(guest: Guest) -> None:
    state = guest.root / "up"
    guest.functions |= {
        "ip": f'[ -f "{state}" ] && echo "10.77.0.1 dev eth0 src 10.77.0.42"',
        "sleep": f'touch "{state}"',
    }
    code = 'find_address; echo "$address"'
    assert guest.evaluate(code, {"VMBATCH_SHARE_SOURCE": "10.77.0.1:/x"}) == "10.77.0.42\n"


def any_address(guest: Guest, **programs: str) -> str:
    find(guest, **programs)
    return guest.evaluate('any_address && echo "$address"').strip()


def test_without_ip(guest: Guest) -> None:
    assert any_address(guest, ifconfig=OLD_IFCONFIG) == "10.0.0.5"
    assert any_address(guest, ifconfig=NEW_IFCONFIG) == "10.0.0.6"
    assert any_address(guest, hostname="127.0.0.1 10.0.0.8 172.17.0.1") == "10.0.0.8"
    assert any_address(guest, ip=IP_ADDRESS) == "10.0.0.7"
    assert any_address(guest) == ""


def test_no_server(guest: Guest) -> None:
    assert find(guest, "tag", ip=IP_ADDRESS) == "10.0.0.7"
    assert find(guest, "") == "the context names no share to mount"
