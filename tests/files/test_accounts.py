"""Files of several accounts: each stays where it was made or sent, and goes where it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from blake3 import blake3
from files.conftest import OpenFiles
from files.helpers import (
    BLUE,
    RED,
    MemoryCloud,
    bytes_of,
    loaded,
    output_of,
    png,
    record_of,
    upload,
)

from proxy.cloud.errors import CloudRefused, CloudUnauthorized, CloudUnreachable
from proxy.files.fetch import Fetch
from proxy.files.service import Files
from proxy.translate.errors import LocalError


class Named(MemoryCloud):
    """An account that gives names of its own: `NAME-1.png`, `NAME-2.png`…"""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def add(self, data: bytes, extension: str = ".png") -> str:
        for name, known in self.contents.items():
            if known == data:
                return name
        name = f"{self.name}-{len(self.contents) + 1}{extension}"
        self.contents[name] = data
        return name


@pytest.fixture(params=["hashes", "own names"])
def clouds(request: Any) -> dict[str, MemoryCloud]:
    if request.param == "hashes":
        return {"one": MemoryCloud(), "two": MemoryCloud()}
    return {"one": Named("one"), "two": Named("two")}


@pytest.fixture
async def files(open_files: OpenFiles, clouds: dict[str, MemoryCloud]) -> Files:
    return await open_files(clouds)


async def test_an_upload_goes_to_one_account_and_to_another_when_a_job_needs_it(
    files: Files, clouds: dict[str, MemoryCloud]
) -> None:
    one, two = clouds.values()
    await upload(files, RED)
    assert (one.sent, two.sent, (await record_of(files)).account) == (["cat.png"], [], "one")
    assert await loaded(files, "cat.png", "one") in one.contents
    assert two.sent == []
    for _ in range(2):
        name = await loaded(files, "cat.png", "two")
        assert two.contents[name.removesuffix(" [input]")] == RED
    assert (one.sent, two.sent) == (["cat.png"], ["cat.png"])
    assert one.fetched == two.fetched == []


async def test_what_was_sent_where_outlives_a_restart(
    open_files: OpenFiles, clouds: dict[str, MemoryCloud]
) -> None:
    files = await open_files(clouds)
    await upload(files, RED)
    name = await loaded(files, "cat.png", "two")
    files = await open_files(clouds)
    assert await loaded(files, "cat.png", "two") == name
    assert clouds["two"].sent == ["cat.png"]
    assert await files.reveal("local", f"cannot read {name}") == "cannot read cat.png"


async def test_an_upload_passes_over_an_account_that_cannot_be_used(
    files: Files, clouds: dict[str, MemoryCloud]
) -> None:
    for error in (CloudUnreachable("x"), CloudUnauthorized("x", 401), CloudRefused("x", 503)):
        clouds["one"].refuse = error
        data = png(colour=(error.__class__.__name__.__len__(), 1, 1))
        name = await upload(files, data, f"{type(error).__name__}.png")
        assert (await record_of(files, name)).account == "two"


async def test_what_no_account_takes_is_refused_in_the_words_of_the_first(
    files: Files, clouds: dict[str, MemoryCloud]
) -> None:
    clouds["one"].refuse = CloudUnauthorized("x", 401)
    clouds["two"].refuse = CloudUnreachable("x")
    with pytest.raises(LocalError, match="API key") as refusal:
        await upload(files, RED)
    assert refusal.value.kind == "unavailable"


async def test_bytes_that_one_account_refuses_are_not_offered_to_the_next(
    files: Files, clouds: dict[str, MemoryCloud]
) -> None:
    clouds["one"].refuse = CloudRefused("x", 400, {"message": "not a picture"})
    with pytest.raises(LocalError, match="not a picture"):
        await upload(files, RED)
    assert clouds["two"].sent == []


async def test_an_error_that_is_kept_keeps_no_content_in_the_cache(
    open_files: OpenFiles, clouds: dict[str, MemoryCloud]
) -> None:
    files = await open_files(clouds, cache_bytes=0)
    await upload(files, RED)
    clouds["two"].refuse = CloudUnreachable("x")
    with pytest.raises(LocalError) as kept:
        await loaded(files, "cat.png", "two")
    assert blake3(RED).hexdigest() not in files.cache
    assert kept.value.is_passing


async def test_an_upload_to_another_account_takes_no_content_from_who_waits_for_it_too(
    open_files: OpenFiles, clouds: dict[str, MemoryCloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, waiting, both_wait = Fetch.wait, [], asyncio.Event()

    async def counted(fetch: Fetch, *enough: float) -> None:
        waiting.append(fetch)
        if len(waiting) == 2:
            both_wait.set()
        await wait(fetch, *enough)

    @asynccontextmanager
    async def held_back(*args: Any) -> AsyncIterator[Any]:
        await both_wait.wait()
        async with MemoryCloud.download(clouds["one"], *args) as download:
            yield download

    monkeypatch.setattr(Fetch, "wait", counted)
    monkeypatch.setattr(clouds["one"], "download", held_back)
    files = await open_files(clouds, cache_bytes=0)
    await upload(files, RED)
    whole = files.library.whole(await record_of(files))
    async with asyncio.timeout(60):
        lease, _ = await asyncio.gather(whole, loaded(files, "cat.png", "two"))
    assert waiting[0] is waiting[1]
    assert lease.path.read_bytes() == RED


async def test_a_member_uploads_to_the_accounts_that_are_theirs(
    open_files: OpenFiles, clouds: dict[str, MemoryCloud]
) -> None:
    theirs = {"local": ("two", "one"), "bob": ("one",), "cid": ()}
    files = await open_files(clouds, preferred=theirs.__getitem__)
    await upload(files, RED)
    assert (clouds["one"].sent, clouds["two"].sent) == ([], ["cat.png"])
    await upload(files, RED, member="bob")
    assert clouds["one"].sent == ["cat.png"]
    with pytest.raises(LocalError, match="you cannot use any") as refusal:
        await upload(files, RED, member="cid")
    assert refusal.value.kind == "forbidden"


async def test_an_output_is_fetched_from_the_account_that_made_it(
    files: Files, clouds: dict[str, MemoryCloud]
) -> None:
    record = await output_of(files, clouds["two"].add(BLUE), "two")
    assert record.account == "two"
    assert await bytes_of(files, record) == BLUE
    assert (len(clouds["one"].fetched), len(clouds["two"].fetched)) == (0, 1)


async def test_one_name_on_two_accounts_is_two_contents(open_files: OpenFiles) -> None:
    clouds = {name: MemoryCloud() for name in ("one", "two")}
    files = await open_files(clouds)
    for cloud, data in zip(clouds.values(), (RED, BLUE), strict=True):
        cloud.contents["opaque.png"] = data
    records = [
        await output_of(files, "opaque.png", account, display_name=f"{account}.png")
        for account in clouds
    ]
    assert [await bytes_of(files, record) for record in records] == [RED, BLUE]
    files = await open_files(clouds)
    assert [await bytes_of(files, record) for record in records] == [RED, BLUE]
    assert [cloud.fetched for cloud in clouds.values()] == [["opaque.png"]] * 2


async def test_an_output_of_one_account_is_an_input_on_the_other(
    files: Files, clouds: dict[str, MemoryCloud]
) -> None:
    one, two = clouds.values()
    record = await output_of(files, one.add(RED), "one")
    value = f"{record.filename} [output]"
    assert await loaded(files, value, "one") == f"{record.cloud_name} [output]"
    assert one.fetched == two.sent == []
    name = await loaded(files, value, "two")
    assert two.contents[name.removesuffix(" [input]")] == RED
    assert await loaded(files, value, "two") == name
    assert (len(one.fetched), two.sent) == (1, [record.filename])
    assert await files.reveal("local", {"x": name.removesuffix(" [input]")}) == {
        "x": record.filename
    }


async def test_an_output_that_cannot_be_fetched_stops_the_job_in_words(
    files: Files, clouds: dict[str, MemoryCloud]
) -> None:
    record = await output_of(files, clouds["one"].add(RED), "one")
    clouds["one"].contents.clear()
    with pytest.raises(LocalError, match=record.filename) as refusal:
        await loaded(files, f"{record.filename} [output]", "two")
    assert refusal.value.kind == "dependency_failed"
    assert clouds["two"].sent == []


async def test_an_account_that_takes_no_file_is_to_blame_itself(
    files: Files, clouds: dict[str, MemoryCloud]
) -> None:
    await upload(files, RED)
    clouds["two"].refuse = CloudUnreachable("x")
    with pytest.raises(LocalError) as refusal:
        await loaded(files, "cat.png", "two")
    assert refusal.value.kind == "unavailable"


async def test_an_upload_that_its_account_hands_out_no_more_comes_from_the_other(
    open_files: OpenFiles, clouds: dict[str, MemoryCloud]
) -> None:
    files = await open_files(clouds, cache_bytes=0)
    await upload(files, RED)
    await loaded(files, "cat.png", "two")
    clouds["one"].contents.clear()
    assert await bytes_of(files, await record_of(files)) == RED


async def test_files_of_an_account_that_got_another_name_are_looked_for_everywhere(
    open_files: OpenFiles, clouds: dict[str, MemoryCloud]
) -> None:
    one, two = clouds.values()
    files = await open_files(one)
    await upload(files, RED)
    record = await output_of(files, one.add(BLUE), "default")
    files = await open_files({"renamed": two, "moved": one}, cache_bytes=0)
    assert await bytes_of(files, record) == BLUE
    assert await bytes_of(files, await record_of(files)) == RED
    name = await loaded(files, "cat.png", "renamed")
    assert two.contents[name.removesuffix(" [input]")] == RED
