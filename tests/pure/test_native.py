"""Whether a queue may be ours: there is no false "no"."""

import contextlib
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmbatch import hooks, native

BARE = st.text("abcAZ09_-", min_size=1, max_size=8)
ANY = st.text(max_size=8)


def basic(name: str) -> str:
    """A basic string: what must be escaped is."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in name) + '"'


@st.composite
def spelling(draw: st.DrawFn, name: str) -> str:
    """One of the ways to write a key."""
    ways = [basic(name), '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in name) + '"']
    if name and all(c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-" for c in name):
        ways.append(name)
    if name.isprintable() and "'" not in name:
        ways.append(f"'{name}'")
    return draw(st.sampled_from(ways))


@st.composite
def file_naming(draw: st.DrawFn, name: str) -> str:
    """A configuration that has this queue, in one of the ways to write a table."""
    key = draw(spelling(name))
    section = draw(st.sampled_from(["queues", '"queues"', "'queues'", '"q\\u0075eues"']))
    comment = draw(st.sampled_from(["", "# one\n", "  # two\n", "x = 1 # three\n", 'x = """\n# """\n', "x = '''\n#'''\n"]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    shape = draw(
        st.sampled_from(
            [
                "[{0}]\n{1} = 'd.xml'\n",
                "[ {0} ]\n\t {1}\t=\t'd.xml' # {{}}\n",
                "{0}.{1} = 'd.xml'\n",
                "{0} . {1}='d.xml'\n",
                "{0} = {{ {1} = 'd.xml' }}\n",
                "{0} = {{a='d.xml',{1}='d.xml'}}\n",
                "{0} = {{ 'a#' = '''\n# ''', {1} = 'd.xml' }}\n",
                '{0} = {{ \'a#\' = """\n  # """, {1} = \'d.xml\' }}\n',
                "[{0}.{1}]\n",
            ]
        )
    )
    return (comment + shape.format(section, key)).replace("\n", end)


@given(st.data(), BARE | ANY)
def test_no_false_no(data: st.DataObject, name: str) -> None:
    text = data.draw(file_naming(name))
    with contextlib.suppress(tomllib.TOMLDecodeError, UnicodeEncodeError):
        queues = tomllib.loads(text)["queues"]
        if name in queues:
            assert native.names_queue(text.encode(), name), text


@given(st.text("vm#\n\r\t ='\"\\[]{},.aq\x0b\x0c\u00a0", max_size=30), st.sampled_from(["v", "vm", "a"]))
@example("q = {a = '''\n# ''', vm = 1}", "vm")
def test_no_false_no_in_random_text(text: str, name: str) -> None:
    with contextlib.suppress(tomllib.TOMLDecodeError):
        if name in keys(tomllib.loads(text)):
            assert native.names_queue(text.encode(), name)


def keys(value: object) -> set[str]:
    """Every key anywhere in a TOML document."""
    if isinstance(value, dict):
        return set(value).union(*(keys(inner) for inner in value.values()))
    return set().union(*(keys(inner) for inner in value)) if isinstance(value, list) else set()


def test_comments_do_not_count() -> None:
    assert not native.names_queue(b"[queues]\n# batch = 'debian.xml'\n  # batch\nvm = 'debian.xml'\n", "batch")
    assert native.names_queue(b"[queues]\n#batch\nbatch = 'debian.xml'\n", "batch")


def test_without_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "CONFIG", str(tmp_path / "vmbatch.conf"))
    assert not native.may_name_queue("vm")
    (tmp_path / "vmbatch.conf").write_text("[queues]\nvm = 'debian.xml'\n")
    assert native.may_name_queue("vm")
    assert not native.may_name_queue("batch")


@pytest.mark.parametrize(
    ("job", "there"),
    [
        ("42.vm", True),
        ("42[1].vm", True),
        ("43.vm", False),
        ("", False),
        ("../jobs/42.vm", False),
        ("/42.vm", False),
        ("x" * 5000, False),
        ("42.vm\x00", False),
        ("\udc80", False),
    ],
)
def test_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, there: bool) -> None:
    monkeypatch.setattr(native, "JOBS", str(tmp_path))
    for name in ("42.vm", "42-1.vm"):
        (tmp_path / f"{name}.journal").touch()
    assert native.has_journal(job) == there


@pytest.mark.parametrize(("name", "rank", "expected"), [
    ("prologue", "0", "prologue"), ("epilogue", "", "epilogue"), ("prologue.kvm", "0", "prologue"),
    ("prologue.parallel", "0", "prologue"), ("prologue.parallel", "1", "prologue.parallel"),
    ("epilogue.parallel.kvm", "2", "epilogue.parallel"), ("prologue.kvm", "1", "prologue"), ("slurm-prolog", "0", "slurm-prolog"),
])
def test_the_name_of_the_sites_own_hook(monkeypatch: pytest.MonkeyPatch, name: str, rank: str, expected: str) -> None:
    """It stands beside ours whatever job type mom runs ours for; a sister has hooks of her own."""
    monkeypatch.setattr(sys, "argv", [f"/var/spool/torque/mom_priv/{name}"])
    monkeypatch.setenv("PBS_NODENUM", rank or "0")
    assert hooks._plain_name() == expected
