"""network.sh: static interfaces, in a network of the test's own, with real tools; what it writes for the guest's services."""

import stat
import subprocess
import time
from pathlib import Path

import pytest

from .guest import KIT, Guest, make_guest

MAC, OTHER_MAC = "52:54:00:aa:bb:01", "52:54:00:aa:bb:02"
DHCP = {"VMBATCH_NETS": "1", "VMBATCH_NET0_MAC": MAC, "VMBATCH_NET0_METHOD": "dhcp"}
TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"
PARTS = "".join(f'. "{KIT}/{part}.sh"\n' for part in ("lib", "network"))
SETUP = """set -e
mount -t sysfs -o ro none "$VMBATCH_ROOT/sys"
mount --bind /proc/sys/net "$VMBATCH_ROOT/proc/sys/net"
ip link add eth0 type veth peer name peer0
ip link set eth0 address 52:54:00:aa:bb:01
ip link add eth1 type veth peer name peer1
ip link set eth1 address 52:54:00:aa:bb:02
ip link set peer0 up
ip link set peer1 up
ip link set lo up
"""
"""Two interfaces as a guest has them, down, with the other end of the cable in a switch."""
SHOW = """echo ==
for device in eth0 eth1 ens3; do
    for word in $(ip addr show dev $device 2>/dev/null); do
        [ "$previous" != inet ] && [ "$previous" != inet6 ] || case $word in fe80:*) ;; *) echo "$device $word" ;; esac
        previous=$word
    done
done
ip route show default
ip -6 route show default | grep -v unreachable || :
"""


def static(number: int = 0, mac: str = MAC, *, address4: str = "", gateway4: str = "", address6: str = "", gateway6: str = "",
           dns: str = "", search: str = "") -> dict[str, str]:
    values = {"MAC": mac, "METHOD": "static", "ADDRESS4": address4, "GATEWAY4": gateway4, "ADDRESS6": address6,
              "GATEWAY6": gateway6, "DNS": dns, "SEARCH": search}
    return {"VMBATCH_NETS": str(number + 1), **{f"VMBATCH_NET{number}_{name}": value for name, value in values.items()}}


BOTH = static(address4="10.0.0.20/24", gateway4="10.0.0.1", address6="fd00::20/64", gateway6="fe80::1", dns="10.0.0.1 fd00::1",
              search="example.org a.org")
FOUR = static(address4="10.0.0.20/24", gateway4="10.0.0.1", dns="10.0.0.1", search="example.org")
SIX = static(address6="fd00::20/64", gateway6="fd00::1", dns="fd00::1")


@pytest.fixture
def wired(guest: Guest) -> Guest:
    return wire(guest)


def wire(guest: Guest) -> Guest:
    for directory in ("sys", "proc/sys/net"):
        (guest.root / directory).mkdir(parents=True)
    guest.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 vm-42\n")
    guest.write("etc/resolv.conf", "nameserver 192.0.2.1\n")
    return guest


def run(guest: Guest, settings: dict[str, str], code: str = "", *, before: str = "", after: str = SHOW,
        times: int = 1) -> list[str]:
    """The lines of `after` once set_network has run, `times` times, in a network namespace; `code` stands in for programs."""
    inner = f"{PARTS}{guest.prelude}{code}\nwaited=0; set -e\nmedium='{guest.medium}'\n" + "set_network\n" * times
    outer = f'{SETUP}{before}\nenv PATH="$GUEST_PATH" "$@" >&2 || exit 9\n{after}'
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--", "/bin/sh", "-c", outer, "sh", *guest.shell, "-c", inner],
        env={"HOME": "/", "VMBATCH_HOSTNAME": "vm-42", **settings, "VMBATCH_ROOT": str(guest.root),
             "PATH": TOOLS, "GUEST_PATH": f"{guest.path}:{TOOLS}"},
        capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return [" ".join(line.split()) for line in done.stdout.partition("==\n")[2].splitlines()]


