"""How the product comes into the node."""

from pathlib import Path

from lab import guest, place, product
from lab.requirements import requirements

GUESTS = {"busybox": Path("/var/cache/vmbatch-lab/busybox-0123456789ab")}


def test_templates_name_the_images_as_the_node_sees_them() -> None:
    text = "<kernel>@GUESTS@/busybox/vmlinux</kernel>"
    assert product.fill(text, GUESTS) == "<kernel>/srv/vmbatch/images/busybox-0123456789ab/vmlinux</kernel>"


def test_hooks_run_where_every_user_can_reach_the_interpreter() -> None:
    files = product.files({name: Path(f"/{name}") for name in guest.GUESTS})
    mode, script = files[place.MOM / "mom_priv/prologue"]
    assert (mode, script.split(b"\n")[0]) == (0o755, b"#!/srv/vmbatch/venv/bin/python3 -I")
    assert b"from vmbatch.hooks import prologue" in script
    mode, program = files[place.MOM / "mom_priv/remoteshell"]
    assert (mode, program[:4], b"\0/srv/vmbatch/venv/bin/python3\0" in program) == (0o755, b"\x7fELF", True)


def test_the_environment_has_what_pyproject_asks_for() -> None:
    wanted = requirements((place.CLONE / "pyproject.toml").read_text())
    assert any(name.startswith("setuptools") for name in wanted)
    assert any(name.startswith("libvirt-python") for name in wanted)
    assert any(name.startswith("pytest") for name in wanted)
