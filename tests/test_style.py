"""Plain technical English: a list of words for documents, help, errors and comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LISTS = tomllib.loads((ROOT / "tests/style.toml").read_text(encoding="utf-8"))
EVERYWHERE = LISTS["everywhere"]
SENTENCES = {**EVERYWHERE, **LISTS["sentences"]}
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "config.example.toml")
    if not re.search(r"README\.\w\w\.md$|CHANGELOG", path.name)
)
PAGES = sorted((ROOT / "proxy").rglob("*.html"))
MODULES = sorted((ROOT / "proxy").rglob("*.py"))
#: The longest sentence of a document, in words.
LONGEST = 40


def found(text: str, words: dict[str, str]) -> list[str]:
    """Each use of a word of a list, with what to write instead."""
    return [
        f"{match[0]!r}: write {instead}"
        for pattern, instead in words.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


def prose(path: Path) -> str:
    """A document without code, tables and links."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"(?ms)^ *```.*?^ *```$|<!--.*?-->", "", text)
    text = re.sub(r"`[^`]*`", "`code`", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:[*#|]|\d+\.) ?", text):
        if not paragraph.lstrip().startswith("|"):
            yield from re.split(r"(?<=[.!?:;])\s", paragraph.replace("\n", " "))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_use_plain_words(path: Path) -> None:
    assert found(prose(path).replace("\n", " "), SENTENCES) == []


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.suffix == ".md"], ids=lambda path: path.name
)
def test_sentences_of_documents_are_short(path: Path) -> None:
    assert [one for one in sentences(prose(path)) if len(one.split()) > LONGEST] == []


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._skipped = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped = tag in ("script", "style")
        self.said += [text for name, text in attrs if name in ("aria-label", "title") and text]

    def handle_endtag(self, tag: str) -> None:
        self._skipped = False

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.said.append(data)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_use_plain_words(path: Path) -> None:
    reader = _Text()
    reader.feed(path.read_text(encoding="utf-8"))
    assert found(" ".join(" ".join(reader.said).split()), SENTENCES) == []


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The strings with several words in a module, which people read; not its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            parts = node.values
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in parts)
        else:
            continue
        if text.count(" ") > 2:
            yield node.lineno, text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_and_help_use_plain_words(path: Path) -> None:
    wrong = {line: told for line, text in texts(path) if (told := found(text, SENTENCES))}
    assert wrong == {}


def remarks(path: Path) -> Iterator[tuple[int, str]]:
    """The comments and docstrings of a module."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, str(node.value.value)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_use_plain_words(path: Path) -> None:
    wrong = {
        line: told
        for line, text in remarks(path)
        if (told := found(" ".join(text.split()), EVERYWHERE))
    }
    assert wrong == {}
