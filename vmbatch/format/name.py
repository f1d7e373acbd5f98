"""Names of formats in templates: a format alone, or, as VmBatch always wrote it, a tool, a dash and a format."""

import msgspec

from . import FormatError

FORMATS = ("raw", "qcow2", "qcow", "vhd", "vhd-fixed")
"""`vhd` is a dynamic one, or a differencing one if it is an overlay."""
TOOLS: dict[str, tuple[str, ...]] = {
    "qemu-img": ("raw", "qcow2", "qcow", "vhd", "vhd-fixed", "vpc"),
    "vhd-util": ("vhd", "vhd-fixed"),
    "qcow-create": ("qcow",),
}
_ALIASES = {"vpc": "vhd"}


class Form(msgspec.Struct, frozen=True):
    """A format, and the tool that is to make it; '' for VmBatch itself."""

    tool: str
    format: str

    def __str__(self) -> str:
        return f"{self.tool}-{self.format}" if self.tool else self.format


def parse_form(text: str) -> Form:
    """`qcow2`, `vhd-util-vhd`, `qemu-img-qcow2`. FormatError lists what there is."""
    if text in FORMATS or text in _ALIASES:
        return Form("", _ALIASES.get(text, text))
    for tool, formats in TOOLS.items():
        form = text.removeprefix(f"{tool}-")
        if form != text and form in formats:
            return Form(tool, _ALIASES.get(form, form))
    named = (f"{tool}-{form}" for tool, formats in TOOLS.items() for form in formats if form not in _ALIASES)
    raise FormatError(f"no such format: {text}", f"there are {', '.join((*FORMATS, *named))}")