def failure(guest: Guest, settings: dict[str, str], code: str = "") -> str:
    """The reason of the failure."""
    inner = (f"{PARTS}{guest.prelude}{code}\nwaited=0; set -e\n"
             "trap 'echo \"=$reason=${reason:+.} while $doing\"' EXIT\nset_network\n")
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--", "/bin/sh", "-c", f'{SETUP}env PATH="$GUEST_PATH" "$@"', "sh",
         *guest.shell, "-c", inner],
        env={**settings, "VMBATCH_ROOT": str(guest.root), "PATH": TOOLS, "GUEST_PATH": f"{guest.path}:{TOOLS}"},
        capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode not in (0, 9), done.stderr
    return done.stdout.strip()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


WITHOUT_IP = "apply_ip() { apply_ifconfig; }"


@pytest.mark.parametrize("code", ["", WITHOUT_IP], ids=["ip", "ifconfig"])
@pytest.mark.parametrize("times", [1, 2])
def test_set_at_once(wired: Guest, code: str, times: int) -> None:
    found = run(wired, BOTH, code, times=times)
    assert found[:2] == ["eth0 10.0.0.20/24", "eth0 fd00::20/64"]
    assert [line.split()[:5] for line in found[2:]] == [
        ["default", "via", "10.0.0.1", "dev", "eth0"], ["default", "via", "fe80::1", "dev", "eth0"]]


@pytest.mark.parametrize("code", ["", WITHOUT_IP], ids=["ip", "ifconfig"])
def test_ipv6_alone(wired: Guest, code: str) -> None:
    found = run(wired, SIX, code, after=f"{SHOW}ip -6 addr show dev eth0 tentative\ncat /proc/sys/net/ipv6/conf/eth0/accept_ra")
    assert found[0] == "eth0 fd00::20/64"
    assert found[1].startswith("default via fd00::1 dev eth0")
    assert found[2:] == ["0"], "no address may be tentative, and no router may change anything"


@pytest.mark.parametrize("prefix", [1, 8, 12, 23, 30, 31, 32])
def test_other_netmasks(wired: Guest, prefix: int) -> None:
    for code in ("", WITHOUT_IP):
        assert run(wired, static(address4=f"10.0.0.20/{prefix}"), code) == [f"eth0 10.0.0.20/{prefix}"]


def test_what_dhcp_gave_is_gone(wired: Guest) -> None:
    before = ("ip addr add 10.0.0.99/24 dev eth0; ip addr add 10.9.0.5/16 dev eth0; ip link set eth0 up\n"
              "ip route add default via 10.9.0.1")
    for each in (FOUR, FOUR):
        assert run(wired, each, before=before) == ["eth0 10.0.0.20/24", "default via 10.0.0.1 dev eth0 proto static"]
    before = "ip addr add 10.0.0.99/24 dev eth0; ip addr add 10.0.0.20/24 dev eth0; ip link set eth0 up"
    assert run(wired, FOUR, before=before) == ["eth0 10.0.0.20/24", "default via 10.0.0.1 dev eth0 proto static"]


def test_several_interfaces(wired: Guest) -> None:
    second = static(1, OTHER_MAC, address4="10.1.0.20/24", address6="fd01::20/64", dns="10.1.0.1 10.0.0.1", search="a.org b.org")
    found = run(wired, BOTH | second)
    assert found[:4] == ["eth0 10.0.0.20/24", "eth0 fd00::20/64", "eth1 10.1.0.20/24", "eth1 fd01::20/64"]
    assert wired.read("etc/resolv.conf") == (
        "search example.org a.org b.org\nnameserver 10.0.0.1\nnameserver fd00::1\nnameserver 10.1.0.1\n")
    assert wired.read("etc/hosts").splitlines()[1:] == [
        "# VmBatch: hosts of the job", "10.0.0.20 vm-42", "fd00::20 vm-42", "# VmBatch: end"]


def services(guest: Guest) -> None:
    """A guest that has every kind of network configuration."""
    for directory in ("lib/systemd/network", "run/systemd", "etc/NetworkManager", "etc/sysconfig/network-scripts"):
        (guest.root / directory).mkdir(parents=True)
    guest.write("etc/network/interfaces", "auto lo\niface lo inet loopback\n")


def files(guest: Guest) -> dict[str, str]:
    return {str(path.relative_to(guest.root)): path.read_text() for name in ("etc", "run") if (guest.root / name).exists()
            for path in (guest.root / name).rglob("*") if path.is_file()}


