"""A budget has one notice in its day or month, of which webhooks are told once."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from proxy.storage.budget_notices import BudgetNotice, BudgetNoticeRepository
from proxy.storage.database import Database
from proxy.storage.webhooks import StoredWebhook, WebhookMessage, WebhookRepository

NEAR = BudgetNotice(
    "anna", "credits_per_day", 100, "near", "2026-11-28", 80, refused=False, at=1000
)
REACHED = replace(NEAR, stage="reached", spent=100, at=2000)


def message(notice: BudgetNotice) -> WebhookMessage:
    return WebhookMessage(f"m{notice.at}", f"budget.{notice.stage}", notice.member, b"{}", 0)


@pytest.fixture
def notices(database: Database) -> BudgetNoticeRepository:
    return BudgetNoticeRepository(database)


async def test_a_notice_is_new_once(notices: BudgetNoticeRepository) -> None:
    again = replace(NEAR, spent=90, at=5000)
    assert [await notices.add(each) for each in (NEAR, again, REACHED)] == [True, False, True]
    assert await notices.unsent() == [NEAR, REACHED]


async def test_another_limit_and_another_period_are_new(notices: BudgetNoticeRepository) -> None:
    for notice in (NEAR, replace(NEAR, amount=200), replace(NEAR, began="2026-11-29")):
        assert await notices.add(notice)


async def test_what_was_told_of_an_earlier_period_is_forgotten(
    notices: BudgetNoticeRepository,
) -> None:
    await notices.add(NEAR)
    await notices.send([NEAR], message)
    await notices.add(REACHED)
    tomorrow = replace(NEAR, began="2026-11-29")
    await notices.add(tomorrow)
    assert await notices.add(NEAR)  # its row is gone, the unsent one is not
    assert not await notices.add(REACHED)


async def test_webhooks_are_told_once_whoever_tells(
    database: Database, notices: BudgetNoticeRepository
) -> None:
    webhooks = WebhookRepository(database)
    types = b'["budget.near", "budget.reached"]'
    await webhooks.add(StoredWebhook("w", "anna", "http://h/", types, b"", 0), limit=9)
    for notice in (NEAR, REACHED):
        await notices.add(notice)
    found = await notices.unsent()
    await asyncio.gather(*(notices.send(found, message) for _ in range(3)))
    sent = sorted(delivery.type for delivery in await webhooks.log("w", 9))
    assert sent == ["budget.near", "budget.reached"]
    assert await notices.unsent() == []
