"""YAML that an admin wrote, strictly: plain data, one document, no name twice, nothing that grows when it is read."""

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml

_DEPTH = 32
_KEY_CHARS = 256
"""A simple key of YAML has at most 1024 characters, escapes included (PyYAML, scanner.py, stale_possible_simple_keys)."""
_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))

Problem = tuple[int, str]


class Document:
    """The mapping in `text`: `values` is what cloud-init would read, `lines` where each of its names stands.

    `problems` has every mistake as (line, text); with one there may be no values. Lines count from `first`.
    """

    def __init__(self, text: str, first: int = 1) -> None:
        import yaml

        self.values: dict[str, object] = {}
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self._first = first
        try:
            loader = _loader()(text)
            node = loader.get_single_node()
            if isinstance(node, yaml.MappingNode):
                self._mapping(node)
                if not self.problems:
                    self.values = loader.construct_document(node)
                    self.lines = {key.value: self._line(key) for key, _ in node.value}
            elif node is not None:
                self._wrong(node, "is not a mapping of names to values")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = first + (mark.line if mark else 0)
            self.problems.append((line, f"cannot be read as YAML: {error.problem or error.context}"))
        except yaml.reader.ReaderError as error:
            line = first + text.count("\n", 0, error.position)
            self.problems.append((line, f"cannot be read as YAML: it has the character U+{int(error.character):04X}"))

    def _line(self, node: "yaml.Node") -> int:
        return self._first + int(node.start_mark.line)

    def _wrong(self, node: "yaml.Node", text: str) -> None:
        self.problems.append((self._line(node), text))

    def _node(self, node: "yaml.Node") -> None:
        import yaml

        if node.tag not in _TAGS:
            self._wrong(node, f"has a value of the kind {node.tag.rpartition(':')[2]!r}, which VmBatch does not take; "
                              "write it as text in quotes")
        elif isinstance(node, yaml.MappingNode):
            self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._node(item)
        elif node.tag.endswith((":int", ":float")) and not _NUMBER.fullmatch(node.value):
            self._wrong(node, f"has the number {node.value[:40]}, which not every guest reads alike; write it as text in quotes")

    def _mapping(self, node: "yaml.MappingNode") -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                self._wrong(key, f"has the name {str(key.value)[:80]!r}, which YAML does not take for text; put it in quotes")
            elif key.value in seen:
                self._wrong(key, f"has {key.value[:80]!r} a second time; the first is in line {seen[key.value]}")
            elif len(key.value) > _KEY_CHARS:
                self._wrong(key, f"has a name of {len(key.value)} characters; at most {_KEY_CHARS} are taken")
            else:
                seen[key.value] = self._line(key)
            self._node(value)


_NUMBER = re.compile(r"[-+]?(0b[01]{1,63}|0x[0-9a-fA-F]{1,15}|[0-9]{1,18}|[0-9]{1,12}\.[0-9]{1,4})")
"""What of YAML 1.1's numbers is a number in JSON and comes back the same: none with an exponent, in base 60, or infinite."""


@functools.cache
def _loader() -> "type[yaml.SafeLoader]":
    import yaml

    class Strict(yaml.SafeLoader):
        """No alias, no deep nesting, and dates are text."""

        yaml_implicit_resolvers = {
            char: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
            for char, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise yaml.composer.ComposerError(None, None, "an alias (*name) is not taken; write out what it stands for",
                                                  self.get_mark())
            if self.depth >= _DEPTH:
                raise yaml.composer.ComposerError(None, None, f"more than {_DEPTH} levels in each other", self.get_mark())
            self.depth += 1
            try:
                return super().compose_node(parent, index)
            finally:
                self.depth -= 1

    return Strict
