"""What the web interface keeps for a member."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

Client = TestClient[Any, Any]
FILE = Path("userdata/local/comfy.settings.json")


async def test_at_first_there_are_none(client: Client) -> None:
    assert await (await client.get("/settings")).json() == {}


async def test_setting_some_keeps_the_others(client: Client) -> None:
    first = await client.post("/settings", data='{"a": 1, "b": {"x": [1, null]}}')
    assert (first.status, await first.read()) == (200, b"")
    assert "Content-Type" not in first.headers
    await client.post("/api/settings", data='{"a": 2}')
    assert await (await client.get("/settings")).json() == {"a": 2, "b": {"x": [1, None]}}


@pytest.mark.parametrize("value", ["true", "null", '"text"', "[1, 2]", str(2**70), "NaN"])
async def test_one_setting_is_its_bare_value(client: Client, value: str) -> None:
    answer = await client.post("/settings/h%C3%A9%2Fx", data=value)
    assert (answer.status, await answer.read()) == (200, b"")
    assert await (await client.get("/settings/h%C3%A9%2Fx")).text() == value


async def test_an_unknown_setting_is_null(client: Client) -> None:
    answer = await client.get("/settings/nope")
    assert (answer.status, await answer.text()) == (200, "null")


@pytest.mark.parametrize(
    "body", ["", "{", "null", "[]", '"x"', '{"a": ' + "[" * 5000 + "]" * 5000 + "}"]
)
async def test_what_are_no_settings_is_refused(client: Client, body: str) -> None:
    answer = await client.post("/settings", data=body)
    assert answer.status == 400
    assert (await answer.json())["error"]["message"]
    assert await (await client.get("/settings")).json() == {}


async def test_the_settings_are_a_file_of_the_member(client: Client, tmp_path: Path) -> None:
    await client.post("/settings/é", data="1")
    assert (tmp_path / FILE).read_text() == '{\n    "\\u00e9": 1\n}'
    await client.post("/userdata/comfy.settings.json", data='{"b": 2}')
    assert await (await client.get("/settings")).json() == {"b": 2}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
async def test_a_damaged_file_counts_as_none(
    client: Client, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_bytes(content)
    assert await (await client.get("/settings")).json() == {}
    assert (await client.post("/settings/a", data="1")).status == 200
    assert json.loads((tmp_path / FILE).read_text()) == {"a": 1}


async def test_changes_at_the_same_time_are_all_kept(client: Client) -> None:
    await asyncio.gather(*(client.post(f"/settings/{n}", data=str(n)) for n in range(20)))
    kept = await (await client.get("/settings")).json()
    assert kept == {str(n): n for n in range(20)}
