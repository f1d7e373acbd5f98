"""Every option, tag and command is documented, nothing else is, and what the README names is there."""

import ast
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vmbatch import config, template
from vmbatch.cli import main
from vmbatch.doctor.checks import CHECKS, READ
from vmbatch.errors import InputError
from vmbatch.template import schema

ROOT = Path(__file__).resolve().parents[2]
MAN = ROOT / "docs/man"
EXAMPLES = sorted((ROOT / "examples/domains").glob("*.xml"))
SITE_FILE = (ROOT / "etc/vmbatch.conf").read_text()
PLAIN = [name for name in config.OPTIONS if not name.endswith(".*")]
BUILT = ("build", "dist")
"""What make makes: it may be there or not."""

_RNG = "{http://relaxng.org/ns/structure/1.0}"
_SETTING = re.compile(r"^#(?P<setting>[a-z_]+ = .*)$", re.MULTILINE)


def _settings(text: str) -> list[tuple[str, str]]:
    """(option, line) of every setting in a configuration whose settings are commented out."""
    found = []
    section = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[([a-z]+)\]", line):
            section = header[1]
        elif setting := _SETTING.match(line):
            found.append((f"{section}.{setting['setting'].partition(' = ')[0]}", setting["setting"]))
    return found


def _sections(page: str, level: str = "###") -> dict[str, str]:
    """The text below each heading of a manual page, by the heading."""
    parts = re.split(rf"^{level} (.+)$", (MAN / page).read_text(), flags=re.MULTILINE)
    return {name: re.split(r"^##? ", text, flags=re.MULTILINE)[0] for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _bold_items(text: str) -> list[list[str]]:
    """The names that each item of a list is about: those in bold before its colon."""
    heads = re.findall(r"^- (\*\*[^:\n]+):", text, flags=re.MULTILINE)
    return [re.findall(r"\*\*([^*]+)\*\*", head) for head in heads]


def _value(option: str, toml: str) -> object:
    """What the configuration makes of an option's value."""
    section, _, name = option.partition(".")
    read = config.parse(f"[{section}]\n{name} = {toml}\n".encode(), option)
    return getattr(read, f"{section}_{name}")


def _default(option: str) -> object:
    return getattr(config.parse(b"", "defaults"), option.replace(".", "_"))


def test_configuration_file_changes_nothing() -> None:
    assert config.parse(SITE_FILE.encode(), "etc/vmbatch.conf") == config.parse(b"", "defaults")


def test_configuration_file_has_every_option_once() -> None:
    named = [option for option, _ in _settings(SITE_FILE) if not option.startswith(("queues.", "features."))]
    assert sorted(named) == sorted(PLAIN)


def test_configuration_file_has_the_defaults() -> None:
    text = _SETTING.sub(lambda match: match["setting"], SITE_FILE)
    assert text.count("\n#") < SITE_FILE.count("\n#")
    assert config.parse(text.encode(), "etc/vmbatch.conf") == config.parse(b'[queues]\nvm = "debian.xml"\n', "defaults")


@pytest.mark.parametrize(("option", "line"), [pair for pair in _settings(SITE_FILE) if pair[0] in PLAIN], ids=lambda text: text)
def test_configuration_file_has_the_default(option: str, line: str) -> None:
    assert _value(option, line.partition(" = ")[2]) == _default(option)


def test_manual_has_every_option() -> None:
    assert sorted(_sections("vmbatch.conf.5.md")) == sorted(config.OPTIONS)


@pytest.mark.parametrize("option", PLAIN)
def test_manual_has_the_default(option: str) -> None:
    text = _sections("vmbatch.conf.5.md")[option]
    default = re.search(r"^Default: `(.*)`$", text, re.MULTILINE)
    assert default, text
    assert _value(option, default[1]) == _default(option)
    assert len(text.split("\n\n")) > 2, "no meaning"


def test_manual_has_every_tag() -> None:
    assert sorted(_sections("vmbatch-domain.5.md")) == sorted(tag for tag in schema.tags() if tag.startswith("vb"))


@pytest.mark.parametrize("tag", [tag for tag in schema.tags() if tag.startswith("vb")])
def test_manual_has_every_attribute(tag: str) -> None:
    text = _sections("vmbatch-domain.5.md")[tag]
    known = schema.attributes(tag)
    assert sorted(name for names in _bold_items(text) for name in names) == sorted(known)
    for name, (required, _) in known.items():
        assert (f"**{name}** (required)" in text) == required, name


@pytest.mark.parametrize("tag", [tag for tag in schema.tags() if tag.startswith("vb")])
def test_manual_has_every_value(tag: str) -> None:
    text = _sections("vmbatch-domain.5.md")[tag]
    for value in schema.tags()[tag].iter(f"{_RNG}value"):
        assert f"`{value.text}`" in text


def test_manual_has_the_words_of_refusals() -> None:
    """What the manual quotes is what an admin reads."""
    kinds = [("<vbmessages>CHANNEL</vbmessages>", "", "")]
    page = " ".join((MAN / "vmbatch-domain.5.md").read_text().split())
    for vbconfig, devices, disk in kinds:
        text = f"""<domain type='xen'><vbconfig>{vbconfig}</vbconfig><devices>{devices}
            <disk type='file'><driver type='raw'/>{disk}<target dev='vda'/></disk>
            <disk type='file'><vbpreparecdrom source='c.iso'/><target dev='vdb'/><readonly/></disk></devices></domain>"""
        with pytest.raises(InputError) as caught:
            template.parse(text.encode(), "t.xml")
        assert [words for _, words in caught.value.problems if f"`{words}`" in page], caught.value.problems


def _commands() -> dict[str, click.Command]:
    """Every command by its words; a group stands for its members."""
    found = {}
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            found.update({f"{name} {inner}": member for inner, member in command.commands.items()})
        else:
            found[name] = command
    return found


def test_manual_has_every_command() -> None:
    sections = _sections("vmbatch.8.md")
    expected = {"vmbatch"}
    for name, command in _commands().items():
        arguments = [(param.name or "").upper() for param in command.params if isinstance(param, click.Argument)]
        expected.add(" ".join(["vmbatch", name, *arguments]))
    assert set(sections) == expected


@pytest.mark.parametrize("name", ["", *_commands()])
def test_manual_has_every_option_of(name: str) -> None:
    command: click.Command = _commands()[name] if name else main
    words = name.split()
    text = next(text for head, text in _sections("vmbatch.8.md").items() if (head.split()[1:][: len(words) or 1]) == words)
    context = click.Context(command, help_option_names=["-h", "--help"])
    options = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    if name:
        options = [option for option in options if "--help" not in option.opts]
    known = sorted(sorted([*option.opts, *option.secondary_opts]) for option in options)
    assert sorted(sorted(names) for names in _bold_items(text)) == known


def test_manual_has_every_check_of_doctor() -> None:
    text = _sections("vmbatch.8.md")["vmbatch doctor"]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert rows.pop("boot")
    assert rows == READ | {check.name: check.about for check in CHECKS}


def test_examples_of_the_manual_are_commands() -> None:
    lines = re.findall(r"^(?:\S.* /opt/vmbatch/bin/)?vmbatch ((?:{}).*)$".format("|".join(main.commands)),
                       (MAN / "vmbatch.8.md").read_text(), re.MULTILINE)
    words = [line.split() for line in lines]
    assert len(words) >= 3
    for command, *rest in words:
        inner = rest[:1] if isinstance(main.commands[command], click.Group) else []
        shown = CliRunner().invoke(main, [command, *inner, "--help"]).output
        assert all(word in shown for word in rest if word.startswith("--")), (command, rest)


@pytest.mark.parametrize("path", sorted(MAN.glob("*.md")), ids=lambda path: path.name)
def test_manual_has_the_form_of_one(path: Path) -> None:
    name, section, _ = path.name.rsplit(".", 2)
    text = path.read_text()
    assert text.startswith(f"# {name}({section})\n\n## NAME\n\n")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    order = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "FILES", "EXIT STATUS", "EXAMPLES", "BUGS", "SEE ALSO"]
    assert headings == [heading for heading in order if heading in headings]
    assert {"NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "SEE ALSO"} <= set(headings)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_a_template(path: Path) -> None:
    form = template.parse(path.read_bytes(), str(path))
    assert form.hypervisor in ("QEMU", "KVM", "XEN", "XEN3", "XEN4")
    assert b"<name>" + path.stem.encode() + b"</name>" in path.read_bytes()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_has_few_devices(path: Path) -> None:
    """What a guest does not have it cannot attack; but it gets randomness."""
    devices = template.parse(path.read_bytes(), str(path)).root.find("devices")
    assert devices is not None
    kinds = [str(device.tag) for device in devices.iterchildren("*")]
    assert set(kinds) <= {"disk", "interface", "serial", "console", "channel", "controller", "memballoon", "rng", "watchdog",
                          "vbdisks"}
    if template.parse(path.read_bytes(), str(path)).type == "xen":
        return
    assert [device.get("model") for device in devices.findall("memballoon")] == ["none"]
    assert [device.get("model") for device in devices.findall("rng")] == ["virtio"]
    assert [device.get("model") for device in devices.findall("controller[@type='usb']")] == ["none"]


def test_there_are_examples() -> None:
    """Of every way to a disk that the schema knows."""
    sources = [tag.source for path in EXAMPLES for tag in template.parse(path.read_bytes(), str(path)).disks if tag.source]
    values = {attribute: {value.text for value in element.iter(f"{_RNG}value")}
              for element in schema.tags()["vbdisksource"].iter(f"{_RNG}attribute")
              if (attribute := element.get("name"))}
    assert {source.method for source in sources} == values["copy_method"]
    assert {source.once for source in sources if isinstance(source, template.BlankSource)} == {False, True}


INDEX = (ROOT / "examples/domains/README.md").read_text()
BOOTED = re.findall(r"^\| \[([\w-]+)\.xml\]\(\1\.xml\) \| .* \| ([^|]+) \|$", INDEX, re.MULTILINE)
"""(example, what the index says of who boots it) of each row."""


def _boots() -> set[tuple[str, str]]:
    """(test, example) of what the suite boots: a test runs it by its name."""
    found = set()
    for folder, call in (("guest", "run"), ("xen", "example")):
        module = ast.parse((ROOT / f"tests/{folder}/test_examples.py").read_text())
        for test in module.body:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                names = (word.value for each in ast.walk(test) if isinstance(each, ast.Call)
                         and isinstance(each.func, ast.Name) and each.func.id == call
                         for word in each.args if isinstance(word, ast.Constant) and isinstance(word.value, str))
                found |= {(test.name, name) for name in names if (ROOT / f"examples/domains/{name}.xml").exists()}
    return found


def test_the_index_of_examples() -> None:
    """Each example stands there; a test that is named boots it; each that is booted names its test."""
    assert {name for name, _ in BOOTED} == {path.stem for path in EXAMPLES}
    assert len(BOOTED) == len(re.findall(r"^\| \[", INDEX, re.MULTILINE)), "a row that is none"
    said = {(test, name) for name, by in BOOTED for test in re.findall(r"`(test_\w+)`", by)}
    assert said == _boots()
    assert len({name for _, name in said}) >= 15
    for name, by in BOOTED:
        assert re.match(r"`test_\w+`|no: \w", by), name


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_targets_are_there(name: str) -> None:
    """`make X` in code, not the verb in a sentence."""
    text = (ROOT / name).read_text()
    named = set(re.findall(r"(?:^    |`|, )make ([a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= _targets()


@pytest.mark.parametrize("name", [
    "README.md", "CONTRIBUTING.md", "examples/domains/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in [*(ROOT / "docs").rglob("*.md"), *EXAMPLES]),
])
def test_files_are_there(name: str) -> None:
    text = (ROOT / name).read_text()
    top = "|".join(re.escape(entry.name) for entry in ROOT.iterdir() if entry.is_dir() and entry.name not in BUILT)
    named = set(re.findall(rf"(?<![\w/.-])((?:{top})/[\w./-]*+|[A-Z]+\.md|LICENSE)(?![\w/*-])", text))
    missing = [path for path in sorted(named) if not (ROOT / path.rstrip(".")).exists()]
    if not name.startswith("docs/"):  # there the links are the site's: test_site.py
        missing += [link for link in re.findall(r"\]\(([^):#]+)\)", text) if not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing
    assert named or not name.endswith("README.md")


def test_each_part_of_the_benchmark_is_explained() -> None:
    """In docs/performance.md, in the order in which it is measured."""
    page = (ROOT / "docs/performance.md").read_text().partition("## What `make bench` measures\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE)
    measured = re.findall(r'^    "([a-z]+)": \w+\.figures,$', (ROOT / "bench/__main__.py").read_text(), re.MULTILINE)
    assert list(dict.fromkeys(listed)) == measured
    assert {path.stem for path in (ROOT / "bench").glob("*.py") if "def figures(" in path.read_text()} == set(measured)


def test_the_table_of_disks() -> None:
    """docs/disks.md: every attribute and value of the tags for disks, with templates and tests that are there."""
    text = (ROOT / "docs/disks.md").read_text()
    guests = (ROOT / "tests/guest/test_disks.py").read_text()
    for name in set(re.findall(r"`((?:test_|Test)[A-Za-z_]+)`", text)):
        assert re.search(rf"(def|class) {name}\b", guests), name
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    for tag in ("vbdisksource", "vbcheckhash", "vbuserimage"):
        for attribute in schema.attributes(tag):
            assert attribute == "hashvalue" or any(f"{attribute}=" in row for row in rows), attribute
    for method in ("cow", "copy", "shared", "download"):
        assert any(f"copy_method='{method}'" in row for row in rows)


def test_the_table_of_requests() -> None:
    """docs/requests.md: every name that a template can allow, and tests that are there."""
    text = (ROOT / "docs/requests.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*/test_*.py"))
    named = set(re.findall(r"`(test_[a-z_]+)`", text))
    assert len(named) >= 8
    for name in named:
        assert f"def {name}(" in tests, name
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    for value in schema.tags()["vbrequest"].iter(f"{_RNG}value"):
        assert any(f"{value.text}=" in row for row in rows), value.text


def test_the_table_of_contexts() -> None:
    """docs/context.md: the tests that it names are there, and run in real guests."""
    text = (ROOT / "docs/context.md").read_text()
    guests = "".join(path.read_text() for path in (ROOT / "tests/guest").glob("test_*.py"))
    named = set(re.findall(r"`(test_[a-z_]+)`", text))
    assert len(named) >= 8
    for name in named:
        assert f"def {name}(" in guests, name


def test_the_table_of_slurms_events() -> None:
    """docs/slurm.md: every event has a test that is there, and every test of an event stands in the table."""
    text = (ROOT / "docs/slurm.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests/slurm").glob("test_*.py"))
    tests = set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| event")]
    assert len(rows) >= 30
    for row in rows:
        assert re.search(r"`test_\w+`[^|]*\|$", row), row
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named - tests == set()
    assert tests - named == set()


def test_the_table_of_hostile_users() -> None:
    """docs/security-users.md: every attempt of tests/hostile_user stands there, and at least 30 attempts do."""
    text = (ROOT / "docs/security-users.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests/hostile_user").glob("test_*.py"))
    rows = text.partition("## Attempts")[2].partition("## What remains")[0].count("\n| ") - 1
    assert rows >= 30
    assert set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE)) - set(re.findall(r"`(test_\w+)`", text)) == set()


EVENT_TABLES = [f"docs/{name}.md" for name in ("crashes", "lifetime", "load", "openpbs", "security-users", "security", "torque")]
"""Documents with tables of events, or attempts, whose last column, `test`, names the tests of each row."""


@pytest.mark.parametrize("name", EVENT_TABLES)
def test_no_event_without_a_test(name: str) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    rows, inside = [], False
    for line in (ROOT / name).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        inside = bool(cells) and (inside or cells[-1] in ("test", "tests"))
        if inside and cells[-1] not in ("test", "tests") and not set("".join(cells)) <= set("-: "):
            rows.append(cells)
    assert len(rows) >= 8, "no table of events"
    assert {len(row) for row in rows} == {len(rows[0])}
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row[-1])
        assert named, f"no test: {row[0]}"
        assert set(named) <= known, f"{row[0]}: no such test: {sorted(set(named) - known)}"
