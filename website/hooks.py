"""What MkDocs asks for while it builds the site: pages that are made, folders in the navigation, links for what texts name."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website import DOCS, ROOT, commands, configuration, crossref, examples, statuses, tags

_TOP = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages that lie beside docs/."""


def made() -> dict[str, str]:
    """Every page that is not a file in docs/: its place in the site, and its Markdown."""
    return {
        "reference/configuration.md": configuration.page(),
        "reference/tags.md": tags.page(),
        "reference/commands.md": commands.page(),
        "reference/exit-statuses.md": statuses.page(),
        **examples.pages(),
        **{place: (ROOT / name).read_text() for place, name in _TOP.items()},
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """An entry of the navigation that ends in `/` stands for all pages of that folder; without pages it is left out."""
    known = sorted([*made(), *(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))],
                   key=lambda place: (not place.endswith("/index.md"), place))
    config.nav = _expanded(config.nav, known)
    return config


def _expanded(entry: object, known: list[str]) -> list[object]:
    found: list[object] = []
    for item in entry if isinstance(entry, list) else [entry]:
        if isinstance(item, dict):
            for title, inside in item.items():
                if filled := _expanded(inside, known):
                    found.append({title: filled})
        elif str(item).endswith("/"):
            found += [place for place in known if place.startswith(str(item))]
        else:
            found.append(item)
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages that are made join those of docs/."""
    for place, text in made().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """What a page names becomes a link to it."""
    return crossref.linked(markdown, page.file.src_uri, {file.src_uri for file in files.documentation_pages()})
