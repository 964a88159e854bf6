"""Published workflows: one of each publisher, within limits."""

from __future__ import annotations

import pytest

from proxy.storage import workflows
from proxy.storage.database import Database
from proxy.storage.workflows import MAX_AGE, PublishedWorkflow, WorkflowRepository


@pytest.fixture
def repository(database: Database) -> WorkflowRepository:
    return WorkflowRepository(database)


def published(
    publisher: str, at: int = 0, size: int = 10, member: str = "ann"
) -> PublishedWorkflow:
    return PublishedWorkflow(member, publisher, at, size, "x" * size)


async def test_the_last_workflow_of_a_publisher_replaces_the_others(
    repository: WorkflowRepository,
) -> None:
    await repository.put(published("web", at=1))
    newer = published("web", at=2, size=20)
    await repository.put(newer)
    assert await repository.get("ann", "web") == newer
    assert await repository.publishers("ann") == ["web"]


async def test_each_member_has_publishers_of_their_own(repository: WorkflowRepository) -> None:
    await repository.put(published("web"))
    await repository.put(published("web", size=5, member="ben"))
    assert await repository.get("ann", "web") == published("web")
    assert await repository.publishers("eve") == []


async def test_publishers_are_listed_as_they_have_published(repository: WorkflowRepository) -> None:
    for at, publisher in enumerate(("b", "a", "c")):
        await repository.put(published(publisher, at))
    assert await repository.publishers("ann") == ["b", "a", "c"]


@pytest.mark.parametrize(("limit", "value"), [("MAX_WORKFLOWS", 2), ("MAX_MEMBER_BYTES", 25)])
async def test_the_oldest_workflows_beyond_a_limit_are_deleted(
    repository: WorkflowRepository, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(workflows, limit, value)
    await repository.put(published("other", member="ben"))
    for at in range(4):
        await repository.put(published(f"publisher {at}", at))
    assert await repository.publishers("ann") == ["publisher 2", "publisher 3"]
    assert await repository.publishers("ben") == ["other"]


async def test_a_workflow_is_deleted_after_a_day(repository: WorkflowRepository) -> None:
    await repository.put(published("old", at=1))
    await repository.put(published("new", at=MAX_AGE + 1))
    assert await repository.publishers("ann") == ["old", "new"]
    await repository.put(published("other", at=MAX_AGE + 2, member="ben"))
    assert await repository.publishers("ann") == ["new"]


async def test_names_and_texts_may_have_any_characters(repository: WorkflowRepository) -> None:
    odd = PublishedWorkflow("ann", "\ud800\0", 1, 4, '"\\u0000"')
    await repository.put(odd)
    assert await repository.get("ann", "\ud800\0") == odd
