"""Where the catalog comes from, and how it is kept."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from skewed_clock import SkewedClock
from yarl import URL

from proxy.catalog import source as source_module
from proxy.catalog.service import Catalog
from proxy.catalog.source import Accounts, CachedResource
from proxy.cloud.errors import CloudUnauthorized, CloudUnreachable
from proxy.runtime import clock
from proxy.translate.errors import LocalError

URL_OF_CLOUD = URL("http://cloud")


class Account:
    """An account that gives a catalog or fails."""

    base_url = URL_OF_CLOUD

    def __init__(self, name: str, failure: Exception | None = None) -> None:
        self.name = name
        self.failure = failure
        self.calls = 0

    def _called(self) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure

    async def object_info(self) -> bytes:
        self._called()
        return b'{"%s": {"input": {}}}' % self.name.encode()

    async def model_folders(self) -> list[dict[str, Any]]:
        self._called()
        return [{"name": "loras", "folders": [self.name]}]

    async def models(self, folder: str) -> list[dict[str, Any]] | None:
        self._called()
        return None


async def test_the_first_account_is_asked_and_no_other() -> None:
    accounts = [Account("a"), Account("b")]
    source = Accounts(URL_OF_CLOUD, lambda: accounts, {})
    assert (await source.ask(lambda cloud: cloud.model_folders()))[0]["folders"] == ["a"]
    assert accounts[1].calls == 0


@pytest.mark.parametrize("failure", [CloudUnauthorized("x", 401), CloudUnreachable("x")])
async def test_one_that_fails_is_passed_over(failure: Exception) -> None:
    accounts = {name: Account(name, failure if name == "a" else None) for name in "ab"}
    source = Accounts(URL_OF_CLOUD, lambda: [*accounts.values()], accounts)
    classes = await source.ask_each(accounts, lambda cloud: cloud.object_info())
    assert classes == {"b": b'{"b": {"input": {}}}'}
    assert (await source.ask(lambda cloud: cloud.model_folders()))[0]["folders"] == ["b"]


async def test_no_models_is_an_answer() -> None:
    accounts = [Account("a"), Account("b")]
    source = Accounts(URL_OF_CLOUD, lambda: accounts, {})
    assert await source.ask(lambda cloud: cloud.models("x")) is None
    assert accounts[1].calls == 0


@pytest.mark.parametrize("failures", [[], [CloudUnauthorized("first", 401), CloudUnreachable("x")]])
async def test_without_one_that_answers_it_is_503(
    tmp_path: Path, failures: list[Exception]
) -> None:
    accounts = {str(number): Account("a", failure) for number, failure in enumerate(failures)}
    source = Accounts(URL_OF_CLOUD, lambda: [*accounts.values()], accounts)
    catalog = Catalog(source, tmp_path, max_age=60)
    with pytest.raises(LocalError) as refusal:
        await catalog.classes("local")
    assert refusal.value.kind == "unavailable"
    assert refusal.value.details == ("first" if failures else "there is no account to ask")


class Source:
    """Gives one answer after the other; an error is raised, and while `open` is clear it waits."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.calls = 0
        self.asked: asyncio.Queue[int] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self) -> bytes:
        self.calls += 1
        self.asked.put_nowait(self.calls)
        await self.open.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def read(body: bytes) -> str:
    if body == b"junk":
        raise ValueError("junk")
    return body.decode()


