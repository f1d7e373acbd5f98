"""A module imports only from strictly lower layers, and the outside only where it is at home."""

import ast
import re
import sys

import pytest

from .imports import PACKAGE, ROOT, imported, modules

LAYERS: dict[str, int] = {
    "": 0,
    "errors": 0,
    "units": 0,
    "native": 0,
    "digest": 0,
    "guard": 0,
    "format": 0,
    "sshargs": 0,
    "handover": 0,
    "request": 0,
    "consolelink": 0,
    "catalogue": 1,
    "shell": 1,
    "job": 1,
    "template": 1,
    "resource": 1,
    "config": 2,
    "guest": 2,
    "staging": 2,
    "host": 3,
    "remoteshell": 3,
    "submitfilter": 3,
    "grant": 4,
    "trace": 4,
    "claim": 4,
    "batch": 4,
    "hypervisor": 4,
    "disk": 4,
    "image": 4,
    "context": 4,
    "exchange": 4,
    "bootloader": 4,
    "spool": 4,
    "installation": 4,
    "registry": 5,
    "facts": 5,
    "pins": 5,
    "diskplan": 6,
    "resume": 6,
    "record": 6,
    "endmarker": 7,
    "resumeplan": 7,
    "contextplan": 7,
    "guestdisk": 5,
    "network": 2,
    "consoleshell": 2,
    "plan": 8,
    "journal": 8,
    "boot": 9,
    "admission": 9,
    "health": 9,
    "wanted": 9,
    "watcher": 9,
    "turn": 0,
    "phase": 0,
    "status": 4,
    "drain": 4,
    "verdict": 5,
    "history": 5,
    "report": 6,
    "metrics": 10,
    "slurmtask": 3,
    "release": 9,
    "sweep": 10,
    "pool": 10,
    "reuse": 10,
    "lifecycle": 11,
    "ending": 11,
    "doctor": 11,
    "hooked": 12,
    "alone": 12,
    "saver": 12,
    "filler": 12,
    "command": 12,
    "session": 12,
    "hooks": 13,
    "cli": 13,
}
"""Of a module, or of a family and all in it. Members of one family may import each other."""

AT_HOME: dict[str, set[str]] = {
    "lxml": {"template"},
    "libvirt": {"host.libvirtd", "host.virt", "host.virtend", "host.virtevent", "host.virtnet", "host.address"},
    "libvirt_qemu": {"host.virt"},
    "paramiko": {"host.rootssh"},
    "pycdlib": {"context"},
    "click": {"cli"},
    "subprocess": {"host", "shell.connection", "staging", "hooked"},
    "socket": {"host"},
    "requests": {"host.http"},
    "zstandard": {"image.unpack"},
    "hashlib": {"consolelink", "digest", "format.qcow", "image", "plan"},
    "tarfile": {"context", "guestdisk", "staging"},
    "yaml": {"context"},
    "syslog": {"host.log", "hooked"},
    "tomllib": {"config"},
    "multiprocessing": set(),
    "asyncio": set(),
    "pickle": set(),
    "importlib": {"context", "guestdisk", "template"},
}
STARTERS = {
    "hooks": {"execv"},
    "cli.ssh": {"execve"},
    "host.distant": {"fork"},
    "host.process": {"fork"},
    "host.terminal": {"fork"},
    "remoteshell": {"execvpe"},
    "shell.connection": {"posix_spawn"},
    "shell.suspension": {"fork"},
}
"""Who starts programs without `host.process`, and how."""

MODULES = modules()


