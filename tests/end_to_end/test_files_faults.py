"""Whatever the storage does, a client gets the right bytes or knows that it has not got them."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from blake3 import blake3
from PIL import Image
from stack import Client, Proxy, running_proxy

from proxy import app
from proxy.api.keys import FILES
from proxy.cloud.resilience import RetryPolicy
from proxy.files import fetch
from proxy.files.picture_parts import Slice
from proxy.files.workflow_names import edits, renaming, texts
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator

#: A cloud that is asked again soon.
TIMEOUTS = app.Timeouts(retries=RetryPolicy(budget=0.2, backoff=Backoff(first=0.01, longest=0.05)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "RETRY_DELAY", 0.001)
    monkeypatch.setattr(fetch, "RETRIES", RetryPolicy(1.0, Backoff(0.01, 0.05)))


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(simulator, tmp_path, prefetch="off", timeouts=TIMEOUTS) as running:
        yield running


@dataclass
class Stored:
    """A picture that only the cloud has yet: its item, its bytes there and as they are shown, with
    the client's names in its workflow, and the folder of the cache."""

    item: dict[str, str]
    data: bytes
    shown: bytes
    cache: Path

    def cached(self) -> list[bytes]:
        return [path.read_bytes() for path in self.cache.glob("content/*")]


@cache
def noise(edge: int) -> bytes:
    """A picture that cannot be compressed."""
    target = io.BytesIO()
    pixels = random.Random(edge).randbytes(3 * edge * edge)
    Image.frombytes("RGB", (edge, edge), pixels).save(target, "PNG", compress_level=1)
    return target.getvalue()


@pytest.fixture(params=[500, 30], ids=["big", "small"])
async def stored(
    request: Any, client: Client, simulator: Simulator, proxy: Proxy, tmp_path: Path
) -> Stored:
    await client.upload("noise.png", noise(request.param))
    entry = await client.run(graphs.inverted("noise.png"))
    item = entry["outputs"]["4"]["images"][0]
    record = await proxy.services[FILES].find("local", "output", "", item["filename"])
    assert record is not None
    data = simulator.storage.get(record.cloud_name)
    upload = await proxy.services[FILES].find("local", "input", "", "noise.png")
    assert upload is not None
    found = texts(lambda at, count: data[at : at + count], len(data), whole=True)
    made = edits(found or [], renaming({upload.cloud_name: "noise.png"}))
    pieces = made.pieces(0, len(data) + made.added)
    shown = [
        data[piece.start : piece.stop] if isinstance(piece, Slice) else piece for piece in pieces
    ]
    return Stored(item, data, b"".join(shown), tmp_path / "files")


async def asked(client: Client, stored: Stored) -> bytes | int | None:
    """What a client gets: whole bytes, the status of an error, or a connection that was cut."""
    url = (client.url / "view").with_query(stored.item)
    try:
        async with client.session.get(url) as answer:
            body = await answer.read()
            return body if answer.status == 200 else answer.status
    except aiohttp.ClientError:
        return None


