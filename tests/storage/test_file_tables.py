"""Rows of files."""

from __future__ import annotations

import pytest

from proxy.storage.file_tables import FileRecord
from proxy.translate.names import Place


@pytest.mark.parametrize(
    ("path", "subfolder", "filename"), [("a/b/x.png", "a/b", "x.png"), ("x.png", "", "x.png")]
)
def test_a_file_tells_its_folder_its_name_and_its_place(
    path: str, subfolder: str, filename: str
) -> None:
    record = FileRecord("m", "input", path, "c", "input", None, None, "image/png", 1.0, "main")
    assert (record.subfolder, record.filename) == (subfolder, filename)
    assert record.place == Place("input", path)
