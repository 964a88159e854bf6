"""A hook of the site: the changelog and the guide for contributors are pages of it.

Links out of the documents to other files of the repository become the paths of these files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
#: Pages of the site that are outside of `docs/`, and their files.
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are outside of `docs/`, with their links as from there."""
    for page, name in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        text = re.sub(r"\]\((?!https?:|#|docs/)([^)]+)\)", r"](../\1)", text)
        text = text.replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead to the pages of the site, and replace other links out of the documents by paths."""
    for page, name in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    markdown = re.sub(r"\[`([^`\]]+)`\]\(\.\./[^)]+\)", r"`\1`", markdown)
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", r"\1 (`\2`)", markdown)
