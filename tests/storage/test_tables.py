"""Text that databases refuse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from proxy.storage.tables import AnyText, escaped, metadata

DIALECT = sqlite.dialect()  # type: ignore[no-untyped-call]


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_stored_as_utf_8_without_nul_and_comes_back(text: str) -> None:
    stored = escaped(text)
    assert b"\0" not in stored.encode()
    assert AnyText().process_result_value(stored, DIALECT) == text


def test_ordinary_text_is_stored_as_it_is() -> None:
    assert escaped("sub/photo \\ é.png") == "sub/photo \\ é.png"


def test_every_table_has_a_key() -> None:
    assert all(table.primary_key.columns for table in metadata.tables.values())