@pytest.mark.parametrize("settings", [{}, {"VMBATCH_NETS": "0"}, DHCP], ids=["none", "0", "dhcp"])
def test_dhcp_is_left_to_the_guest(wired: Guest, settings: dict[str, str]) -> None:
    services(wired)
    before = files(wired)
    assert run(wired, settings) == []
    assert files(wired) == before


def test_dhcp_beside_static(wired: Guest) -> None:
    services(wired)
    settings = DHCP | static(1, OTHER_MAC, address4="10.1.0.20/24")
    found = run(wired, settings, after=f'{SHOW}cat "$VMBATCH_ROOT/sys/class/net/eth0/flags"')
    assert found[0] == "eth1 10.1.0.20/24"
    assert int(found[-1], 16) & 1 == 0, "the other one is still down"
    assert not any("eth0" in text or MAC in text for text in files(wired).values())


def test_written_down(wired: Guest) -> None:
    services(wired)
    for _ in range(2):
        run(wired, BOTH)
        assert wired.read("run/systemd/network/01-vmbatch-0.network") == (
            f"[Match]\nMACAddress={MAC}\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\nIPv6DuplicateAddressDetection=0\n"
            "Address=10.0.0.20/24\nAddress=fd00::20/64\nGateway=10.0.0.1\nGateway=fe80::1\nDNS=10.0.0.1\nDNS=fd00::1\n"
            "Domains=example.org a.org\n")
        assert wired.read("etc/network/interfaces") == (
            "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet static\n"
            "    pre-up ip addr flush dev eth0 2>/dev/null || ifconfig eth0 0.0.0.0 || true\n"
            "    pre-up ip link set dev eth0 down 2>/dev/null || ifconfig eth0 down || true\n"
            "    address 10.0.0.20\n    netmask 255.255.255.0\n    gateway 10.0.0.1\n"
            "    dns-nameservers 10.0.0.1 fd00::1\n    dns-search example.org a.org\n"
            "iface eth0 inet6 static\n    address fd00::20\n    netmask 64\n    gateway fe80::1\n"
            "    accept_ra 0\n    autoconf 0\n    dad-attempts 0\n")
        profile = wired.root / "etc/NetworkManager/system-connections/vmbatch-0.nmconnection"
        assert profile.read_text() == (
            "[connection]\nid=vmbatch-0\nuuid=00000000-0000-4000-8000-525400aabb01\ntype=802-3-ethernet\nautoconnect=true\n"
            f"autoconnect-priority=999\n\n[802-3-ethernet]\nmac-address={MAC}\n\n"
            "[ipv4]\nmethod=manual\naddress1=10.0.0.20/24,10.0.0.1\ndad-timeout=0\ndns=10.0.0.1;\ndns-search=example.org;a.org;\n\n"
            "[ipv6]\nmethod=manual\naddress1=fd00::20/64,fe80::1\ndad-timeout=0\ndns=fd00::1;\ndns-search=example.org;a.org;\n")
        assert mode(profile) == 0o600
        assert wired.read("etc/sysconfig/network-scripts/ifcfg-eth0") == (
            f"DEVICE=eth0\nHWADDR={MAC}\nTYPE=Ethernet\nONBOOT=yes\nBOOTPROTO=none\nARPCHECK=no\nIPADDR=10.0.0.20\n"
            "NETMASK=255.255.255.0\nPREFIX=24\nGATEWAY=10.0.0.1\nIPV6INIT=yes\nIPV6_AUTOCONF=no\nIPV6ADDR=fd00::20/64\n"
            "IPV6_DEFAULTGW=fe80::1\nDNS1=10.0.0.1\nDNS2=fd00::1\nDOMAIN=\"example.org a.org\"\n")
        assert wired.read("etc/resolv.conf") == "search example.org a.org\nnameserver 10.0.0.1\nnameserver fd00::1\n"
        assert wired.read("etc/hosts") == (
            "127.0.0.1 localhost\n# VmBatch: hosts of the job\n10.0.0.20 vm-42\nfd00::20 vm-42\n# VmBatch: end\n")
    assert mode(wired.root / "etc/hosts") == mode(wired.root / "etc/resolv.conf") == 0o644


