"""Pages of ended jobs: filtered, searched, and one behind the other."""

from __future__ import annotations

import pytest

from proxy.storage.database import Database
from proxy.storage.gallery import GalleryRepository
from proxy.storage.jobs import EndedJob, JobRepository, Payload, StoredJob

JOBS = (
    ("anna", "a1", "flux-dev", "succeeded", 1000),
    ("ben", "b1", "SDXL base", "failed", 2000),
    ("anna", "a2", "50%_off", "cancelled", 2000),
    ("ben", "b2", "flux-dev", "succeeded", 3000),
)


@pytest.fixture
async def gallery(database: Database) -> GalleryRepository:
    repository = JobRepository(database)
    for member, id_, label, state, at in JOBS:
        one = StoredJob(member, id_, "queued", 0, at - 500, at - 500, label=label)
        key = (await repository.insert(one, Payload(b"{}", b"{}"))).key
        ended = EndedJob(state, at - 100, at, b'{"id": 1}', b"{}", [], b'{"account": "main"}')
        await repository.finish(key, ended, keep=10)
    return GalleryRepository(database)


async def test_the_newest_come_first_one_page_behind_the_other(gallery: GalleryRepository) -> None:
    found, before = [], None
    while page := await gallery.page(None, before=before, limit=1):
        found += [row.id for row in page]
        before = page[-1].ended_at, page[-1].key
    assert found == ["b2", "a2", "b1", "a1"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"member": "anna"}, ["a2", "a1"]),
        ({"member": "nobody"}, []),
        ({"member": None, "states": {"failed", "cancelled"}}, ["a2", "b1"]),
        ({"member": None, "text": "FLUX"}, ["b2", "a1"]),
        ({"member": None, "text": "%_"}, ["a2"]),
        ({"member": "anna", "text": "flux"}, ["a1"]),
        ({"member": None, "text": "b1"}, ["b1"]),
        ({"member": None, "text": "\x00"}, []),
    ],
)
async def test_pages_are_filtered_and_searched(
    gallery: GalleryRepository, query: dict[str, object], ids: list[str]
) -> None:
    assert [row.id for row in await gallery.page(**query, limit=9)] == ids  # type: ignore[arg-type]


async def test_a_job_with_its_label_and_details(gallery: GalleryRepository) -> None:
    row = await gallery.job("ben", "b1")
    assert row is not None
    assert (row.label, row.state, row.created_at, row.started_at, row.ended_at) == (
        "SDXL base",
        "failed",
        1500,
        1900,
        2000,
    )
    assert (row.summary, row.details) == (b'{"id": 1}', b'{"account": "main"}')
    assert await gallery.job("anna", "b1") is None
