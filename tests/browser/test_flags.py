"""The flags that the installed web interface reads are those of `docs/how-it-works.md`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.api import web_interface

#: `e.NAME=`flag`` of the list of flags, in the module of that name.
_LISTED = re.compile(r"e\.[A-Z0-9_]+=`([\w.-]+)`")
_ASKED = re.compile(r"(?:getServerFeature|serverSupportsFeature|resolveFlag)\(`([\w.-]+)`")
#: The names under which a module has the values of `/features`.
_IMPORTED = re.compile(r'import\{([^}]*)\}from"\./remoteConfig-[\w-]+\.js"')


def read_by(scripts: list[str]) -> Iterator[str]:
    for text in scripts:
        if "function useFeatureFlags(" in text:
            yield from _LISTED.findall(text)
        yield from _ASKED.findall(text)
        for names in _IMPORTED.findall(text):
            for name in (re.escape(part.rpartition(" as ")[2]) for part in names.split(",")):
                values = rf"(?<![\w$.]){name}\.value(?:\?\.|\.)(\w+)"
                yield from re.findall(values, text)
                yield from re.findall(rf"(?<![\w$.]){name}\.value\[`([\w-]+)`\]", text)
                yield from re.findall(rf"(?<![\w$.]){name}\(\w+\.value,`([\w-]+)`", text)


def test_every_flag_that_the_web_interface_reads_is_decided() -> None:
    folder = web_interface.installed().frontend
    if folder is None:
        pytest.skip("the extra `ui` is not installed")
    scripts = [path.read_text("utf-8") for path in (folder / "assets").glob("*.js")]
    found = set(read_by(scripts))
    assert len(found) > 20
    page = Path(__file__).parents[2] / "docs" / "how-it-works.md"
    section = page.read_text("utf-8").partition("## Feature flags")[2]
    lists = re.findall(r"(?m)^\* ((?:`[^`]+`,? ?)+)", section)
    listed = {name for names in lists for name in re.findall(r"`([^`]+)`", names)}
    # Of the billing pages' own lists, not of the flags.
    assert found - {"length", "map", "some"} <= listed
