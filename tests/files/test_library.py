"""Contents on their way from the cloud, over real HTTP with the faults of a storage."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blake3 import blake3
from files.conftest import OpenFiles
from files.helpers import bytes_of
from msgspec.structs import replace

from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudError, CloudUnreachable
from proxy.cloud.observations import AccountObservations
from proxy.cloud.resilience import RetryPolicy
from proxy.cloud.upstream import Capabilities
from proxy.files import fetch
from proxy.files.blobs import BlobError
from proxy.files.contents import HELD_BACK, Content, ContentBrokenError
from proxy.files.namespace import make_record
from proxy.files.service import Files
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator
from proxy.simulator.assets import SimulatedAsset
from proxy.storage.file_tables import FileRecord
from proxy.translate.assets import of_file
from proxy.translate.errors import LocalError
from proxy.translate.names import Place

BIG = random.Random(1).randbytes(700_000)
SMALL = b"a small picture"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "RETRY_DELAY", 0.001)
    monkeypatch.setattr(fetch, "RETRIES", RetryPolicy(5.0, Backoff(0.01, 0.05)))


@pytest.fixture
async def files(open_files: OpenFiles, client: CloudClient) -> Files:
    return await open_files(client)


def stored(simulator: Simulator, data: bytes, name: str | None = None) -> FileRecord:
    """A content in the cloud's storage, and a record of it."""
    cloud_name = name or f"{blake3(data).hexdigest()}.png"
    simulator.storage.put(cloud_name, data, "image/png")
    simulator.account.library.add(
        SimulatedAsset(
            name="a.png",
            cloud_name=cloud_name,
            digest=blake3(data).hexdigest(),
            size=len(data),
            media_type="image/png",
            tags=("output",),
        )
    )
    return make_record(
        "local",
        Place("output", "a.png"),
        cloud_name=cloud_name,
        cloud_type="output",
        modified=1.0,
    )


def downloads(simulator: Simulator) -> int:
    return len(simulator.storage.requests)


def cached(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / "cache" / "content").iterdir()}


async def collect(content: Content, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in content.read(start, stop)])


async def test_the_second_look_does_not_touch_the_cloud(files: Files, simulator: Simulator) -> None:
    record = stored(simulator, BIG)
    assert await bytes_of(files, record) == BIG
    assert await bytes_of(files, record) == BIG
    assert downloads(simulator) == 1


async def test_a_restart_does_not_touch_the_cloud(
    open_files: OpenFiles, client: CloudClient, simulator: Simulator
) -> None:
    record = stored(simulator, BIG)
    assert await bytes_of(await open_files(client), record) == BIG
    assert await bytes_of(await open_files(client), record) == BIG
    assert downloads(simulator) == 1


@pytest.mark.parametrize("data", [b"", SMALL, BIG])
async def test_many_at_once_share_one_download(
    files: Files, simulator: Simulator, data: bytes
) -> None:
    record = stored(simulator, data)
    assert await asyncio.gather(*(bytes_of(files, record) for _ in range(20))) == [data] * 20
    assert downloads(simulator) == 1


async def test_bytes_flow_before_the_content_is_whole(files: Files, simulator: Simulator) -> None:
    simulator.faults.add(HttpFault("GET storage", drip=0.005, drip_bytes=50_000))
    content = await files.open(stored(simulator, BIG))
    assert content.size == len(BIG)
    assert content.path is None
    reading = content.read()
    first = await anext(reading)
    assert BIG.startswith(first)
    assert content.path is None
    assert first + b"".join([chunk async for chunk in reading]) == BIG
    assert content.path is not None
    assert content.path.name == blake3(BIG).hexdigest()
    assert content.path.read_bytes() == BIG


@pytest.mark.parametrize(("more", "is_whole"), [(0, True), (1, False)])
async def test_what_is_held_back_of_large_contents_is_whole_when_it_is_opened(
    files: Files, simulator: Simulator, more: int, is_whole: bool
) -> None:
    simulator.faults.add(HttpFault("GET storage", drip=0.005, drip_bytes=50_000))
    data = BIG[: HELD_BACK + more]
    content = await files.open(stored(simulator, data))
    assert (content.path is not None) is is_whole
    assert await collect(content) == data