def family(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_has_a_layer() -> None:
    assert {family(module) for module in MODULES} - {"kit"} == set(LAYERS)


@pytest.mark.parametrize("module", sorted(MODULES), ids=lambda module: module or "vmbatch")
def test_only_from_lower_layers(module: str) -> None:
    wrong = []
    for line, name in imported(MODULES[module]):
        if name != "vmbatch" and not name.startswith("vmbatch."):
            continue
        other = family(name.removeprefix("vmbatch").removeprefix("."))
        if other != family(module) and LAYERS[other] >= LAYERS[family(module)]:
            wrong.append(f"{MODULES[module]}:{line}: {name} is in layer {LAYERS[other]}, not below {LAYERS[family(module)]}")
    assert not wrong


@pytest.mark.parametrize("module", sorted(MODULES), ids=lambda module: module or "vmbatch")
def test_the_outside_is_where_it_is_at_home(module: str) -> None:
    wrong = []
    for line, name in imported(MODULES[module]):
        top = name.partition(".")[0]
        homes = AT_HOME.get(top, {module})
        if not any(module == home or module.startswith(f"{home}.") for home in homes):
            wrong.append(f"{MODULES[module]}:{line}: {name} is for {', '.join(sorted(homes)) or 'nobody'}")
    assert not wrong


def test_every_dependency_is_declared() -> None:
    """What is neither ours nor Python's stands in pyproject.toml."""
    declared = set(
        re.findall(
            r'^  "([\w-]+)>=', (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0], re.MULTILINE
        )
    )
    used = (
        {name.partition(".")[0] for path in MODULES.values() for _, name in imported(path)}
        - set(sys.stdlib_module_names)
        - {"vmbatch"}
    )
    assert "urllib3" in declared, "requests takes older ones, whose responses have no read1"
    used.discard("libvirt_qemu")  # of libvirt-python, too
    assert used == {name.removesuffix("-python").replace("pyyaml", "yaml") for name in declared} - {"urllib3"}


def test_remoteshell_imports_only_values() -> None:
    ours = {family(name.removeprefix("vmbatch.")) for _, name in imported(MODULES["remoteshell"]) if name.startswith("vmbatch.")}
    assert {LAYERS[name] for name in ours} <= {0, 1, 2}
    at_once = {name for _, name in imported(MODULES["remoteshell"], inner=False)}
    assert at_once == {"__future__", "os", "sys", "vmbatch.native"}
    values = [MODULES["handover"], MODULES["request"], *(path for name, path in MODULES.items() if family(name) == "shell")]
    at_once = {name for path in values for _, name in imported(path, inner=False) if not name.startswith("vmbatch")}
    assert at_once == {"__future__", "os", "time"}


def test_hooks_load_nothing_for_a_native_job() -> None:
    assert {name for _, name in imported(MODULES["hooks"], inner=False)} == {"os", "sys", "vmbatch.native"}
    assert {name for _, name in imported(MODULES["native"], inner=False)} == set()
    assert {name for _, name in imported(MODULES[""])} == set()


@pytest.mark.parametrize("module", sorted(MODULES), ids=lambda module: module or "vmbatch")
def test_who_starts_programs(module: str) -> None:
    calls = {
        node.attr
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and re.match(r"exec|posix_spawn$|posix_spawnp|spawn|fork|system$|popen$", node.attr)
    }
    assert calls == STARTERS.get(module, set())


def test_nothing_is_imported_by_name() -> None:
    """No plug-in, no path from a record: a kind is a line in the registry."""
    for module, path in MODULES.items():
        text = path.read_text()
        assert not re.search(r"\b(__import__|import_module|eval|exec)\(", text), module


def test_the_architecture_says_the_same() -> None:
    """The table in docs/architecture.md: layer, modules, what lives there."""
    text = (ROOT / "docs/architecture.md").read_text().split("## Layers")[1].split("\n## ")[0]
    written = {}
    for number, names in re.findall(r"^\| (\d+) \| ([^|]*) \|", text, re.MULTILINE):
        written.update({name.rstrip("/"): int(number) for name in re.findall(r"`([^`]+)`", names)})
    written.update({name: int(number) for name, number in re.findall(r"`(\w+)` stands beside layer (\d+)", text)})
    assert written == {name: layer for name, layer in LAYERS.items() if name}


def test_the_scan_sees_what_it_should() -> None:
    """The scanner itself, on the modules whose imports are known."""
    assert "vmbatch.hooked" in {name for _, name in imported(MODULES["hooks"])}
    assert "vmbatch.config" not in {name for _, name in imported(MODULES["cli"])}, "for the type checker alone"
    assert "vmbatch.host.virt" in {name for _, name in imported(MODULES["hypervisor.domain"])}
    assert {"vmbatch.digest", "vmbatch.job"} <= {name for _, name in imported(MODULES["lifecycle"])}
    assert (PACKAGE / "hooks.py") in MODULES.values()
