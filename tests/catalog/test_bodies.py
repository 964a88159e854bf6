"""Bodies are made once, in a thread, and forgotten with their catalogue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

import pytest

from proxy.catalog import bodies
from proxy.catalog.bodies import Bodies
from proxy.catalog.whole import Body, Coding, Whole


class Counted(Whole):
    """Remembers in which threads it was put together; fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__([b"{}"])
        self.threads: list[int] = []
        self.failures = 0

    def body(self, files: Iterable[str], coding: Coding) -> Body:
        self.threads.append(threading.get_ident())
        if self.failures:
            self.failures -= 1
            raise MemoryError
        return super().body(files, coding)


@pytest.fixture
def whole() -> Counted:
    return Counted()


async def test_a_body_is_made_once_for_all_who_ask(whole: Counted) -> None:
    made = Bodies()
    together = await asyncio.gather(*(made.get(whole, [], "gzip") for _ in range(10)))
    assert all(body is together[0] for body in [*together, await made.get(whole, [], "gzip")])
    assert len(whole.threads) == 1
    assert whole.threads[0] != threading.get_ident()


async def test_other_files_and_codings_get_their_own(whole: Counted) -> None:
    made = Bodies()
    for files in ([], ["a.png"]):
        await made.get(whole, files, "gzip")
        await made.get(whole, files, "identity")
    assert len(whole.threads) == 4


async def test_a_new_catalogue_forgets_the_bodies_of_the_old(whole: Counted) -> None:
    made = Bodies()
    for one in (whole, Counted(), whole):
        await made.get(one, [], "gzip")
    assert len(whole.threads) == 2


async def test_the_least_asked_for_is_forgotten(
    whole: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MOST", 2)
    made = Bodies()
    for file in "a", "b", "a", "c", "a", "b":
        await made.get(whole, [file], "gzip")
    assert len(whole.threads) == 4


async def test_who_leaves_does_not_take_it_from_the_others(whole: Counted) -> None:
    made = Bodies()
    leaving, staying = (asyncio.create_task(made.get(whole, [], "gzip")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).coding == "gzip"


async def test_what_failed_is_made_again(whole: Counted) -> None:
    made = Bodies()
    whole.failures = 1
    with pytest.raises(MemoryError):
        await made.get(whole, [], "gzip")
    assert (await made.get(whole, [], "gzip")).length
