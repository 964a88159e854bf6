"""Files that are open while others rename and delete them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.files.descriptors import open_new, open_to_read, read_at


def test_a_file_that_is_written_and_read_can_be_renamed_and_deleted(tmp_path: Path) -> None:
    writing, path = open_new(tmp_path)
    reading = open_to_read(path)
    os.write(writing, b"first\r\n")
    path = path.replace(tmp_path / "renamed")
    os.write(writing, b"second\x1a")
    path.unlink()
    assert read_at(reading, 100, 0) == b"first\r\nsecond\x1a"
    os.close(writing)
    os.close(reading)


def test_each_reading_begins_at_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = open_to_read(path)
    found = [read_at(descriptor, 4, offset) for offset in (3, 0, 8, 10)]
    os.close(descriptor)
    assert found == [b"3456", b"0123", b"89", b""]


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_to_read(tmp_path / "missing")


def test_a_new_file_is_for_its_user_alone(tmp_path: Path) -> None:
    handle, path = open_new(tmp_path)
    os.close(handle)
    assert path.stat().st_mode & 0o077 == 0
