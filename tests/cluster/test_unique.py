"""What is unique is so across replicas, however much comes at once."""

from __future__ import annotations

import asyncio
import uuid

import gated
import graphs
import pytest
from cluster.conftest import Team
from cluster.replicas import TIMEOUT
from stack import Client
from waiting import ids

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_one_of_three_equal_prompt_ids_at_once_is_taken(clients: list[Client]) -> None:
    for _ in range(5):
        prompt_id = str(uuid.uuid4())
        body = {"prompt": gated.GRAPH, "prompt_id": prompt_id}
        answers = await asyncio.gather(*(client.post("prompt", body) for client in clients))
        assert sorted(status for status, _ in answers) == [200, 409, 409]
        refused = next(answer for status, answer in answers if status == 409)
        assert refused["error"]["type"] == "duplicate_prompt_id"


async def test_numbers_grow_from_replica_to_replica(clients: list[Client]) -> None:
    numbers = []
    for turn in range(9):
        _, answer = await clients[turn % 3].post("prompt", {"prompt": gated.GRAPH})
        numbers.append(answer["number"])
    assert numbers == sorted(set(numbers))
    at_once = await asyncio.gather(
        *(clients[turn % 3].post("prompt", {"prompt": gated.GRAPH}) for turn in range(12))
    )
    more = [answer["number"] for _, answer in at_once]
    assert len(set(more)) == 12
    assert min(more) > numbers[-1]
    for client in clients:
        queue = (await client.get("queue"))[1]
        listed = [item[0] for item in queue["queue_running"] + queue["queue_pending"]]
        assert listed == sorted(listed) == sorted(numbers + more)


async def test_six_uploads_of_one_name_at_once_get_six_names(clients: list[Client]) -> None:
    pictures = [graphs.png((number, 0, 0)) for number in range(6)]
    answers = await asyncio.gather(
        *(clients[number % 3].upload("one.png", data) for number, data in enumerate(pictures))
    )
    names = [answer["name"] for answer in answers]
    assert len(set(names)) == 6
    for client in clients:
        for name, picture in zip(names, pictures, strict=True):
            item = {"filename": name, "subfolder": "", "type": "input"}
            assert await client.view(item) == picture


async def test_equal_results_of_one_prefix_get_names_of_their_own(clients: list[Client]) -> None:
    others = [Client(client.session, client.url) for client in clients]  # each with its own socket
    entries = await asyncio.gather(
        *(client.run(graphs.plain(60, prefix="same")) for client in others)
    )
    names = [entry["outputs"]["2"]["images"][0]["filename"] for entry in entries]
    assert sorted(names) == [f"same_0000{number}_.png" for number in (1, 2, 3)]


async def test_jobs_per_day_is_exact(team: Team) -> None:
    team.gate.set()
    async with team.cluster.person(jobs_per_day=5) as person:
        answers = await asyncio.gather(
            *(
                person.clients[turn % 3].post("prompt", {"prompt": gated.GRAPH})
                for turn in range(18)
            )
        )
        assert [status for status, _ in answers].count(200) == 5
        # a busy database may refuse a submission, which does not count
        assert {status for status, _ in answers} <= {200, 429, 503}
        async with asyncio.timeout(TIMEOUT):
            while len((await person.clients[0].get("history"))[1]) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for client in person.clients:
            status, answer = await client.post("prompt", {"prompt": gated.GRAPH})
            assert (status, answer["error"]["details"]) == (429, "jobs_per_day")
            assert await ids(client) == []
            rows = (await client.get("proxy/api/usage"))[1]["usage"]
            assert [(row["submitted"], row["completed"]) for row in rows] == [(5, 5)]


async def test_two_replicas_do_not_spend_the_last_credit_twice(team: Team) -> None:
    # A graph that has never run is expected to cost 2.7 credits.
    graph = {**gated.GRAPH, "2": {"class_type": "TestGate", "inputs": {}}}
    async with team.cluster.person(credits_per_day=3 * 2.7) as person:
        answers = await asyncio.gather(
            *(person.clients[turn % 3].post("prompt", {"prompt": graph}) for turn in range(12))
        )
        accepted = [answer["prompt_id"] for status, answer in answers if status == 200]
        assert len(accepted) == 3
        # a busy database may refuse a submission, which is not reserved
        assert {status for status, _ in answers} <= {200, 429, 503}
        for client in person.clients:
            status, answer = await client.post("prompt", {"prompt": graph})
            assert (status, answer["error"]["details"]) == (429, "credits_per_day")
            (budget,) = (await client.get("proxy/api/state"))[1]["budgets"]
            assert (budget["limit"], budget["reserved"]) == (8.1, 8.1)
        team.gate.set()
        async with asyncio.timeout(TIMEOUT):
            while len((await person.clients[0].get("history"))[1]) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        (budget,) = (await person.clients[1].get("proxy/api/state"))[1]["budgets"]
        assert budget["reserved"] == 0