Make = Callable[..., CachedResource[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "list.json"


@pytest.fixture
def make(path: Path) -> Make:
    return lambda source, max_age=60.0: CachedResource("list", path, source, read, max_age=max_age)


async def settle(document: CachedResource[str]) -> None:
    """Wait for the refresh behind the scenes."""
    assert document._refreshing is not None
    await document._refreshing


def let_pass(document: CachedResource[str], seconds: float) -> None:
    assert document._fetched_at is not None
    document._fetched_at -= seconds


def age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def test_it_is_fetched_once(make: Make) -> None:
    source = Source(b"new")
    document = make(source)
    assert [await document.get(), await document.get()] == ["new", "new"]
    assert source.calls == 1


async def test_callers_that_wait_together_cause_one_call(make: Make) -> None:
    source = Source(b"new")
    document = make(source)
    assert await asyncio.gather(*(document.get() for _ in range(10))) == ["new"] * 10
    assert source.calls == 1


async def test_a_caller_that_leaves_does_not_break_it_for_the_others(make: Make) -> None:
    source = Source(b"new")
    source.open.clear()
    document = make(source)
    leaving, staying = (asyncio.create_task(document.get()) for _ in range(2))
    await source.asked.get()
    leaving.cancel()
    source.open.set()
    assert await staying == "new"


async def test_the_copy_on_disk_spares_the_call(make: Make, path: Path) -> None:
    await make(Source(b"new")).get()
    source = Source(b"newer")
    assert (await make(source).get(), source.calls) == ("new", 0)


async def test_an_old_copy_is_served_while_it_is_fetched_anew(make: Make, path: Path) -> None:
    await make(Source(b"old")).get()
    os.utime(path, (0, 0))
    document = make(Source(b"new"))
    assert await document.get() == "old"
    await settle(document)
    assert (document.value, age(path) < 60) == ("new", True)


@pytest.mark.parametrize("jump", [-1e9, 1e9])
async def test_a_clock_that_jumps_makes_nothing_older_or_younger(
    make: Make, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    source = Source(b"first", b"second")
    document = make(source)
    await document.get()
    monkeypatch.setattr(clock, "source", SkewedClock(jump))
    assert await document.get() == "first"
    assert source.calls == 1
    let_pass(document, 61.0)
    await document.get()
    await settle(document)
    assert document.value == "second"


async def test_a_copy_from_the_future_is_a_new_one(make: Make, path: Path) -> None:
    await make(Source(b"old")).get()
    os.utime(path, (time.time() + 1e9,) * 2)
    source = Source(b"new")
    document = make(source)
    assert (await document.get(), source.calls) == ("old", 0)
    let_pass(document, 61.0)
    await document.get()
    await settle(document)
    assert document.value == "new"


async def test_an_old_value_is_refreshed_and_kept_when_that_fails(make: Make) -> None:
    source = Source(b"old", CloudUnreachable("down"))
    document = make(source, max_age=0.0)
    assert [await document.get() for _ in range(3)] == ["old"] * 3
    await settle(document)
    assert [await document.get() for _ in range(3)] == ["old"] * 3
    assert source.calls == 2


@pytest.mark.parametrize("failure", [CloudUnreachable("the cloud is down"), b"junk"])
async def test_without_any_copy_it_is_503_in_words(make: Make, failure: bytes | Exception) -> None:
    with pytest.raises(LocalError) as caught:
        await make(Source(failure)).get()
    assert (caught.value.kind, caught.value.type) == ("unavailable", "catalog_unavailable")
    assert caught.value.retry_after == 10


async def test_a_cloud_that_failed_is_not_asked_again_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(CloudUnreachable("down"), b"new")
    document = make(source)
    for _ in range(3):
        with pytest.raises(LocalError):
            await document.get()
    assert source.calls == 1
    monkeypatch.setattr(source_module, "PAUSE", 0.0)
    assert await document.get() == "new"


async def test_what_was_never_fetched_is_fetched_after_a_failure(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "PAUSE", 0.1)
    document = make(Source(CloudUnreachable("down"), b"new"))
    with pytest.raises(LocalError):
        await document.get()
    assert await document.fetched(timeout=60.0)
    assert document.value == "new"


async def test_a_copy_on_disk_was_fetched(make: Make, path: Path) -> None:
    write(path, b"old")
    source = Source(b"new")
    assert await make(source).fetched(timeout=60.0)
    assert source.calls == 0


async def test_a_cloud_that_stays_away_is_not_waited_for_longer(make: Make) -> None:
    document = make(Source(CloudUnreachable("down")))
    assert not await document.fetched(timeout=0.05)


async def test_a_damaged_copy_is_as_good_as_none(make: Make, path: Path) -> None:
    write(path, b"junk")
    assert await make(Source(b"new")).get() == "new"


async def test_a_disk_that_takes_nothing_does_not_matter(make: Make, path: Path) -> None:
    write(path.parent, b"a file where the folder should be")
    assert await make(Source(b"new")).get() == "new"


async def test_closing_stops_the_call(make: Make) -> None:
    source = Source(b"new")
    source.open.clear()
    document = make(source)
    waiting = asyncio.create_task(document.get())
    await source.asked.get()
    await document.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_renewal_fetches_what_is_too_old_and_waits_for_it(make: Make) -> None:
    source = Source(b"old", b"new")
    document = make(source)
    await document.get()
    assert not await document.renew(60.0, timeout=60.0)
    assert await document.renew(0.0, timeout=60.0)
    assert document.value == "new"


async def test_a_renewal_that_takes_too_long_goes_on_without_its_caller(make: Make) -> None:
    source = Source(b"old", b"new")
    document = make(source)
    await document.get()
    source.open.clear()
    assert not await document.renew(0.0, timeout=0.01)
    source.open.set()
    await settle(document)
    assert document.value == "new"


async def test_a_renewal_that_fails_leaves_what_there_is(make: Make) -> None:
    document = make(Source(b"old", CloudUnreachable("down")))
    await document.get()
    assert not await document.renew(0.0, timeout=60.0)
    assert document.value == "old"
