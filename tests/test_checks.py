"""What `make check` says to a contributor who has left something out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import checks
import pytest

from proxy.api import system
from proxy.api.routes import Route

ROOT = Path(__file__).parent.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, as far as the checks read it."""
    for folder in ("proxy", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "images")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text("utf-8"), count=1)
    assert count == 1
    path.write_text(text, "utf-8")


def add_a_setting(copy: Path) -> None:
    edit(
        copy / "proxy/settings/general.py",
        r"(?m)^    port: int",
        "    moon: int = setting(1, 'The phase of the moon.')\n    port: int",
    )


def add_a_route(copy: Path) -> None:
    edit(
        copy / "proxy/api/routes.py",
        r"(?m)^ROUTES = \(\n",
        'ROUTES = (\n    Route("GET", "/moon", system.get_health),\n',
    )


def remove_a_route(copy: Path) -> None:
    edit(copy / "proxy/api/routes.py", r'(?m)^ *_only\("GET", "/healthz", .*\n', "")


def test_what_is_left_out_is_named_with_what_to_do(copy: Path) -> None:
    add_a_setting(copy)
    add_a_route(copy)
    remove_a_route(copy)
    done = subprocess.run(
        [sys.executable, "docs/checks.py"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    for sentence in (
        "Nothing reads the setting moon of GeneralSettings (proxy/settings/general.py): ",
        "docs/routes.md does not have GET /moon: add it to the list of its section, or ",
        "docs/routes.md has GET /healthz, which is no route: ",
    ):
        (line,) = [line for line in lines if line.startswith(sentence)]
        assert line.endswith(".")
    assert len(lines) == 3


def test_a_property_counts_as_a_reader_where_it_is_read() -> None:
    modules = (ROOT / "proxy/settings").glob("*.py")
    sources = {path.relative_to(ROOT).as_posix(): "" for path in modules}
    sources["proxy/settings/general.py"] = "def half(self): return self.port / 2"
    unread = checks.unread_settings(sources)
    read = checks.unread_settings({**sources, "proxy/app.py": "x = process.settings.half"})
    assert [line for line in unread if line not in read] == [
        line for line in unread if "setting port of GeneralSettings " in line
    ]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("| `GET /moon` | The phase. |", "the same sentence in both."),
        ("| `POST /moon` | Whether the process answers. |", "does not have GET /moon"),
    ],
)
def test_a_wrong_row_is_named(row: str, fault: str) -> None:
    page = f"# Routes\n\n## The moon\n\n| Route | What it does |\n|-|-|\n{row}\n"
    routes = [Route("GET", "/moon", system.get_health, twin=False)]
    assert fault in checks.wrong_rows(page, routes)[0]
