"""The documentation's site: it builds without a warning, no link of it is broken, and its guides name what is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules.test_lint import tracked
from vmbatch import config, remoteshell, slurmtask, staging, submitfilter
from vmbatch.shell import connection, guest
from vmbatch.template import schema
from website import DOCS, ROOT, check, commands, crossref, examples, statuses

PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("[CR]*.md"), examples.FOLDER / "README.md"])
GUIDES = [page for page in PAGES if page.parent.name == "guides" or page.name in ("README.md", "tutorial.md")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", target], cwd=ROOT,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return target


def test_no_link_is_broken_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert check.problems(site) == []


def test_every_page_of_docs_is_in_the_site_and_its_navigation(site: Path) -> None:
    shown = check.Document((site / "index.html").read_text()).links
    for page in DOCS.rglob("*.md"):
        assert str(page.relative_to(DOCS).with_suffix(".html")) in shown


def test_the_reference_has_all_that_the_code_has(site: Path) -> None:
    settings, tags, tools = ((site / f"reference/{name}.html").read_text() for name in ("configuration", "tags", "commands"))
    for option in config.OPTIONS:
        assert f'href="../man/vmbatch.conf.5.html#{option.replace(".", "").replace("*", "")}"' in settings, option
    for tag in schema.tags():
        assert f'id="{tag}"' in tags or not tag.startswith("vb"), tag
    for words, _ in commands.walk():
        assert f'id="{words.replace(" ", "-")}"' in tools, words


WRONG = {
    '<a href="gone.html">': "page.html: gone.html is not there",
    '<a href="other.html#gone">': "page.html: other.html#gone has no such place",
    '<a href="#gone">': "page.html: #gone has no such place",
    '<img src="gone.png">': "page.html: gone.png is not there",
    '<script src="https://cdn.example.org/x.js"></script>': "page.html: loads https://cdn.example.org/x.js",
    '<link rel="stylesheet" href="//fonts.example.org/x.css">': "page.html: loads //fonts.example.org/x.css",
    "<vbdisk name='rootdisk'>": "page.html: <vbdisk> is no element of HTML",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_page_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.html").write_text('<h1 id="there">x</h1><a href="page.html#here">y</a>')
    (tmp_path / "page.html").write_text(f'<h1 id="here">x</h1><a href="other.html#there">y</a>{text}')
    assert check.problems(tmp_path) == [WRONG[text]]


def test_what_a_style_sheet_loads_is_found(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("a { background: url('https://example.org/a.png') } b { background: url(own.png) }")
    assert check.problems(tmp_path) == ["style.css: loads https://example.org/a.png"]


@pytest.mark.parametrize(("text", "linked"), [
    ("see `docs/disks.md`", "see [Disks and images](../disks.md)"),
    ("see docs/disks.md.", "see [Disks and images](../disks.md)."),
    ("see vmbatch.conf(5),", "see [vmbatch.conf(5)](../man/vmbatch.conf.5.md),"),
    ("`examples/domains/copy.xml`", "[`copy.xml`](../examples/copy.md)"),
    ("`CONTRIBUTING.md`", "[Contributing](../contributing.md)"),
    ("see virsh(1), `vmbatch.conf(5)`, docs/none.md", "see virsh(1), `vmbatch.conf(5)`, docs/none.md"),
    ("as `one\ntwo` is, `docs/disks.md`", "as `one\ntwo` is, [Disks and images](../disks.md)"),
    ("[vmbatch.conf(5)](x.md)", "[vmbatch.conf(5)](x.md)"),
    ("    vmbatch.conf(5)", "    vmbatch.conf(5)"),
    ("```\nvmbatch.conf(5)\n```", "```\nvmbatch.conf(5)\n```"),
])
def test_what_a_text_names_becomes_a_link(text: str, linked: str) -> None:
    pages = {"disks.md", "man/vmbatch.conf.5.md", "examples/copy.md", "contributing.md"}
    assert crossref.linked(text, "guides/x.md", pages) == f"{linked}\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_markdown_is_read_alike_everywhere(page: Path) -> None:
    """What belongs to an item of a list is indented by four columns, and code in a list is fenced: the site's reader needs it."""
    if page.name == "README.md" and page.parent == ROOT:
        return  # no page of the site
    fenced, inside, before, wrong = False, False, "", []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        item = re.match(r" *([-*]|[0-9]+\.) ", line)
        inside = not fenced and (bool(item) or (inside and (not line or line.startswith(" "))))
        indented = len(line) - len(line.lstrip())
        if inside and line and indented and (item or not before) and indented % 4:
            wrong.append(f"{number}: {line}")
        before = line
    assert not wrong