def test_written_down_for_one_family(wired: Guest) -> None:
    services(wired)
    run(wired, static(address4="10.0.0.20/24"))
    assert wired.read("run/systemd/network/01-vmbatch-0.network") == (
        f"[Match]\nMACAddress={MAC}\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\nIPv6DuplicateAddressDetection=0\n"
        "LinkLocalAddressing=no\nAddress=10.0.0.20/24\n")
    profile = "etc/NetworkManager/system-connections/vmbatch-0.nmconnection"
    assert wired.read(profile).partition("[ipv4]")[2] == (
        "\nmethod=manual\naddress1=10.0.0.20/24\ndad-timeout=0\n\n[ipv6]\nmethod=ignore\n")
    assert "inet6" not in wired.read("etc/network/interfaces")
    assert "IPV6" not in wired.read("etc/sysconfig/network-scripts/ifcfg-eth0")
    assert wired.read("etc/resolv.conf") == "nameserver 192.0.2.1\n", "no name servers, nothing changed"

    wired.write("etc/network/interfaces", "")
    run(wired, SIX)
    assert wired.read("etc/network/interfaces") == (
        "auto eth0\niface eth0 inet6 static\n"
        "    pre-up ip addr flush dev eth0 2>/dev/null || ifconfig eth0 0.0.0.0 || true\n"
        "    pre-up ip link set dev eth0 down 2>/dev/null || ifconfig eth0 down || true\n"
        "    address fd00::20\n    netmask 64\n    gateway fd00::1\n    accept_ra 0\n    autoconf 0\n    dad-attempts 0\n"
        "    dns-nameservers fd00::1\n")
    assert "[ipv4]\nmethod=disabled\n\n[ipv6]\nmethod=manual\naddress1=fd00::20/64,fd00::1\n" in wired.read(profile)
    assert "IPADDR" not in wired.read("etc/sysconfig/network-scripts/ifcfg-eth0")
    assert wired.read("etc/hosts").splitlines()[-3:] == ["# VmBatch: hosts of the job", "fd00::20 vm-42", "# VmBatch: end"]


def test_nothing_is_written_for_services_that_are_not_there(wired: Guest) -> None:
    before = files(wired)
    run(wired, BOTH)
    assert files(wired).keys() == before.keys()


def test_systemd_before_it_has_run(wired: Guest) -> None:
    (wired.root / "usr/lib/systemd/network").mkdir(parents=True)
    run(wired, BOTH)
    assert (wired.root / "etc/systemd/network/01-vmbatch-0.network").exists()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("iface eth0 inet dhcp\n", "auto eth0\n"),
        ("auto eth0\niface eth0 inet dhcp\n    metric 5\n\tpre-up echo\n\niface eth1 inet dhcp\n    metric 6\n",
         "\niface eth1 inet dhcp\n    metric 6\nauto eth0\n"),
        ("# eth0\n  auto   eth0\n\tiface\teth0 \tinet dhcp\n  # kept\n    up a \\\n iface eth1 \\\n x\nsource /x/*\n",
         "# eth0\n  # kept\nsource /x/*\nauto eth0\n"),
        ("auto lo eth0 eth1\niface eth0 inet dhcp\nallow-hotplug eth0\nmapping eth*\n  script x\n",
         "auto lo eth0 eth1\nallow-hotplug eth0\nmapping eth*\n  script x\n"),
        ("iface eth0 inet6 auto\niface eth01 inet dhcp\n  a \\\\ b\n  c 'd' \"$e\" `f` *\niface xeth0 inet dhcp",
         "iface eth01 inet dhcp\n  a \\\\ b\n  c 'd' \"$e\" `f` *\niface xeth0 inet dhcp\nauto eth0\n"),
        ("auto eth0\niface eth0 inet static\n address 10.0.0.5\nsource-directory interfaces.d\nauto eth1\n",
         "source-directory interfaces.d\nauto eth1\nauto eth0\n"),
    ],
)
def test_stanzas_of_others(wired: Guest, text: str, left: str) -> None:
    wired.write("etc/network/interfaces", text, 0o640)
    ours = "iface eth0 inet static\n"
    for _ in range(2):
        run(wired, static(address4="10.0.0.20/24"))
        found, _, rest = wired.read("etc/network/interfaces").partition(ours)
        assert found == left
        assert rest.count("iface eth0") == 0
        assert rest.endswith("    address 10.0.0.20\n    netmask 255.255.255.0\n")
    assert mode(wired.root / "etc/network/interfaces") == 0o640


