"""Files that are read again when they change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.runtime.watched_files import WatchedFiles


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("one")
    return path


def test_a_file_has_changed_when_it_is_written_replaced_or_gone(key: Path, tmp_path: Path) -> None:
    watched = WatchedFiles({"key": key, "other": tmp_path / "none", "unset": None})
    assert [watched.look(), watched.look()] == [["key"], []]
    key.write_text("two or three")
    assert [watched.look(), watched.look()] == [["key"], []]
    (tmp_path / "new").write_text("two or three")
    (tmp_path / "new").replace(key)
    assert [watched.look(), watched.look()] == [["key"], []]
    key.unlink()
    assert [watched.look(), watched.look()] == [["key"], []]


async def test_a_change_is_found_at_the_next_look(key: Path) -> None:
    changes = WatchedFiles({"key": key}, interval=0.01).changes()
    assert await anext(changes) == ["key"]
    await asyncio.to_thread(key.write_text, "another one")
    assert await anext(changes) == ["key"]
    await changes.aclose()


async def test_all_files_count_as_changed_when_somebody_asks(key: Path) -> None:
    asked = asyncio.Event()
    changes = WatchedFiles({"key": key, "unset": None}, interval=600).changes(asked)
    assert await anext(changes) == ["key"]
    asked.set()
    assert await anext(changes) == ["key", "unset"]
    assert not asked.is_set()
    await changes.aclose()