def _command_lines() -> list[tuple[str, str]]:
    """(page, words) of every call of vmbatch in the guides' code."""
    found = []
    for page in GUIDES:
        for line in page.read_text().splitlines():
            for call in re.findall(r"(?:^\s{4,}|^|root |`)(?:/opt/vmbatch/bin/)?vmbatch ([a-z][^`#]*)", line):
                if line.startswith((" ", "`", "echo", "/opt", "vmbatch")) or f"`vmbatch {call}" in line:
                    found.append((page.name, call.split("   ")[0].split("' >")[0].strip()))
    return found


@pytest.mark.parametrize(("page", "call"), sorted(set(_command_lines())))
def test_a_command_of_the_guides_is_one(page: str, call: str) -> None:
    known = dict(commands.walk())
    words = call.partition(" -- ")[0].split()
    name = next(name for name in (" ".join(["vmbatch", *words[:count]]) for count in (2, 1, 0)) if name in known)
    assert name != "vmbatch", f"no command: vmbatch {call}"
    options = {option for param in known[name].params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options


def test_there_are_commands_in_the_guides() -> None:
    assert len(_command_lines()) >= 30


def _sources() -> str:
    texts = [path.read_text() for path in tracked() if path.is_relative_to(ROOT / "vmbatch")]
    return " ".join(" ".join(texts).split())


def test_the_words_of_troubleshooting_are_those_that_people_read() -> None:
    """What is quoted below `it says` and `the console shows`, at the head of a paragraph, is in the code; `...` is anything."""
    quoted, inside = [], False
    for line in (DOCS / "guides/troubleshooting.md").read_text().splitlines():
        first = line.split("|")[1].strip() if line.startswith("|") else ""
        inside = bool(first) and (inside or first in ("it says", "the console shows"))
        quoted += re.findall(r"`([^`]+)`", first) if inside else re.findall(r"^\*\*`([^`]+)`", line)
    said = [part.strip() for text in quoted for part in text.split("...") if part.strip(" :")]
    assert len(said) >= 15
    sources = _sources()
    foreign = {"Kernel panic", "console=ttyS0", "FILE:LINE", "reason=crashed", "segfault"}
    assert [part for part in said if part not in sources and part.strip(":` ") not in foreign] == []


def test_the_manual_has_the_exit_statuses_of_the_code() -> None:
    """remoteshell(1): those that jobs end with beside their own."""
    named = {int(number) for number in re.findall(r"^- \*\*(\d+)\*\*:", statuses.section("remoteshell.1.md"), re.MULTILINE)}
    kit, starter = ((ROOT / "vmbatch" / name).read_text() for name in ("kit/job.sh", "shell/starter.c"))
    refused = {int(number) for number in re.findall(r"^ +end (\d+)$", kit, re.MULTILINE)}
    ended = {int(number) for number in re.findall(r"_exit\((\d+)\)", starter)}
    assert named == {guest.ENDED, guest.ENDED_HERE, connection.FAILURE, remoteshell._FAILURE, slurmtask._FAILURE, staging._FAILED,
                     staging._REFUSED, *refused, *ended}
    assert f"**{submitfilter.REJECTED}**" in statuses.section("submitfilter.1.md")


@pytest.mark.parametrize("path", sorted(examples.FOLDER.glob("*.xml")), ids=lambda path: path.stem)
def test_an_example_says_what_it_is_for(path: Path) -> None:
    assert len(examples.about(path.read_text())) > 40