def test_stanzas_in_other_files(wired: Guest) -> None:
    wired.write("etc/network/interfaces", "source /etc/network/interfaces.d/*\n")
    wired.write("etc/network/interfaces.d/50-cloud-init", "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n")
    wired.write("run/network/interfaces.d/eth0", "auto eth0\niface eth0 inet dhcp\n")
    run(wired, FOUR)
    assert wired.read("etc/network/interfaces.d/50-cloud-init") == "auto lo\niface lo inet loopback\n"
    assert wired.read("run/network/interfaces.d/eth0") == ""
    assert wired.read("etc/network/interfaces").splitlines()[:3] == [
        "source /etc/network/interfaces.d/*", "auto eth0", "iface eth0 inet static"]


def test_a_link_is_not_written_through(wired: Guest) -> None:
    services(wired)
    for name in ("etc/sysconfig/network-scripts/ifcfg-eth0", "etc/NetworkManager/system-connections/vmbatch-0.nmconnection"):
        (wired.root / name).parent.mkdir(exist_ok=True)
        (wired.root / name).symlink_to(wired.write("etc/precious", "precious"))
    run(wired, FOUR)
    assert wired.read("etc/precious") == "precious"


@pytest.mark.parametrize(
    ("target", "written"),
    [
        ("../run/systemd/resolve/stub-resolv.conf", "run/systemd/resolved.conf.d/vmbatch.conf"),
        ("/run/systemd/resolve/resolv.conf", "run/systemd/resolved.conf.d/vmbatch.conf"),
        ("../tmp/resolv.conf", "tmp/resolv.conf"),
        ("/run/resolvconf/resolv.conf", "run/resolvconf/resolv.conf"),
        ("resolv.conf.real", "etc/resolv.conf.real"),
        ("", "etc/resolv.conf"),
    ],
)
def test_resolver(wired: Guest, target: str, written: str) -> None:
    (wired.root / "etc/resolv.conf").unlink()
    if target:
        (wired.root / "etc/resolv.conf").symlink_to(target)
    for _ in range(2):
        run(wired, BOTH)
    link = wired.root / "etc/resolv.conf"
    assert (str(link.readlink()) if link.is_symlink() else "") == target
    expected = "search example.org a.org\nnameserver 10.0.0.1\nnameserver fd00::1\n"
    if "resolved" in written:
        expected = "[Resolve]\nDNS=10.0.0.1 fd00::1\nDomains=example.org a.org\n"
    assert wired.read(written) == expected


HOSTS = "10.0.0.30 vm-42-1 node1\n10.0.0.20 vm-42 node0\n"


def test_hosts_of_the_job(wired: Guest) -> None:
    wired.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 vm-42\n::1 localhost\n\n# end", 0o640)
    wired.add_to_medium("hosts", HOSTS)
    block = f"# VmBatch: hosts of the job\n{HOSTS}# VmBatch: end\n"
    for _ in range(2):
        run(wired, DHCP)
        assert wired.read("etc/hosts") == f"127.0.0.1 localhost\n127.0.1.1 vm-42\n::1 localhost\n\n# end\n{block}"
    for _ in range(2):
        run(wired, FOUR)
        assert wired.read("etc/hosts") == f"127.0.0.1 localhost\n::1 localhost\n\n# end\n{block}", "its own name is there already"
    assert mode(wired.root / "etc/hosts") == 0o640
    run(wired, static(address4="10.0.0.2/24"))
    assert wired.read("etc/hosts").endswith(block.replace("job\n", "job\n10.0.0.2 vm-42\n", 1))
    (wired.medium / "hosts").unlink()
    run(wired, DHCP)
    assert wired.read("etc/hosts") == "127.0.0.1 localhost\n::1 localhost\n\n# end\n"