async def test_a_reader_that_keeps_up_gets_what_arrives_from_memory(
    files: Files, simulator: Simulator
) -> None:
    simulator.faults.add(HttpFault("GET storage", drip=0.005, drip_bytes=50_000))
    content = await files.open(stored(simulator, BIG))
    _, *arriving, held_back = [piece async for piece in content.pieces()]
    assert {type(piece) for piece in arriving} == {bytes}
    assert held_back == (len(BIG) - HELD_BACK, len(BIG))


async def test_a_reader_that_leaves_does_not_stop_the_others(
    files: Files, simulator: Simulator
) -> None:
    simulator.faults.add(HttpFault("GET storage", drip=0.002, drip_bytes=50_000))
    record = stored(simulator, BIG)
    leaving = await files.open(record)
    staying = await files.open(record)
    reading = leaving.read()
    await anext(reading)
    await reading.aclose()
    leaving.close()
    assert await collect(staying) == BIG
    assert downloads(simulator) == 1


async def test_a_download_that_all_have_left_is_finished(
    files: Files, simulator: Simulator
) -> None:
    simulator.faults.add(HttpFault("GET storage", drip=0.002, drip_bytes=50_000))
    record = stored(simulator, BIG)
    (await files.open(record)).close()
    assert await bytes_of(files, record) == BIG
    assert downloads(simulator) == 1


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10), (300_000, 300_001), (699_990, None), (5, 700_000), (10, 10)]
)
async def test_parts_of_an_arriving_content(
    files: Files, simulator: Simulator, start: int, stop: int | None
) -> None:
    content = await files.open(stored(simulator, BIG))
    assert await collect(content, start, stop) == BIG[start:stop]
    content = await files.open(stored(simulator, BIG))
    assert await collect(content, start, stop) == BIG[start:stop]


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("ranges", [True, False])
async def test_a_broken_download_is_taken_up_where_it_broke(
    files: Files, simulator: Simulator, ending: str, ranges: bool
) -> None:
    simulator.switches.storage_range = ranges
    fault = HttpFault("GET storage", cut=300_000, ending=ending)  # type: ignore[arg-type]
    simulator.faults.add(fault)
    assert await bytes_of(files, stored(simulator, BIG)) == BIG
    first, second = simulator.storage.requests
    assert "Range" not in first.headers
    assert second.headers["Range"].startswith("bytes=")


