"""The program of docs/webhooks.md takes every kind of message."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from process import child
from webhooks.test_messages import end, job

from proxy.storage.budget_notices import BudgetNotice
from proxy.storage.webhooks import WebhookMessage
from proxy.webhooks.endpoints import new_secret
from proxy.webhooks.messages import (
    TEST,
    TYPES,
    account_message,
    budget_message,
    ended_data,
    make_test_message,
    message,
    started_data,
)
from proxy.webhooks.sender import WebhookSender

PAGE = Path(__file__).parents[2] / "docs/webhooks.md"
SECRET = new_secret()
#: No program takes longer to start.
TIMEOUT = 60.0


def sample(type_: str) -> WebhookMessage:
    """A message of a type."""
    if type_ == TEST:
        return make_test_message("anna", "wh_1")
    if type_.startswith("account."):
        return account_message(type_, "main", "no_credits")
    if type_.startswith("budget."):
        stage = type_.removeprefix("budget.")
        notice = BudgetNotice(
            "anna", "credits_per_day", 500_000, stage, "2026-11-28", 500_000, refused=True, at=1000
        )
        return budget_message(notice)
    if type_ == "job.started":
        return message(type_, "anna", started_data(job(started_at=2000)))
    return message(type_, "anna", ended_data(job(), end(type_.removeprefix("job."))))


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[str]:
    """The address of the program."""
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))
    (tmp_path / "hook.py").write_text(block)
    words = ("-m", "flask", "--app", str(tmp_path / "hook.py"), "run", "--port", "0")
    environment = {**os.environ, "WEBHOOK_SECRET": SECRET}
    async with child(*words, environment=environment) as process, asyncio.timeout(TIMEOUT):
        assert process.stderr is not None
        while not (found := re.search(rb"Running on (\S+)", await process.stderr.readline())):
            assert process.returncode is None
        yield f"{found[1].decode()}/hooks/comfy"


async def test_it_takes_every_kind_of_message(program: str) -> None:
    sender = WebhookSender(lambda _: None)
    await sender.start()
    try:
        answers = {}
        for type_ in (*TYPES, TEST):
            made = sample(type_)
            answer = await sender.send(program, SECRET, made.id, made.body, TIMEOUT)
            answers[type_] = answer.status
    finally:
        await sender.close()
    assert answers == dict.fromkeys((*TYPES, TEST), 204)