def test_no_hosts_file(wired: Guest) -> None:
    (wired.root / "etc/hosts").unlink()
    run(wired, DHCP)
    assert not (wired.root / "etc/hosts").exists()
    run(wired, FOUR)
    assert wired.read("etc/hosts") == "# VmBatch: hosts of the job\n10.0.0.20 vm-42\n# VmBatch: end\n"


def test_no_hostname(wired: Guest) -> None:
    before = wired.read("etc/hosts")
    run(wired, FOUR | {"VMBATCH_HOSTNAME": ""})
    assert wired.read("etc/hosts") == before


def test_an_interface_that_is_not_there(wired: Guest) -> None:
    code = "modprobe() { :; }\npause() { waited=$((waited + 500)); }"
    found = failure(wired, static(mac="52:54:00:00:00:99", address4="10.0.0.20/24"), code)
    assert found == ("=no interface has the address 52:54:00:00:00:99 after 10 seconds; there is eth0 52:54:00:aa:bb:01, "
                     "eth1 52:54:00:aa:bb:02, lo 00:00:00:00:00:00, " + found.partition("00:00:00:00:00:00, ")[2])
    assert "peer0 " in found
    assert found.endswith("=. while looking for the interface 52:54:00:00:00:99")


def test_an_interface_that_comes_late(wired: Guest) -> None:
    """Its driver is a module that somebody must load."""
    late = "52:54:00:00:00:99"
    code = ("modprobe() { loaded=$1; }\n"
            f"pause() {{ waited=$((waited + 50)); [ $waited -lt 200 ] || ip link set eth0 address {late}; }}")
    assert run(wired, static(mac=late, address4="10.0.0.20/24"), code) == ["eth0 10.0.0.20/24"]


def test_udev_renames_first(wired: Guest) -> None:
    wired.write("run/udev/control", "")
    (wired.root / "run/udev/data").mkdir()
    index = '"$(cat $root/sys/class/net/e*/ifindex | head -n 1)"'
    code = (f'pause() {{ waited=$((waited + 50)); [ $waited -ne 150 ] || {{ index={index}; ip link set eth0 name ens3; '
            ': >"$root/run/udev/data/n$index"; }; [ $waited -lt 1000 ] || exit 7; }')
    assert run(wired, FOUR, code) == ["ens3 10.0.0.20/24", "default via 10.0.0.1 dev ens3 proto static"]


def test_udev_that_never_comes(wired: Guest) -> None:
    wired.write("run/udev/control", "")
    code = "pause() { waited=$((waited + 500)); [ $waited -le 3000 ] || exit 7; }"
    assert run(wired, static(address4="10.0.0.20/24"), code) == ["eth0 10.0.0.20/24"]


@pytest.mark.parametrize(("tool", "begin"), [("ip", "link set dev eth0 up"), ("ifconfig", "eth0 up")])
def test_udev_renames_it_under_our_hands(wired: Guest, tool: str, begin: str) -> None:
    """It is only being started when we look, and has no /run/udev yet."""
    rename = f'case "$*${{renamed-}}" in "{begin}") renamed=yes; command ip link set eth0 name ens3 ;; esac'
    code = f"{tool}() {{ {rename}; command {tool} \"$@\"; }}\n{WITHOUT_IP if tool == 'ifconfig' else ''}"
    assert run(wired, FOUR, code) == ["ens3 10.0.0.20/24", "default via 10.0.0.1 dev ens3"
                                      + (" proto static" if tool == "ip" else "")]


def test_sys_has_the_old_name_for_a_moment(wired: Guest) -> None:
    """The kernel renames it there last (net/core/dev.c, dev_change_name)."""
    first = '"link set dev eth0 up" | "link set dev eth0 up.") count=${count-}.; return 1 ;;'
    then = '"link set dev eth0 up..") count=...; command ip link set eth0 name ens3 ;;'
    code = f'ip() {{ case "$*${{count-}}" in {first} {then} esac; command ip "$@"; }}'
    assert run(wired, FOUR, code) == ["ens3 10.0.0.20/24", "default via 10.0.0.1 dev ens3 proto static"]


def test_an_interface_that_cannot_be_brought_up(wired: Guest) -> None:
    """It is tried for two seconds."""
    code = 'ip() { case $* in "link set dev eth0 up") return 2 ;; esac; command ip "$@"; }'
    assert failure(wired, FOUR, code).endswith("while setting up eth0")


