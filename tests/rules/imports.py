"""The import statements of a module, wherever they stand, but for those that only a type checker sees."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vmbatch"


def modules() -> dict[str, Path]:
    """Every module of the product by its name without `vmbatch.`; a package by its folder's."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _statements(node: ast.AST, *, inner: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif _is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from _statements(ast.Module([other], []), inner=inner)
        elif inner or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _statements(child, inner=inner)


def imported(path: Path, *, inner: bool = True) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of what a module imports at run time, in functions too if `inner`; ours as `vmbatch.NAME`."""
    known = modules()
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in _statements(ast.parse(path.read_text()), inner=inner):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
            continue
        base = (
            ".".join([*here[: len(here) - node.level], *([node.module] if node.module else [])])
            if node.level
            else str(node.module)
        )
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield node.lineno, full if full.removeprefix("vmbatch.") in known else base
