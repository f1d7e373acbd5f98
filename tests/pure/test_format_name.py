"""Names of formats: alone, or with the tool that is to make it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.format import FormatError
from vmbatch.format.name import FORMATS, TOOLS, Form, parse_form

NAMES = {
    "raw": Form("", "raw"),
    "qcow2": Form("", "qcow2"),
    "qcow": Form("", "qcow"),
    "vhd": Form("", "vhd"),
    "vhd-fixed": Form("", "vhd-fixed"),
    "vpc": Form("", "vhd"),
    "qemu-img-raw": Form("qemu-img", "raw"),
    "qemu-img-qcow2": Form("qemu-img", "qcow2"),
    "qemu-img-qcow": Form("qemu-img", "qcow"),
    "qemu-img-vhd": Form("qemu-img", "vhd"),
    "qemu-img-vhd-fixed": Form("qemu-img", "vhd-fixed"),
    "qemu-img-vpc": Form("qemu-img", "vhd"),
    "vhd-util-vhd": Form("vhd-util", "vhd"),
    "vhd-util-vhd-fixed": Form("vhd-util", "vhd-fixed"),
    "qcow-create-qcow": Form("qcow-create", "qcow"),
}
ALL = (
    "there are raw, qcow2, qcow, vhd, vhd-fixed, qemu-img-raw, qemu-img-qcow2, qemu-img-qcow, qemu-img-vhd, "
    "qemu-img-vhd-fixed, vhd-util-vhd, vhd-util-vhd-fixed, qcow-create-qcow"
)


@pytest.mark.parametrize(("text", "form"), NAMES.items())
def test_name(text: str, form: Form) -> None:
    assert parse_form(text) == form


def test_there_are_no_others() -> None:
    assert {*FORMATS, "vpc", *(f"{tool}-{form}" for tool, forms in TOOLS.items() for form in forms)} == set(NAMES)


@pytest.mark.parametrize(
    "text",
    ["", "-", "Raw", "raw ", " raw", "raw\n", "vmdk", "aio", "fixed", "vhd-util", "vhd-util-", "vhd-util-raw", "vhd-util-vpc",
     "vhd-util-vhd-", "qcow-create-qcow2", "qcow-create", "qemu-img", "qemu-img-vmdk", "-raw", "img-raw", "vhd-util-vhd-util-vhd",
     "/usr/bin/qemu-img-raw"],
)
def test_no_name(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_form(text)
    assert (caught.value.what, caught.value.hint) == (f"no such format: {text}", ALL)


@pytest.mark.parametrize("form", sorted(set(NAMES.values()), key=str), ids=str)
def test_what_is_shown_reads_back(form: Form) -> None:
    assert parse_form(str(form)) == form


@given(st.text() | st.text("qemu-imgvhdtilcowraw2pxf", max_size=20))
def test_only_format_errors(text: str) -> None:
    try:
        assert parse_form(text).format in FORMATS
    except FormatError as error:
        assert error.hint == ALL
