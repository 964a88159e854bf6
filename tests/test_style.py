"""Documents: sentences that are short enough to read once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
    if not re.search(r"README\.\w\w\.md$|CHANGELOG", path.name)
)
#: The longest sentence of a document, in words.
MAX_WORDS = 40


def prose(path: Path) -> str:
    """Return a document without code, comments and the targets of links."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"(?ms)^ *```.*?^ *```$|<!--.*?-->", "", text)
    text = re.sub(r"`[^`]*`", "`code`", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:[*#|]|\d+\.) ?", text):
        if not paragraph.lstrip().startswith("|"):
            yield from re.split(r"(?<=[.!?:;])\s", paragraph.replace("\n", " "))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_sentences_of_documents_are_short(path: Path) -> None:
    found = sentences(prose(path))
    assert [sentence for sentence in found if len(sentence.split()) > MAX_WORDS] == []
