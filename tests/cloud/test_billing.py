"""The routes of billing, which may refuse a key that works everywhere else."""

from __future__ import annotations

from typing import Any

import pytest
from yarl import URL

from proxy.cloud.billing import is_refused
from proxy.cloud.errors import CloudError, CloudGarbage
from tests.cloud.conftest import KEY, Connect, Serve, answer

PAGE = {"events": [], "page": 1, "limit": 100, "total": 0, "totalPages": 0}


async def test_events_are_asked_for_by_page_and_time(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(PAGE))
    client = await connect(cloud.url)
    page = await client.billing.events(1_795_636_800_000, 1_795_640_400_000, page=3)
    assert (page.count, page.total) == (0, 0)
    (seen,) = cloud.seen
    asked = URL(seen.target)
    assert asked.path == "/api/billing/events"
    assert dict(asked.query) == {
        "page": "3",
        "limit": "100",
        "start_date": "2026-11-25T20:00:00.000Z",
        "end_date": "2026-11-25T21:00:00.000Z",
    }
    assert seen.headers["X-API-Key"] == KEY


@pytest.mark.parametrize(
    ("status", "body", "access"),
    [
        (200, PAGE, "allowed"),
        (401, {"code": "UNAUTHORIZED", "message": "no"}, "refused"),
        (403, {"code": "FORBIDDEN", "message": "no"}, "refused"),
        (404, {"code": "NOT_FOUND", "message": "no"}, "unknown"),
        (429, {"code": "RATE_LIMITED", "message": "later"}, "unknown"),
        (500, {}, "unknown"),
        (200, [], "unknown"),
    ],
)
async def test_what_these_routes_answer_is_about_nothing_else(
    serve: Serve, connect: Connect, status: int, body: Any, access: str
) -> None:
    cloud = await serve(answer(body, status))
    client = await connect(cloud.url)
    for _ in range(6):
        assert await client.billing.access() == access
    assert len(cloud.seen) == 6
    cloud.replies = [answer({"id": "user"})]
    await client.user()


async def test_a_refused_read_says_so(serve: Serve, connect: Connect) -> None:
    client = await connect((await serve(answer({"code": "FORBIDDEN"}, 403))).url)
    with pytest.raises(CloudError) as caught:
        await client.billing.events(0, 1)
    assert is_refused(caught.value)


async def test_an_answer_without_a_list_of_events_is_garbage(
    serve: Serve, connect: Connect
) -> None:
    client = await connect((await serve(answer({"total": 3}))).url)
    with pytest.raises(CloudGarbage, match="no list of events") as caught:
        await client.billing.events(0, 1)
    assert not is_refused(caught.value)