PASSING = {
    "an expired signature": HttpFault("GET storage", status=403, body="<Error/>"),
    "a bad request": HttpFault("GET storage", status=400, body="<Error/>"),
    "an overload": HttpFault("GET storage", status=503),
    "no answer": HttpFault("GET storage", reset=True),
    "a short body": HttpFault("GET storage", cut=1000, ending="close"),
    "a short body of a wrong length": HttpFault("GET storage", cut=1000, ending="clean"),
    "an empty body": HttpFault("GET storage", cut=0, ending="clean"),
    "a reset in the middle": HttpFault("GET storage", cut=100_000, ending="reset"),
    "a slow drip": HttpFault("GET storage", drip=0.001, drip_bytes=40_000),
    "a drip that is cut": HttpFault("GET storage", drip=0.001, drip_bytes=300, cut=900),
    "an overload of the API": HttpFault("GET /api/view", status=503),
    "no answer of the API": HttpFault("GET /api/view", reset=True),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
async def test_a_fault_that_passes_is_not_noticed(
    simulator: Simulator, client: Client, stored: Stored, fault: HttpFault
) -> None:
    simulator.faults.add(fault)
    assert await asked(client, stored) == stored.shown
    assert stored.data in stored.cached()


WRONG = {
    "a wrong byte": HttpFault("GET storage", corrupt=True),
    "another file": HttpFault("GET storage", status=200, body="not it" * 20_000),
    "a page": HttpFault("GET storage", status=200, body="<html>"),
}


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
async def test_wrong_bytes_are_never_taken_for_the_file(
    simulator: Simulator, client: Client, stored: Stored, fault: HttpFault, times: int | None
) -> None:
    simulator.faults.add(fault, times=times)
    first = await asked(client, stored)
    assert first in ((None, 502) if times is None else (None, stored.shown))
    hashes = {path.name for path in stored.cache.glob("content/*")}
    assert {blake3(data).hexdigest() for data in stored.cached()} == hashes
    simulator.faults.clear()
    assert await asked(client, stored) == stored.shown


LASTING = {
    "403": (HttpFault("GET storage", status=403), 502),
    "404": (HttpFault("GET storage", status=404), 404),
    "503": (HttpFault("GET storage", status=503), 503),
    "resets": (HttpFault("GET storage", reset=True), 503),
    "an empty body": (HttpFault("GET storage", cut=0, ending="clean"), 502),
    "the API down": (HttpFault("GET /api/view", reset=True), 503),
    "the API forbids": (HttpFault("GET /api/view", status=403), 502),
    "the API has it no more": (HttpFault("GET /api/view", status=404), 404),
}


@pytest.mark.parametrize(("fault", "status"), LASTING.values(), ids=LASTING.keys())
async def test_a_fault_that_lasts_is_a_clean_error(
    simulator: Simulator, client: Client, stored: Stored, fault: HttpFault, status: int
) -> None:
    simulator.faults.add(fault, times=None)
    before = stored.cached()
    assert await asked(client, stored) == status
    assert stored.cached() == before


@pytest.mark.parametrize("stored", [500], indirect=True)
async def test_a_download_that_breaks_for_good_cuts_the_connection(
    simulator: Simulator, client: Client, stored: Stored
) -> None:
    simulator.faults.add(HttpFault("GET storage", cut=200_000, ending="reset"))
    simulator.faults.add(HttpFault("GET storage", reset=True), times=None)
    assert await asked(client, stored) in (None, 503)
    simulator.faults.clear()
    assert await asked(client, stored) == stored.shown


async def test_signatures_that_have_always_run_out_are_a_clean_error(
    simulator: Simulator, client: Client, stored: Stored
) -> None:
    simulator.switches.signed_url_life = 0
    assert await asked(client, stored) == 502
    simulator.switches.signed_url_life = 60
    assert await asked(client, stored) == stored.shown


@pytest.mark.parametrize("stored", [500], indirect=True)
async def test_a_signature_that_runs_out_in_mid_download_is_replaced(
    simulator: Simulator, client: Client, stored: Stored
) -> None:
    simulator.faults.add(HttpFault("GET storage", cut=300_000, ending="reset"))
    simulator.faults.add(HttpFault("GET storage", status=403))
    assert await asked(client, stored) == stored.shown
    assert simulator.calls["GET /api/view"] >= 3


@pytest.mark.parametrize("stored", [500], indirect=True)
async def test_a_storage_without_ranges_is_read_from_the_start(
    simulator: Simulator, client: Client, stored: Stored
) -> None:
    simulator.switches.storage_range = False
    simulator.faults.add(HttpFault("GET storage", cut=300_000, ending="reset"))
    assert await asked(client, stored) == stored.shown


@pytest.mark.parametrize("stored", [500], indirect=True)
async def test_many_faults_at_random(
    simulator: Simulator, client: Client, stored: Stored, tmp_path: Path
) -> None:
    kinds = [*PASSING.values(), *WRONG.values()]
    for seed in range(25):
        chance = random.Random(seed)
        simulator.faults.clear()
        for _ in range(chance.randrange(1, 6)):
            simulator.faults.add(chance.choice(kinds))
        found = await asked(client, stored)
        assert found in (stored.shown, None) or (isinstance(found, int) and found >= 500), seed
        for path in stored.cache.glob("content/*"):
            assert blake3(path.read_bytes()).hexdigest() == path.name
            if path.stat().st_size == len(stored.data):
                path.unlink()


@pytest.mark.parametrize("stored", [500], indirect=True)
async def test_a_conversion_of_a_file_that_cannot_be_had_is_a_clean_error(
    simulator: Simulator, client: Client, stored: Stored
) -> None:
    simulator.faults.add(HttpFault("GET storage", corrupt=True), times=None)
    status, body = await client.get("view", **stored.item, preview="webp;75")
    assert (status, body["error"]["type"]) == (502, "content_damaged")
    simulator.faults.clear()
    assert (await client.view(stored.item, preview="webp;75")).startswith(b"RIFF")


@pytest.mark.parametrize("stored", [500], indirect=True)
async def test_many_clients_share_one_download_as_it_grows_and_one_may_leave(
    simulator: Simulator, client: Client, stored: Stored
) -> None:
    simulator.faults.add(HttpFault("GET storage", drip=0.1, drip_bytes=40_000))
    url = (client.url / "view").with_query(stored.item)
    flowing = [asyncio.Event() for _ in range(12)]

    async def follow(began: asyncio.Event) -> bytes:
        async with client.session.get(url) as answer:
            first = await answer.content.readany()
            assert stored.data not in stored.cached()
            began.set()
            return first + await answer.read()

    followers = [asyncio.create_task(follow(began)) for began in flowing]
    async with client.session.get(url) as leaving:
        await leaving.content.readany()
        leaving.close()
    for began in flowing:
        await began.wait()
    assert await asyncio.gather(*followers) == [stored.shown] * 12
    assert len(simulator.storage.requests) == 1
    assert await asked(client, stored) == stored.shown
    assert len(simulator.storage.requests) == 1
