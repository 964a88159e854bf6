"""What clients read of ended jobs."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from itertools import pairwise
from typing import Any

import pytest
from jobs.samples import MEMBER, Room, new
from sqlalchemy import Connection, insert

from proxy.jobs.history import HistoryCache
from proxy.storage.job_tables import history
from proxy.storage.payloads import job_payloads


@pytest.mark.parametrize(
    ("max_items", "offset", "expected"),
    [
        (None, None, "abcd"),
        (2, None, "cd"),
        (1, None, "d"),
        (0, None, ""),
        (10, None, "abcd"),
        (-1, None, ""),
        (2, 0, "ab"),
        (2, 1, "bc"),
        (0, 0, "a"),
        (None, 2, "cd"),
        (None, 9, ""),
        (None, -1, "abcd"),
        (1, -2, "d"),
    ],
)
async def test_history_is_cut_as_comfyui_cuts_it(
    full: Room, max_items: int | None, offset: int | None, expected: str
) -> None:
    assert "".join(json.loads(await full.history(max_items, offset))) == expected


async def test_an_unknown_or_running_job_has_no_history(room: Room) -> None:
    room.put(new("a"))
    assert await room.entry("a") == await room.entry("b") == b"{}"


async def test_an_id_used_again_keeps_its_place(full: Room) -> None:
    before = await full.entry("b")
    await full.end("b", 9000, **{"1": {"images": []}})
    assert "".join(json.loads(await full.history())) == "abcd"
    assert await full.entry("b") != before


async def test_a_long_history_comes_in_pieces_and_is_not_kept(room: Room) -> None:
    text = "x" * 20_000
    for number in range(150):
        await room.end(f"job-{number:03}", **{"1": {"text": [text]}})
    body = await room.service.history.json(MEMBER, max_items=None, offset=None)
    assert not isinstance(body, bytes)
    pieces = [piece async for piece in body]
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 2_000_000
    assert list(json.loads(b"".join(pieces))) == [f"job-{number:03}" for number in range(150)]
    again = await room.service.history.json(MEMBER, max_items=None, offset=None)
    assert not isinstance(again, bytes)


async def test_a_history_of_ten_thousand_holds_nobody_up(room: Room) -> None:
    graph, numbers = b'{"1": {"text": "%s"}}' % (b"x" * 2000), range(1, 10_001)
    entry = {
        "member": MEMBER,
        "state": "succeeded",
        "number": 0,
        "cloud_id": "",
        "outputs_to_execute": (),
        "label": "",
        **dict.fromkeys(("created_at", "started_at", "ended_at"), 1),
        **dict.fromkeys(("summary", "result", "details", "node_times"), b"{}"),
    }

    def fill(connection: Connection) -> None:
        rows = [
            {
                **entry,
                "order": number,
                "prompt_id": f"job-{number}",
                "sequence": number,
            }
            for number in numbers
        ]
        connection.execute(insert(history), rows)
        payloads = [{"order": number, "graph": graph, "extra_data": b"{}"} for number in numbers]
        connection.execute(insert(job_payloads), payloads)

    await room.repository.database.write(fill, long=True)
    turns, done = [time.thread_time()], asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            await asyncio.sleep(0)
            turns.append(time.thread_time())

    gc.freeze()  # what other tests have left is not searched now
    try:
        watching = asyncio.create_task(watch())
        body = await room.service.history.json(MEMBER, max_items=None, offset=None)
        assert not isinstance(body, bytes)
        sizes = [len(piece) async for piece in body]
        done.set()
        await watching
    finally:
        gc.unfreeze()
    assert sum(sizes) > 10_000 * len(graph)
    assert max(sizes) < 200_000
    assert max(after - before for before, after in pairwise(turns)) < 0.05


async def test_a_history_that_changes_while_it_is_read_is_not_kept(
    full: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = full.service._repository.history.entry

    async def read_slowly(member: str, prompt_id: str) -> Any:
        entry = await read(member, prompt_id)
        monkeypatch.undo()
        await full.end(prompt_id, 9000, **{"1": {"images": []}})
        return entry

    monkeypatch.setattr(full.service._repository.history, "entry", read_slowly)
    before = await full.entry("a")
    assert await full.entry("a") != before


async def test_who_has_seen_an_entry_finds_it_in_the_list_before_it_is_told_of(
    room: Room,
) -> None:
    assert await room.history() == b"{}"
    await room.end("a", tell=False)
    assert "a" in json.loads(await room.entry("a"))
    assert "a" in json.loads(await room.history())
    await room.end("b", tell=False)
    assert await room.service.job(MEMBER, "b") is not None
    assert "b" in json.loads(await room.history())


@pytest.fixture
def cache() -> HistoryCache:
    cache = HistoryCache()
    for key in (
        ("ann", "a"),
        ("ann", "b"),
        ("ann", cache.version("ann"), 2, 0),
        ("bob", "a"),
    ):
        cache.put(key, b"{}", cache.version(key[0]))
    return cache


@pytest.mark.parametrize(
    ("changed", "kept"), [(("a",), ["b"]), ((), ["a", "b"]), (("c",), ["a", "b"]), (None, [])]
)
def test_a_change_drops_the_lists_and_the_changed_entries_of_the_member(
    cache: HistoryCache, changed: tuple[str, ...] | None, kept: list[str]
) -> None:
    cache.forget("ann", changed)
    assert [id_ for id_ in "ab" if cache.get(("ann", id_)) is not None] == kept
    assert cache.get(("ann", cache.version("ann"), 2, 0)) is None
    assert cache.get(("bob", "a")) is not None


def test_a_body_that_was_read_before_a_change_is_not_kept(cache: HistoryCache) -> None:
    version = cache.version("bob")
    cache.forget("bob", ["a"])
    cache.put(("bob", "a"), b"old", version)
    assert cache.get(("bob", "a")) is None


def test_the_least_recently_used_bodies_go_first() -> None:
    cache = HistoryCache()
    large = b"x" * 1024 * 1024
    for number in range(16):
        cache.put(("ann", str(number)), large, cache.version("ann"))
        cache.get(("ann", "0"))
    here = [number for number in range(16) if cache.get(("ann", str(number))) is not None]
    assert here == [0, *range(2, 16)]
    cache.forget("ann", None)
    assert all(cache.get(("ann", str(number))) is None for number in range(16))
