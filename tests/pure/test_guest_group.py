"""As whom the guests run: what libvirt says, and templates that say something else."""

from types import SimpleNamespace

import pytest
from lxml import etree

from vmbatch import facts
from vmbatch.config import parse
from vmbatch.host import libvirtd

QEMU = """<capabilities><host>
    <secmodel><model>apparmor</model><doi>0</doi></secmodel>
    <secmodel>
      <model>dac</model>
      <doi>0</doi>
      <baselabel type='kvm'>+64055:+106</baselabel>
      <baselabel type='qemu'>+64055:+107</baselabel>
    </secmodel>
  </host></capabilities>"""


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What libvirt's capabilities are."""
    answer = SimpleNamespace(text=QEMU)
    monkeypatch.setattr(libvirtd, "connect", lambda uri: SimpleNamespace(getCapabilities=lambda: answer.text))
    return answer


@pytest.mark.parametrize(("text", "group"), [
    (QEMU, 107), (QEMU.replace("+64055:+107", "+0:+0"), 0), (QEMU.replace("dac", "selinux"), None),
    (QEMU.replace("'qemu'", "'xen'"), None), ("<capabilities/>", None), ("", None),
    ("<secmodel><model>dac</model></secmodel><secmodel><baselabel type='qemu'>+1:+1</baselabel></secmodel>", None),
])
def test_the_group_that_libvirt_says(said: SimpleNamespace, text: str, group: int | None) -> None:
    said.text = text
    assert libvirtd.guest_group("qemu:///system") == group


@pytest.mark.parametrize(("label", "group"), [
    ("", 107), ("<seclabel type='dynamic' model='apparmor'/>", 107),
    ("<seclabel type='static' model='dac' relabel='yes'><label>+1:+1</label></seclabel>", None),
])
def test_a_template_with_an_account_of_its_own(label: str, group: int | None) -> None:
    form = SimpleNamespace(root=etree.fromstring(f"<domain>{label}</domain>"))
    assert facts.readers(form, parse(b"", "x")) == group  # type: ignore[arg-type]
