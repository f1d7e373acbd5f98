"""A guest's messages are hostile input: a NodeError or a value that can be shown and used."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.errors import NodeError
from vmbatch.guest import MESSAGE_BYTES, Message, parse_message, printable, spans

from .sample import OTHER_TOKEN, TOKEN

HEAD = f"vmbatch 1 announce {TOKEN} ".encode()
ADDRESSES = {
    "10.77.0.5": "10.77.0.5",
    "2001:db8::5": "2001:db8::5",
    "2001:DB8:0::5": "2001:db8::5",
    "::ffff:10.77.0.5": "10.77.0.5",
}
NO_ADDRESSES = [
    "127.0.0.1",
    "127.9.9.9",
    str(ipaddress.IPv4Address(0)),
    "::",
    "::1",
    "224.0.0.1",
    "ff02::1",
    "fe80::1%eth0",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:0.0.0.0",
    "1",
    "10.1",
    "010.0.0.1",
    "0x7f.1",
    "10.0.0.1/8",
    "10.0.0.1 ",
    " 10.0.0.1",
    "10.0.0.1;id",
    "-oProxyCommand=id",
    "localhost",
    "10.0.0.1\r",
    "10.0.0.1\x00",
    "１０.0.0.1",
    "[::2]",
    "10.0.0.1 10.0.0.2",
]


def is_harmless(text: str) -> bool:
    """No control character, no escape sequence, one line, bounded."""
    return text.isprintable() and len(text) <= 600


@pytest.mark.parametrize("kind", ["announce", "ready"])
@pytest.mark.parametrize(("written", "meant"), ADDRESSES.items())
def test_address(kind: str, written: str, meant: str) -> None:
    assert parse_message(f"vmbatch 1 {kind} {TOKEN} {written}\n".encode(), TOKEN) == Message(kind, address=meant)


@pytest.mark.parametrize("address", NO_ADDRESSES, ids=ascii)
def test_no_address(address: str) -> None:
    with pytest.raises(NodeError, match="the guest says its address is") as caught:
        parse_message(HEAD + address.encode() + b"\n", TOKEN)
    assert is_harmless(caught.value.what)


def test_failed() -> None:
    said = parse_message(f"vmbatch 1 failed {TOKEN} cannot \x1b[31mmount\x1b[0m /mnt\n".encode(), TOKEN)
    assert said == Message("failed", text="cannot mount /mnt")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"vmbatch",
        b"vmbatch 1\n",
        b"vmbatch 1 announce\n",
        HEAD,
        HEAD + b"\n",
        HEAD + b"10.0.0.1",
        b"vmbatch 2" + HEAD[9:] + b"10.0.0.1\n",
        b" " + HEAD + b"10.0.0.1\n",
        HEAD + b"10.0.0.1\n\n",
        HEAD + b"10.0.0.1\nmore",
        HEAD.replace(b"announce", b"ANNOUNCE") + b"10.0.0.1\n",
        HEAD.replace(b" 1 ", b"\t1 ") + b"10.0.0.1\n",
        HEAD.replace(b"announce", b"explode") + b"10.0.0.1\n",
        HEAD + b"x" * 601 + b"\n",
        HEAD + b"x" * (2 * MESSAGE_BYTES),
        b"\x00" * 100,
        HEAD.upper() + b"10.0.0.1\n",
        HEAD.replace(b"0123", "٠١٢٣".encode()) + b"10.0.0.1\n",
    ],
    ids=lambda data: ascii(data[:40]),
)
def test_not_one_of_the_kits(data: bytes) -> None:
    with pytest.raises(NodeError, match="a message that is not one of the kit's"):
        parse_message(data, TOKEN)


@pytest.mark.error("VB709")
def test_another_starts_token() -> None:
    with pytest.raises(NodeError, match="another start's token"):
        parse_message(HEAD + b"10.0.0.1\n", OTHER_TOKEN)


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda tail: HEAD + tail)
    | st.binary(max_size=300).map(lambda tail: HEAD.replace(b"announce", b"failed") + tail)
)
def test_never_anything_but_a_node_error(data: bytes) -> None:
    try:
        message = parse_message(data, TOKEN)
    except NodeError as error:
        assert is_harmless(error.what)
        return
    assert is_harmless(message.text)
    if message.kind != "failed":
        assert str(ipaddress.ip_address(message.address)) == message.address


@given(st.binary(), st.integers(0, 600))
def test_printable(data: bytes, limit: int) -> None:
    text = printable(data, limit)
    assert text.isprintable()
    assert len(text) <= limit


def test_times_of_a_boot() -> None:
    text = parse_message(f"vmbatch 1 times {TOKEN} 1.25 2.5 2.5 4\n".encode(), TOKEN).text
    assert spans(text) == {"kernel": 1.25, "boot": 1.25, "network": 0.0, "shares": 1.5}


@pytest.mark.parametrize("text", ["", "1 2 3", "1 2 3 4 5", "1 2 3 -4", "1 2 3 nan", "1 2 3 1e9", "1  2 3 4", "12345678 2 3 4",
                                  "a b c d"])
def test_times_that_are_none(text: str) -> None:
    assert spans(text) == {}


def test_a_clock_that_runs_backwards() -> None:
    assert spans("4 3 2 1") == {"kernel": 4.0, "boot": 0.0, "network": 0.0, "shares": 0.0}
