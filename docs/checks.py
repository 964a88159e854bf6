"""Looks for what a contributor has left out: `python docs/checks.py`, in the project's folder.

It prints a sentence that says what to do for each setting that no code reads, and for each route
that `docs/routes.md` or `docs/openapi.json` does not have as it is. The exit code is 1 if there is
one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import openapi

from proxy.api.routes import Route
from proxy.app.server import ROUTES
from proxy.settings import ACCOUNT_SETTINGS, SETTINGS, Setting

_TABLES = "docs/routes.md"
#: What stands in backticks.
_SPAN = r"`([^`]+)`"

#: What tables of settings are called where they are read.
_SETTINGS, _ACCOUNT = frozenset({"settings", "_settings"}), frozenset({"account", "table"})
#: Where tables of accounts are read.
_ACCOUNT_READERS = ("proxy/settings/", "proxy/app/")


# --- settings -------------------------------------------------------------------------------


def unread_settings(sources: Mapping[str, str]) -> list[str]:
    """Return a sentence for each setting that the code does not read; `sources` are texts of
    modules by path."""
    read: set[str] = set()
    read_of_accounts: set[str] = set()
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value).rpartition(".")[2]
                if owner in _SETTINGS:
                    read.add(node.attr)
                elif owner in _ACCOUNT and path.startswith(_ACCOUNT_READERS):
                    read_of_accounts.add(node.attr)
    return [
        f"Nothing reads the setting {row.name} of {row.model.__name__} ({_module(row)}): pass it "
        f"on in proxy/app/ as settings.{row.name} to what it is for, or remove it."
        for rows, names in ((SETTINGS, read), (ACCOUNT_SETTINGS, read_of_accounts))
        for row in rows
        if row.name not in names | _read_by_properties(sources[_module(row)], names)
    ]


def _module(row: Setting) -> str:
    return f"{row.model.__module__.replace('.', '/')}.py"


def _read_by_properties(source: str, read: set[str]) -> set[str]:
    """Return what those properties in a module read that are read themselves."""
    return {
        node.attr
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef) and function.name in read
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }


# --- routes ---------------------------------------------------------------------------------


def documented_routes(page: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return the cells of `docs/routes.md` about each route by method and path, with its `Twin`. Of
    a route that is only listed there are none.

    Raises `ValueError` for a route that stands there twice.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for section in page.split("\n## ")[1:]:
        twins = re.search(r"below `/api`(?:, except ((?:`[^`]+`(?:, )?)+))?\.", section)
        alone = re.findall(_SPAN, (twins and twins[1]) or "")
        for names, cells in _named(section):
            for name in re.findall(_SPAN, names):
                method, _, path = name.partition(" ")
                has_twin = twins is not None and name not in alone
                if (method, path) in found:
                    raise ValueError(f"{name} stands there twice")
                found[method, path] = {**cells, "Twin": f"/api{path}" if has_twin else ""}
    return found


def _named(section: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the routes of each list of a section, and those of each row with its cells."""
    for names in re.findall(r"(?m)^(?:As in|\*) [\w ]+: (`.*`)$", section):
        yield names, {}
    head, *rows = re.findall(r"(?m)^\|.*\|$", section) or ["||"]
    for line in rows[1:]:
        row = dict(zip(_cells(head), _cells(line), strict=True))
        yield row.pop("Route"), row


def wrong_rows(page: str, routes: Iterable[Route]) -> list[str]:
    """Return a sentence for each route whose row in `docs/routes.md` is missing or wrong, and for
    each row without a route."""
    return [*_wrong_rows(documented_routes(page), routes)]


def _wrong_rows(
    rows: dict[tuple[str, str], dict[str, str]], routes: Iterable[Route]
) -> Iterator[str]:
    for route in routes:
        path = re.sub(r":(?:[^{}]|{[^{}]*})*}", "}", route.path)  # without patterns of its parts
        method = "any" if route.method == "*" else route.method
        answer = (route.handler.__doc__ or "").strip().partition("\n")[0]
        row = rows.pop((method, path), None)
        if row is None:
            yield (
                f"{_TABLES} does not have {method} {path}: add it to the list of its section, or "
                "with its difference from ComfyUI to the table. If it is not in ComfyUI, add "
                f"`| `{method} {path}` | {answer} |`."
            )
        elif row.get("What it does", answer) != answer:
            yield (
                f"{_TABLES} says of {method} {path} that it does “{row['What it does']}”, "
                f"and the docstring of its handler “{answer}”: write the same sentence in both."
            )
        elif row["Twin"] != (f"/api{path}" if route.twin else ""):
            yield (
                f"{_TABLES} says that {method} {path} {'has a' if row['Twin'] else 'has no'} twin "
                "below /api, and proxy/api/routes.py the opposite: move it to another section or "
                "name it in the sentence above the table."
            )
    for method, path in rows:
        yield (
            f"{_TABLES} has {method} {path}, which is no route: remove it, or add the route to "
            "proxy/api/routes.py."
        )


def _cells(line: str) -> list[str]:
    """Return the cells of a row of a table."""
    return [cell.strip() for cell in line[1:-1].split("|")]


# --- all ------------------------------------------------------------------------------------


def main() -> int:
    """Print what is wrong; return the exit code."""
    sources = {path.as_posix(): path.read_text("utf-8") for path in Path("proxy").rglob("*.py")}
    sentences = [
        *unread_settings(sources),
        *wrong_rows(Path(_TABLES).read_text("utf-8"), ROUTES),
        *openapi.undescribed(ROUTES),
    ]
    for sentence in sentences:
        sys.stderr.write(f"{sentence}\n")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
