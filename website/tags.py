"""The reference of the tags in domain templates: what the schema knows of each, and which examples use it."""

import re

from vmbatch.template import schema
from website import ROOT
from website.configuration import escaped
from website.crossref import anchor

_RNG = "{http://relaxng.org/ns/structure/1.0}"
_MANY = 8


def page() -> str:
    """Markdown: a part for each tag, in the order of the schema."""
    ours = [tag for tag in schema.tags() if tag.startswith("vb")]
    lines = ["# Tags", "", "VmBatch's own tags in a domain template, made from the schema that templates are checked by. "
             "A tag's name leads to its whole text in vmbatch-domain(5)."]
    for tag in ours:
        lines += ["", f"## `<{tag}>`", "", f"[vmbatch-domain(5)](../man/vmbatch-domain.5.md#{anchor(tag)}): "
                  + escaped(schema.documentation(tag) or "holds the tags below") + ".", "",
                  f"- Stands in: {' or '.join(f'`<{place}>`' for place in _places(tag))}"]
        if inside := [child for child in ours if tag in _places(child)]:
            lines.append(f"- Holds: {', '.join(f'`<{child}>`' for child in inside)}")
        if values := _values(tag):
            lines.append(f"- Content: {', '.join(f'`{value}`' for value in values)}")
        if used := _examples(tag):
            named = ", ".join(f"[`{name}.xml`](../examples/{name}.md)" for name in used)
            lines.append(f"- Examples: {named if len(used) <= _MANY else '[nearly all](../examples/index.md)'}")
        if known := schema.attributes(tag):
            lines += ["", "| attribute | required | what is expected |", "|---|---|---|"]
            lines += [f"| `{name}` | {'yes' if required else ''} | {escaped(meaning)} |"
                      for name, (required, meaning) in known.items()]
    return "\n".join([*lines, ""])


def _places(tag: str) -> list[str]:
    return [place for place, element in schema.tags().items()
            if any(ref.get("name") == tag for ref in element.iter(f"{_RNG}ref"))]


def _values(tag: str) -> list[str]:
    """What stands between the tags; the values of attributes are in their own texts."""
    return [str(value.text) for value in schema.tags()[tag].iter(f"{_RNG}value")
            if not any(above.tag == f"{_RNG}attribute" for above in value.iterancestors())]


def _examples(tag: str) -> list[str]:
    return [path.stem for path in sorted((ROOT / "examples/domains").glob("*.xml"))
            if re.search(rf"<{tag}[\s/>]", re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL))]