@pytest.mark.parametrize("name", ["dhclient", "udhcpc", "dhcpcd"])
def test_clients_of_dhcp_are_ended(wired: Guest, tmp_path: Path, name: str) -> None:
    """Those of this interface, and none else."""
    client = tmp_path / name
    client.write_text("#!/bin/sh\nwhile :; do sleep 0.1; done\n")
    client.chmod(0o755)
    running = [subprocess.Popen([client, *words]) for words in (["-i", "eth0"], ["-i", "eth1"], ["-i", "eth00"])]
    try:
        time.sleep(0.2)
        for process in running:
            (wired.root / "proc" / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        run(wired, FOUR)
        assert running[0].wait(5) == -9
        assert [process.poll() for process in running[1:]] == [None, None]
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_a_tool_that_fails(wired: Guest) -> None:
    found = failure(wired, static(address4="10.0.0.20/99"))
    assert found.endswith("while setting up eth0")


NETWORKD = """echo ==
umount -R /sys; mount -t sysfs -o ro none /sys
mount -t tmpfs none /run; mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif
cp "$VMBATCH_ROOT"/run/systemd/network/* /run/systemd/network/
printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=yes\\n' >/run/systemd/network/10-netplan-all.network
/lib/systemd/systemd-networkd >/dev/null 2>&1 &
/lib/systemd/systemd-networkd-wait-online -i eth0 --timeout=20 2>/dev/null
echo "online $?"
kill $!
"""
"""Its udev is not there: networkd does without where /sys is read-only, as in containers."""


@pytest.mark.parametrize("settings", [BOTH, FOUR, SIX], ids=["both", "IPv4", "IPv6"])
@pytest.mark.parametrize("before", ["set", "not set"])
def test_networkd_agrees(tmp_path: Path, settings: dict[str, str], before: str) -> None:
    """The service itself: it prefers our file to one that asks DHCP, and a guest that waits for the network waits for nothing."""
    guest = wire(make_guest(tmp_path, "dash"))
    services(guest)
    reset = "ip addr flush dev eth0; ip link set dev eth0 down\n" if before == "not set" else ""
    begin = time.monotonic()
    found = run(guest, settings, after=f"{reset}{NETWORKD}{SHOW}")
    assert time.monotonic() - begin < 15
    assert found[:2] == ["online 0", "=="]
    addresses = [settings["VMBATCH_NET0_ADDRESS4"], settings["VMBATCH_NET0_ADDRESS6"]]
    assert [line for line in found if line.startswith("eth0 ")] == [f"eth0 {address}" for address in addresses if address]
    for gateway in (settings["VMBATCH_NET0_GATEWAY4"], settings["VMBATCH_NET0_GATEWAY6"]):
        assert not gateway or sum(f"via {gateway} dev eth0" in line for line in found) == 1


@pytest.mark.parametrize("settings", [BOTH, FOUR, SIX], ids=["both", "IPv4", "IPv6"])
def test_ifup_agrees(tmp_path: Path, settings: dict[str, str]) -> None:
    """BusyBox's, which like Debian's adds addresses itself and fails if they are there."""
    guest = wire(make_guest(tmp_path, "busybox"))
    guest.write("etc/network/interfaces", "auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n")
    guest.write("bin/run-parts", "#!/bin/sh\n", 0o755)
    ifup = ('echo ==; mount -t tmpfs none /run\n'
            'PATH=$VMBATCH_ROOT/bin:$PATH busybox ifup -i "$VMBATCH_ROOT/etc/network/interfaces" eth0 2>&1; echo "ifup $?"\n')
    found = run(guest, settings, after=ifup + SHOW)
    assert found[:2] == ["ifup 0", "=="]
    addresses = [settings["VMBATCH_NET0_ADDRESS4"], settings["VMBATCH_NET0_ADDRESS6"]]
    assert [line for line in found if line.startswith("eth0 ")] == [f"eth0 {address}" for address in addresses if address]
    for gateway in (settings["VMBATCH_NET0_GATEWAY4"], settings["VMBATCH_NET0_GATEWAY6"]):
        assert not gateway or sum(f"via {gateway} dev eth0" in line for line in found) == 1
