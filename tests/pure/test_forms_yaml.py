"""YAML of the site's is plain data, and nothing in it grows, repeats or changes on its way into the guest."""

import time
from itertools import pairwise

import pytest

from vmbatch.context.siteyaml import Document


def problems(text: str, first: int = 1) -> list[tuple[int, str]]:
    document = Document(text, first)
    assert not document.problems or document.values == {}
    return document.problems


@pytest.mark.parametrize(("text", "values"), [
    ("", {}),
    ("# nothing\n", {}),
    ("a: 1\nb: [x, 'y', \"z\\n\"]\n", {"a": 1, "b": ["x", "y", "z\n"]}),
    ("a: 0644\nb: 0x1f\nc: 0b11\nd: -7\ne: 1.5\n", {"a": 420, "b": 31, "c": 3, "d": -7, "e": 1.5}),
    ("a: 2020-01-01\nb: 2020-01-01 10:00:00\n", {"a": "2020-01-01", "b": "2020-01-01 10:00:00"}),
    ("a: yes\nb: off\nc: ~\n", {"a": True, "b": False, "c": None}),
    ("a: |\n  one\n  two\nb: >-\n  three\n  four\n", {"a": "one\ntwo\n", "b": "three four"}),
    ("'on': 1\n\"2\": 3\n", {"on": 1, "2": 3}),
    ("a: &unused 1\n", {"a": 1}),
    ("a: !!str 5\n", {"a": "5"}),
])
def test_values(text: str, values: dict[str, object]) -> None:
    document = Document(text)
    assert (document.problems, document.values) == ([], values)


def test_lines() -> None:
    assert Document("a: 1\n\nb:\n  c: 2\n", first=10).lines == {"a": 10, "b": 12}


@pytest.mark.parametrize(("text", "line", "what"), [
    ("a: 1\nb: 2\na: 3\n", 3, "has 'a' a second time; the first is in line 1"),
    ("a:\n  - b: 1\n    b: 2\n", 3, "has 'b' a second time; the first is in line 2"),
    ("a: 1\n? a\n: 2\n", 2, "has 'a' a second time"),
    ("a: &x 1\nb: *x\n", 2, "cannot be read as YAML: an alias (*name) is not taken; write out what it stands for"),
    ("a: &x [*x]\n", 1, "cannot be read as YAML: an alias"),
    ("a: 1\n<<: {b: 2}\n", 2, "has the name '<<', which YAML does not take for text; put it in quotes"),
    ("on: 1\n", 1, "has the name 'on', which YAML does not take for text; put it in quotes"),
    ("a:\n  1: x\n", 2, "has the name '1', which YAML does not take for text"),
    ("? [a, b]\n: c\n", 1, "has the name"),
    ("k" * 257 + ": 1\n", 1, "has a name of 257 characters; at most 256 are taken"),
    ("a: !!binary aGk=\n", 1, "has a value of the kind 'binary', which VmBatch does not take; write it as text in quotes"),
    ("a: !!python/object/apply:os.system [id]\n", 1, "has a value of the kind"),
    ("a: !custom x\n", 1, "has a value of the kind '!custom'"),
    ("a: !!set {b, c}\n", 1, "has a value of the kind 'set'"),
    ("a: .inf\n", 1, "has the number .inf, which not every guest reads alike"),
    ("a: .nan\n", 1, "has the number .nan"),
    ("a: 1.0e+20\n", 1, "has the number 1.0e+20"),
    ("a: 22:22\n", 1, "has the number 22:22"),
    ("a: 190:20:30.15\n", 1, "has the number 190:20:30.15"),
    ("a: " + "1" * 10000 + "\n", 1, "has the number 1111111111111111111111111111111111111111, which"),
    ("a: 1\n---\nb: 2\n", 2, "cannot be read as YAML: but found another document"),
    ("a: [1\n", 2, "cannot be read as YAML: expected ',' or ']'"),
    ("a: 1\n\tb: 2\n", 2, "cannot be read as YAML: found character '\\t' that cannot start any token"),
    ("a: 1\nb: \x07\n", 2, "cannot be read as YAML: it has the character U+0007"),
    ("- a\n", 1, "is not a mapping of names to values"),
    ("just text\n", 1, "is not a mapping of names to values"),
    ("a: " + "[" * 33 + "]" * 33, 1, "cannot be read as YAML: more than 32 levels in each other"),
    ("a: " + "{b: " * 33 + "}" * 33, 1, "cannot be read as YAML: more than 32 levels in each other"),
])
def test_refused(text: str, line: int, what: str) -> None:
    at, said = problems(text)[0]
    assert at == line and said.startswith(what), (at, said)
    assert problems(text, first=101)[0][0] == line + 100


def test_every_mistake_is_named() -> None:
    assert [line for line, _ in problems("a: 1\na: 2\non: 3\nb: .inf\n")] == [2, 3, 4]


@pytest.mark.parametrize("text", [
    "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")),
    "a: &a {x: 1}\n" + "".join(f"{b}: &{b}\n  <<: [*{a}, *{a}]\n" for a, b in pairwise("abcdefghi")),
    "a: " + "[" * 200000,
    "a: " + "{" * 200000,
    "- " * 100000,
    "? " * 100000,
    "&a " * 80000,
    "a: \"" + "\\x41" * 60000,
    "a" * 250000,
    "a: '" + "'" * 200000,
    "%TAG ! x\n" * 10000,
])
def test_bombs(text: str) -> None:
    began = time.monotonic()
    assert problems(text)
    assert time.monotonic() - began < 10
