"""Judges the built site: `python -m website.check dist/site` names broken links and anchors, swallowed tags, what it loads."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
_KNOWN = frozenset((
    "a", "abbr", "article", "aside", "b", "blockquote", "body", "br", "button", "code", "dd", "del", "details", "div", "dl",
    "dt", "em", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "i", "iframe", "img",
    "input", "kbd", "label", "li", "link", "main", "mark", "meta", "nav", "ol", "option", "p", "path", "pre", "s", "script",
    "section", "select", "small", "span", "strong", "style", "sub", "summary", "sup", "svg", "g", "circle", "rect", "table",
    "tbody", "td", "template", "text", "th", "thead", "time", "title", "tr", "u", "ul",
))
"""Elements of HTML and of the theme's pictures. Another one is a tag of ours that Markdown took for markup."""


class Document(HTMLParser):
    """What matters of one page: its anchors, its links, what it loads, elements that are none of HTML's."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.unknown: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes one element."""
        known = dict(attrs)
        self.anchors |= {name for name in (known.get("id"), known.get("name")) if name}
        if tag == "a" and known.get("href"):
            self.links.append(str(known["href"]))
        if tag in _LOADED and known.get(_LOADED[tag]) and known.get("rel") != "canonical":
            self.loaded.append(str(known[_LOADED[tag]]))
        if tag not in _KNOWN:
            self.unknown.add(tag)


def problems(site: Path) -> list[str]:
    """Every mistake of a built site, a line each."""
    pages = {path: Document(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: <{tag}> is no element of HTML" for tag in sorted(page.unknown)]
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded:
                    found.append(f"{name}: loads {link}")
                continue
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                found.append(f"{name}: {link} is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {link} has no such place")
    for path in sorted(site.rglob("*.css")):
        found += [f"{path.relative_to(site)}: loads {url}"
                  for url in re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", path.read_text())]
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]).resolve())
    print("\n".join(wrong) or "no broken link, nothing from elsewhere")
    sys.exit(1 if wrong else 0)
