"""What a later version brings is refused by its name, never ignored."""

import pytest

from vmbatch import template
from vmbatch.errors import InputError

from .sample import TEMPLATE

NOT_YET = "is not in this version of VmBatch"
KVM = "<vbhypervisor>KVM</vbhypervisor>"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (KVM, "<vbhypervisor>XEN</vbhypervisor>", f"vbhypervisor XEN {NOT_YET}; use QEMU or KVM"),
        (KVM, "<vbhypervisor>XEN3</vbhypervisor>", f"vbhypervisor XEN3 {NOT_YET}; use QEMU or KVM"),
        (KVM, "<vbhypervisor>\n XEN4 </vbhypervisor>", f"vbhypervisor XEN4 {NOT_YET}; use QEMU or KVM"),
    ],
)
def test_refused(old: str, new: str, said: str) -> None:
    assert TEMPLATE.count(old) == 1
    text = TEMPLATE.replace(old, new)
    with pytest.raises(InputError) as caught:
        template.parse(text.encode(), "t.xml")
    assert [problem for _, problem in caught.value.problems] == [said]
    [(line, _)] = caught.value.problems
    assert text.split("\n")[line - 1].strip(), "on the line of the tag"
