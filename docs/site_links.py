"""A hook of the site: links out of the documents become the paths of files in the repository."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `[text](../path)`, which only works in the repository, by the text and the path."""
    markdown = re.sub(r"\[`([^`\]]+)`\]\(\.\./[^)]+\)", r"`\1`", markdown)
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", r"\1 (`\2`)", markdown)
