"""Members who ask for large answers and do not read them, or keep much to be answered."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import graphs
from security.attack import MEMBER, Target
from security.conftest import Start

MB = 1024 * 1024


@asynccontextmanager
async def unread(target: Target, path: str) -> AsyncIterator[int]:
    """A request whose answer is read no further than its status."""
    head = (
        f"GET {path} HTTP/1.1\r\nHost: {target.url.authority}\r\n"
        f"Authorization: {target.bearer()['Authorization']}\r\n\r\n"
    )
    reader, writer = await target.connect(head.encode(), limit=1024)
    try:
        async with asyncio.timeout(30):
            status = int((await reader.readline()).split()[1])
        yield status
    finally:
        writer.transport.abort()


async def ask(target: Target, path: str, times: int) -> list[int]:
    """The statuses of requests whose answers nobody reads."""
    async with AsyncExitStack() as asked:
        statuses = await asyncio.gather(
            *(asked.enter_async_context(unread(target, path)) for _ in range(times))
        )
        await asyncio.sleep(0.5)  # time to write more, if that were done
    return list(statuses)


async def submit(target: Target, title: str, count: int) -> None:
    """Run jobs whose entries in the history are as large as their title."""
    for number in range(count):
        graph = graphs.plain(number)
        for node in graph.values():
            node["_meta"] = {"title": title}
            break
        body = json.dumps({"prompt": graph}).encode()
        assert await target.request("POST", "prompt", data=io.BytesIO(body)) == 200
    async with asyncio.timeout(60):
        while (await page(target))["pagination"]["total"] < count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def page(target: Target) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(headers=target.bearer()) as session,
        session.get(target.url / "api/jobs", params={"status": "completed"}) as answer,
    ):
        found: dict[str, Any] = await answer.json()
        return found


async def test_unread_copies_of_a_file_are_one(target: Target) -> None:
    body = bytes(40 * MB)
    assert await target.request("POST", "userdata/big", data=io.BytesIO(body)) == 200
    async with target.attacked_by(MEMBER):
        statuses = await ask(target, "/userdata/big", 20)
    assert statuses == [200] * 20


async def test_unread_histories_hold_a_part_of_them(start: Start) -> None:
    async with start("--memory-mb", "64") as target:
        await submit(target, "x" * 5 * MB, 4)
        for path in ("/history", "/api/history_v2"):
            async with target.attacked_by(MEMBER) as figures:
                statuses = await ask(target, path, 12)
            assert set(statuses) <= {200, 429}
            assert 200 in statuses
            assert figures.growth < 200


async def test_settings_have_a_bound(target: Target) -> None:
    large = json.dumps({"a": "x" * 3 * MB}).encode()
    assert await target.request("POST", "settings", data=io.BytesIO(large)) == 413
    fitting = json.dumps({"a": "x" * 2_000_000}).encode()
    assert await target.request("POST", "settings", data=io.BytesIO(fitting)) == 200
    async with target.attacked_by(MEMBER):
        statuses = await asyncio.gather(
            *(target.request("POST", f"settings/{n}", data=b"1") for n in range(40))
        )
    assert statuses == [200] * 40


async def test_a_settings_file_that_is_too_large_is_not_read(target: Target) -> None:
    file = "userdata/comfy.settings.json"
    assert await target.request("POST", file, data=io.BytesIO(bytes(20 * MB))) == 200
    async with target.attacked_by(MEMBER):
        assert await target.request("GET", "settings") == 413
        assert await target.request("POST", "settings/a", data=b"1") == 413
    assert await target.request("DELETE", file) == 204
    assert await target.request("POST", "settings/a", data=b"1") == 200


async def test_exports_that_wait_have_a_bound(target: Target) -> None:
    ids = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(400)]
    wanted = [
        {"asset_ids": ids, "job_asset_name_filters": {ids[n]: ["x" * 4000] * 400}}
        for n in range(40)
    ]
    async with target.attacked_by(MEMBER):
        statuses = await asyncio.gather(
            *(
                target.request(
                    "POST", "api/assets/export", data=io.BytesIO(json.dumps(body).encode())
                )
                for body in wanted
            )
        )
    assert set(statuses) <= {202, 429}
    assert 202 in statuses
