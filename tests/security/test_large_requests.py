"""Members whose requests are valid and have very many parts."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from typing import Any

import graphs
import pytest
from security.attack import MEMBER, Target

JSON = {"Content-Type": "application/json"}
#: At each of its letters the user of a URL may begin.
LIKE_SECRETS = "a." * 25_000


def prompt(class_type: str, **inputs: Any) -> bytes:
    graph = {**graphs.plain(), "9": {"class_type": class_type, "inputs": inputs}}
    return json.dumps({"prompt": graph}).encode()


@pytest.mark.parametrize(
    ("values", "status"),
    [
        # Which of them name files is looked up in the database, up to a number.
        (lambda: [f"a{number}" for number in range(470_000)], 413),
        (lambda: [f"{number:064x}" for number in range(300_000)], 413),
        (lambda: [f"a{number}" for number in range(15_000)] * 20, 200),
        (lambda: list(range(470_000)), 200),
    ],
    ids=["strings", "hashes", "few strings", "numbers"],
)
async def test_a_prompt_of_very_many_values(
    target: Target, values: Callable[[], list[Any]], status: int
) -> None:
    body = prompt("EmptyImage", width=8, height=8, batch_size=1, color=0, more=values())
    async with target.attacked_by(MEMBER):
        for _ in range(2):
            assert (
                await target.request("POST", "prompt", data=io.BytesIO(body), headers=JSON)
                == status
            )


@pytest.mark.parametrize(
    ("path", "field", "count"),
    [
        ("api/jobs/cancel", "job_ids", 300_000),
        ("queue", "delete", 300_000),
        ("history", "delete", 300_000),
    ],
)
async def test_very_many_ids(target: Target, path: str, field: str, count: int) -> None:
    waiting = graphs.waiting(600)
    for _ in range(5):
        assert await target.request("POST", "prompt", json={"prompt": waiting}) == 200
    ids = [str(uuid.UUID(int=number)) for number in range(count)]
    body = json.dumps({field: ids}).encode()
    async with target.attacked_by(MEMBER):
        assert await target.request("POST", path, data=io.BytesIO(body), headers=JSON) == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [("interrupt", {"prompt_id": LIKE_SECRETS}), ("queue", {"delete": [LIKE_SECRETS] * 4})],
)
async def test_ids_that_begin_like_secrets(target: Target, path: str, body: Any) -> None:
    """They are in the log and in the audit record, from which secrets are removed."""
    async with target.attacked_by(MEMBER):
        assert await target.request("POST", path, json=body) == 200
