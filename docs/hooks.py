"""What MkDocs and mkdocstrings do not do by themselves for the site of distmap.

- Files outside `docs/` become pages: the README (the start page), the notebooks, CONTRIBUTING and others. All links are
  written so that they work in the repository; here they are rewritten for the site.
- The tables of limits are made from the comments in `limits.py`, `relay_limits.py`, `ssh_limits.py` and
  `launch_limits.py` of `distmap/core/`.
- Links and pictures of the built pages are checked, those in notebooks and in HTML too, which MkDocs does not check. A
  page must load nothing from another host.

MkDocs calls the `on_*` functions in this order (https://www.mkdocs.org/dev-guide/plugins/#events).
"""

from __future__ import annotations

import logging
import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

log = logging.getLogger("mkdocs.plugins.distmap")

ROOT = Path(__file__).resolve().parent.parent
#: Files of the repository outside `docs/` that are pages too, or are downloaded. MkDocs makes README.md the start page
#: of its folder.
OUTSIDE = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"),
    *(f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))),
    *(f"examples/{path.name}" for path in sorted((ROOT / "examples").iterdir()) if path.suffix != ".md"),
)
PICTURE = re.compile(r'<picture>.*?srcset="([^"]+)".*?alt="([^"]*)" src="([^"]+)".*?</picture>', re.DOTALL)
#: A limit in the source: comment lines, name, value.
LIMIT = re.compile(r"((?:^    #: .*\n)*)^    (\w+): [^=]+ = (.+)$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#]+)")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in `docs/`."""
    for path in OUTSIDE:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of the repository into links of the site, in which the content of `docs/` lies beside the rest."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in OUTSIDE else f"docs/{here}")

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1])).removeprefix("docs/")
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    if here == "CHANGELOG.md":  # it mentions everything, and would be the first answer to every search
        page.meta["search"] = {"boost": 0.3}
    markdown = markdown.replace("<!-- limits -->", limits("limits.py"))
    markdown = markdown.replace("<!-- limits of a relay -->", limits("relay_limits.py"))
    markdown = markdown.replace("<!-- limits of ssh -->", limits("ssh_limits.py"))
    markdown = markdown.replace("<!-- limits of launchers -->", limits("launch_limits.py"))
    markdown = PICTURE.sub(r"![\2](\3#only-light)\n![\2](\1#only-dark)", markdown)
    return LINK.sub(link, markdown)


def limits(module: str) -> str:
    """The table of the limits of one module of `core/`, from the comments in the source."""
    source = (ROOT / "distmap" / "core" / module).read_text(encoding="utf-8")
    rows = ["| limit | value | meaning |", "|---|---|---|"]
    for comment, name, value in LIMIT.findall(source):
        number, _, shift = value.partition(" << ")
        shown = f"{number} {({'10': 'KiB', '20': 'MiB', '30': 'GiB'})[shift]}" if shift else value.replace("_", " ")
        meaning = " ".join(line.strip().removeprefix("#: ") for line in comment.splitlines())
        rows.append(f"| `{name}` | {shown} | {meaning} |")
    return "\n".join(rows)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Make the pages of notebooks lead to each other, and load nothing from elsewhere."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    html = re.sub(r'href="(\w+)\.ipynb"', r'href="../\1/"', html)
    # No notebook has a formula; the template would fetch MathJax all the same.
    return re.sub(r'<script[^>]*src="https?://[^>]*></script>', "", html)


class _Page(HTMLParser):
    """The anchors, links and loaded files of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "__top"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif "src" in found:
            self.loads.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon"):
            self.loads.append(found["href"])


def on_post_build(config: Any) -> None:
    """Check every link and every loaded file of every page; a warning fails a strict build."""
    site = Path(config.site_dir)
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        here = path.relative_to(site)
        for target in page.loads:
            if urlsplit(target).netloc:
                log.warning("%s loads %s from another host", here, target)
        for target in [*page.links, *page.loads]:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.exists():
                log.warning("%s leads to %s, which does not exist", here, target)
            elif file in pages and unquote(url.fragment) not in pages[file].anchors:
                log.warning("%s leads to %s, but that page has no such anchor", here, target)
