"""A hook of MkDocs: adds the pages of the project's folder to the site, and turns links into the site's.

`README.md`, `CONTRIBUTING.md` and `CHANGELOG.md` are pages of the site; a link to any other file outside `docs/`,
which the site does not hold, becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""The pages that lie in the project's folder, and their names on the site."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie in the project's folder."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links of a page as it lies in the repository into those of the site."""
    name = page.file.src_uri
    outside = name in PAGES.values()
    folder = "" if outside else posixpath.join("docs", posixpath.dirname(name))

    def turned(link: re.Match[str]) -> str:
        picture, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))  # from the project's folder
        if path in PAGES:
            there = PAGES[path]
        elif path.startswith("docs/"):
            there = path.removeprefix("docs/")
        else:
            return text
        return f"{picture}[{text}]({posixpath.relpath(there, posixpath.dirname(name) or '.')}{anchor})"

    return LINK.sub(turned, markdown)
