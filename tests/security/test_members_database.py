"""Members who keep the database busy: with many rows, large ones, or many small units."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from backend import open_database
from security.attack import MEMBER, Figures, Target
from security.conftest import Start
from security.test_unread_answers import unread
from sqlalchemy import Connection, insert
from yarl import URL

from proxy.storage.userdata import BLOCK, ROOT, StoredEntry, userdata

MB = 1024 * 1024
#: Others wait no longer for the database.
DATABASE = MEMBER._replace(wait=0.5)
#: Seconds for which an attacker goes on.
LASTS = 8.0
FILES = 29_100
#: Jobs that fill all slots, so that others' jobs wait for nothing but the database.
SLOTS = 8
TAKEN_OR_NOT = {200, 413, 429, 503}


async def fill(folder: Path, folders: Sequence[str], files: int) -> None:
    """Store files of Eve in each of these folders, before the proxy starts."""

    def row(path: str) -> dict[str, Any]:
        size = BLOCK * len(folders) * (files + 1) if path == ROOT else 0
        entry = StoredEntry("eve", path, size, 1.0, 1.0)
        return {name: getattr(entry, name) for name in entry.__struct_fields__} | {"data": b""}

    def add(connection: Connection, some: Sequence[str]) -> None:
        connection.execute(insert(userdata), [row(path) for path in some])

    names = [ROOT, *(f"{name}/" for name in folders)]
    names += [f"{name}/{number:06}.json" for name in folders for number in range(files)]
    database = await open_database(folder)
    try:
        for start in range(0, len(names), 10_000):
            some = names[start : start + 10_000]
            await database.write(lambda connection, some=some: add(connection, some), long=True)
    finally:
        await database.close()


async def fill_slots(target: Target) -> None:
    """Let jobs of Ann take all slots of the cloud."""
    for _ in range(SLOTS):
        body = {"prompt": graphs.waiting(600)}
        assert await target.request("POST", "prompt", member="ann", json=body) == 200


@asynccontextmanager
async def attacked(target: Target) -> AsyncIterator[Figures]:
    """Attack inside the block, while Bob submits jobs."""
    await fill_slots(target)
    async with target.attacked_by(DATABASE, graph=graphs.plain()) as figures:
        yield figures


async def for_a_while(
    work: Callable[[aiohttp.ClientSession], Awaitable[Any]], target: Target, connections: int
) -> set[int]:
    """Do something again and again on so many connections of Eve; the statuses of the answers."""
    statuses: set[int] = set()
    ends = asyncio.get_running_loop().time() + LASTS

    async def repeat(session: aiohttp.ClientSession) -> None:
        while asyncio.get_running_loop().time() < ends:
            try:
                statuses.add(await work(session))
            except aiohttp.ClientConnectionError:  # more than Eve may have
                await asyncio.sleep(0.1)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=target.bearer(), connector=connector) as session:
        await asyncio.gather(*(repeat(session) for _ in range(connections)))
    return statuses


async def read(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        await answer.read()
        return answer.status


async def post(session: aiohttp.ClientSession, url: str, data: bytes) -> int:
    async with session.post(url, data=io.BytesIO(data)) as answer:
        await answer.read()
        return answer.status


async def test_folders_with_many_files_are_renamed(start: Start, tmp_path: Path) -> None:
    names = [f"folder{number}" for number in range(6)]
    await fill(tmp_path / "data", names, FILES)
    async with start() as target:
        async with attacked(target):
            renamed = await asyncio.gather(
                *(target.request("POST", f"userdata/{name}/move/new-{name}") for name in names)
            )
        listed = await target.request("GET", "userdata", params={"dir": "new-folder3"})
    assert (renamed, listed) == ([200] * 6, 200)


async def test_lists_of_many_files_that_nobody_reads(start: Start, tmp_path: Path) -> None:
    await fill(tmp_path / "data", ["folder"], FILES)
    async with start() as target, attacked(target):
        async with AsyncExitStack() as asked:
            statuses = await asyncio.gather(
                *(asked.enter_async_context(unread(target, "/v2/userdata")) for _ in range(300))
            )
        assert set(statuses) == {200, 429}


async def test_one_of_many_settings_is_read_on_many_connections(target: Target) -> None:
    large = json.dumps({f"key{number}": number for number in range(100_000)}).encode()
    assert 1.7 * MB < len(large) <= 2 * MB
    assert await target.request("POST", "settings", data=io.BytesIO(large)) == 200
    url = f"{target.url}/settings/key7"
    async with attacked(target):
        statuses = await for_a_while(lambda session: read(session, url), target, 100)
    assert 200 in statuses <= TAKEN_OR_NOT


@pytest.mark.parametrize("writes", [True, False], ids=["writes", "reads"])
async def test_many_connections_with_small_units(start: Start, *, writes: bool) -> None:
    async with start("--max-connections", "5000") as target:
        url = f"{target.url}/userdata/small.json"
        assert await target.request("POST", "userdata/small.json", data=b"{}") == 200

        async def work(session: aiohttp.ClientSession) -> int:
            return await (post(session, url, b"{}") if writes else read(session, url))

        async with attacked(target):
            statuses = await for_a_while(work, target, 2000)
    assert 200 in statuses <= TAKEN_OR_NOT


async def test_files_in_very_deep_folders(target: Target) -> None:
    count = iter(range(10**6))

    async def work(session: aiohttp.ClientSession) -> int:
        path = "%2F".join([f"{next(count)}", *["d"] * 95, "f"])
        return await post(session, URL(f"{target.url}/userdata/{path}", encoded=True), b"{}")

    async with attacked(target):
        statuses = await for_a_while(work, target, 60)
    assert 200 in statuses <= TAKEN_OR_NOT


async def test_large_files_are_overwritten(target: Target) -> None:
    count = iter(range(10**6))
    data = bytes(20 * MB)

    async def work(session: aiohttp.ClientSession) -> int:
        return await post(session, f"{target.url}/userdata/large{next(count) % 4}.bin", data)

    async with attacked(target):
        statuses = await for_a_while(work, target, 8)
    assert 200 in statuses <= TAKEN_OR_NOT


async def test_a_node_saves_thousands_of_pictures(target: Target) -> None:
    graph = graphs.plain(size=8)
    graph["1"]["inputs"]["batch_size"] = 4096
    assert await target.request("POST", "prompt", json={"prompt": graph}) == 200
    async with attacked(target):
        await until_ended(target)
    async with (
        aiohttp.ClientSession(headers=target.bearer()) as session,
        session.get(target.url / "history") as answer,
    ):
        (entry,) = (await answer.json()).values()
    assert len(entry["outputs"]["2"]["images"]) == 4096


async def until_ended(target: Target) -> None:
    """Wait until no job of Eve is in the queue."""
    remaining = 1
    async with asyncio.timeout(120), aiohttp.ClientSession(headers=target.bearer()) as session:
        while remaining:
            async with session.get(target.url / "prompt") as answer:
                remaining = (await answer.json())["exec_info"]["queue_remaining"]
            await asyncio.sleep(0.2)