async def test_a_wrong_length_is_found_out_by_the_hash(
    files: Files, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.faults.add(HttpFault("GET storage", cut=50_000, ending="clean"))
    assert await bytes_of(files, stored(simulator, BIG)) == BIG
    assert cached(tmp_path) == {BIG}


async def test_small_contents_that_arrive_wrong_are_fetched_again(
    files: Files, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.faults.add(HttpFault("GET storage", corrupt=True))
    assert await bytes_of(files, stored(simulator, SMALL)) == SMALL
    assert cached(tmp_path) == {SMALL}


async def test_a_reader_of_wrong_bytes_gets_no_end(
    files: Files, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.faults.add(HttpFault("GET storage", corrupt=True, drip=0.001, drip_bytes=50_000))
    record = stored(simulator, BIG)
    content = await files.open(record)
    seen = bytearray()

    async def read() -> None:
        async for chunk in content.read():
            seen.extend(chunk)

    with pytest.raises(ContentBrokenError):
        await read()
    assert BIG.startswith(seen)
    assert len(seen) < len(BIG)
    assert await bytes_of(files, record) == BIG
    assert cached(tmp_path) == {BIG}


async def test_contents_that_stay_wrong_are_an_error_and_not_cached(
    files: Files, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.faults.add(HttpFault("GET storage", corrupt=True), times=None)
    with pytest.raises(LocalError, match=r"a.png was not delivered completely") as refusal:
        await files.open(stored(simulator, SMALL))
    assert refusal.value.kind == "bad_answer"
    assert cached(tmp_path) == set()
    simulator.faults.clear()
    assert await bytes_of(files, stored(simulator, SMALL)) == SMALL


async def test_an_expired_signature_is_replaced(files: Files, simulator: Simulator) -> None:
    simulator.faults.add(HttpFault("GET storage", status=403, body="<Code>ExpiredToken</Code>"))
    assert await bytes_of(files, stored(simulator, BIG)) == BIG
    assert simulator.storage.leaks == []


async def test_a_content_that_the_cloud_does_not_have_is_404(
    files: Files, simulator: Simulator
) -> None:
    record = make_record(
        "local", Place("output", "a.png"), cloud_name="none.png", cloud_type="output", modified=1.0
    )
    with pytest.raises(LocalError, match=r"no longer has a.png") as refusal:
        await files.open(record)
    assert refusal.value.kind == "not_found"


@pytest.mark.parametrize(("status", "asked"), [(403, 2), (404, 1), (410, 1)])
async def test_what_is_refused_for_good_is_not_asked_for_again(
    files: Files, simulator: Simulator, status: int, asked: int
) -> None:
    simulator.faults.add(HttpFault("GET storage", status=status), times=None)
    with pytest.raises(LocalError):
        await files.open(stored(simulator, BIG))
    assert downloads(simulator) == asked


async def test_a_storage_that_is_overloaded_for_good_uses_up_one_patience(
    files: Files, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "RETRIES", RetryPolicy(0.5, Backoff(first=0.1, longest=0.1)))
    simulator.faults.add(HttpFault("GET storage", status=503), times=None)
    with pytest.raises(LocalError, match=r"refuses a\.png") as refusal:
        await files.open(stored(simulator, BIG))
    assert refusal.value.kind == "unavailable"
    assert refusal.value.retry_after == 10
    assert 1 < downloads(simulator) <= 11


async def test_a_storage_that_is_overloaded_for_a_moment_is_asked_again(
    files: Files, simulator: Simulator
) -> None:
    simulator.faults.add(HttpFault("GET storage", status=503), times=2)
    assert await bytes_of(files, stored(simulator, BIG)) == BIG
    assert downloads(simulator) == 3


async def test_an_answer_that_came_begins_the_patience_anew(
    open_files: OpenFiles, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneFailure:
        failures = 0

        def __init__(self, _: object) -> None:
            pass

        def failed(self, error: Exception) -> float:
            self.failures += 1
            if self.failures > 1:
                raise error
            return 0.0

    monkeypatch.setattr(fetch, "Attempts", OneFailure)
    cut_off = CloudUnreachable("cut off", sent=True)
    pieces = [BIG[at : at + 200_000] for at in range(0, len(BIG), 200_000)]
    answers = [(len(BIG), [piece, cut_off]) for piece in pieces]
    files = await open_files(Scripted(*(each for some in answers for each in (some, cut_off))))
    assert await bytes_of(files, stored(simulator, BIG)) == BIG


@pytest.mark.parametrize("error", [CloudUnreachable("stalled", sent=True), BlobError("it broke")])
async def test_answers_that_break_off_before_a_byte_are_counted_however_long_they_take(
    open_files: OpenFiles,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    error: CloudError | BlobError,
) -> None:
    monkeypatch.setattr(fetch, "RETRIES", RetryPolicy(0.0, Backoff(0.01, 0.05)))
    nothing = (len(BIG), [error])
    some = (len(BIG), [BIG[:9], error])
    files = await open_files(Scripted(*[nothing] * 3, some, *[nothing] * 3, (len(BIG), [BIG[9:]])))
    assert await bytes_of(files, stored(simulator, BIG)) == BIG
    files = await open_files(Scripted(*[nothing] * 4))
    with pytest.raises(ContentBrokenError):
        await bytes_of(files, stored(simulator, b"another" + BIG))


async def test_opaque_names_are_taken_as_they_are_and_found_again(
    files: Files, open_files: OpenFiles, client: CloudClient, simulator: Simulator
) -> None:
    record = replace(stored(simulator, BIG, "opaque.png"), job="j")
    asset = of_file("local", "id", record.place, 1, content=(None, None), job="j")
    await files.library.files.write(lambda unit: unit.assets.add(asset))
    assert await bytes_of(files, record) == BIG
    assert await bytes_of(files, record) == BIG
    assert await bytes_of(await open_files(client), record) == BIG
    assert downloads(simulator) == 1


async def test_parts_of_contents_with_opaque_names_do_not_wait_for_the_whole(
    files: Files, simulator: Simulator
) -> None:
    simulator.faults.add(HttpFault("GET storage", drip=0.005, drip_bytes=50_000))
    content = await files.open(stored(simulator, BIG, "opaque.png"))
    assert await collect(content, 0, 1000) == BIG[:1000]
    assert content.path is None


async def test_stopping_ends_what_waits(files: Files, simulator: Simulator) -> None:
    simulator.faults.add(HttpFault("GET storage", drip=5.0, drip_bytes=100_000))
    content = await files.open(stored(simulator, BIG))
    reading = asyncio.create_task(collect(content))
    await asyncio.sleep(0)
    await files.close()
    with pytest.raises(ContentBrokenError, match="stopping"):
        await reading


class Scripted:
    """A source whose answers are told: the size, and pieces of bytes, or an error after them; or
    the error of one that cannot be opened."""

    capabilities = Capabilities()
    observations = AccountObservations()

    def __init__(
        self, *answers: tuple[int | None, list[bytes | CloudError | BlobError]] | CloudError
    ) -> None:
        self.answers = list(answers)
        self.base_url = ""

    def download(self, cloud_name: str, type_: str, offset: int = 0) -> Scripted:
        answer = self.answers.pop(0)
        if isinstance(answer, CloudError):
            raise answer
        self.size, self.pieces = answer
        return self

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


@pytest.mark.parametrize(
    "answers",
    [
        [(None, [BIG])],
        [(len(BIG) + 1, [BIG])],
        [(len(BIG), [BIG[:9]]), (len(BIG), [BIG])],
        [(5, [BIG[:5]]), (len(BIG), [BIG])],
        [(len(BIG), [BIG[7:]]), (len(BIG), [BIG])],
        [(9, [BIG]), (len(BIG), [BIG])],
        [(None, [BIG[:9]]), (len(BIG), [BIG])],
    ],
    ids=[
        *("no size", "too long a size", "short", "too short a size", "wrong offset"),
        *("longer than its size", "short without a size"),
    ],
)
async def test_odd_answers_of_a_storage(
    open_files: OpenFiles, simulator: Simulator, answers: list[tuple[int, list[bytes]]]
) -> None:
    files = await open_files(Scripted(*answers))
    record = stored(simulator, BIG)
    content = await files.open(record)
    assert (await content.whole()).read_bytes() == BIG


async def test_a_content_without_a_size_is_read_to_its_end(
    open_files: OpenFiles, simulator: Simulator
) -> None:
    files = await open_files(Scripted((None, [BIG[:400_000], BIG[400_000:]])))
    assert await bytes_of(files, stored(simulator, BIG, "opaque.png")) == BIG


async def test_a_content_of_another_size_than_before_is_read_again_from_its_start(
    open_files: OpenFiles, simulator: Simulator
) -> None:
    cut_off = CloudUnreachable("cut off", sent=True)
    rest, whole = (len(BIG), [BIG[9:]]), (len(BIG), [BIG])
    files = await open_files(Scripted((20, [b"old" * 3, cut_off]), rest, whole))
    content = await files.open(stored(simulator, BIG, "opaque.png"))
    assert (await content.whole()).read_bytes() == BIG


async def test_a_cache_that_cannot_be_written_is_an_error_in_words(
    files: Files, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "cache" / "partial").rmdir()
    with pytest.raises(LocalError, match="cannot write to its cache") as refusal:
        await files.open(stored(simulator, BIG))
    assert refusal.value.kind == "unavailable"
