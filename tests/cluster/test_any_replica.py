"""Any request to any replica: what one of them was told, the others know.

The clients `here`, `there` and `elsewhere` are one client of one member, at three replicas.
"""

from __future__ import annotations

import asyncio
import uuid

import aiohttp
import gated
import graphs
import pytest
from cluster.conftest import Team
from cluster.replicas import TIMEOUT, Person, until_refused
from stack import Client, bare
from team import bearer
from waiting import ids, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Seconds after which nobody may use what was revoked.
REVOKED_WITHIN = 1.0


async def test_a_job_is_at_once_in_the_queue_of_every_replica(clients: list[Client]) -> None:
    for number, here in enumerate(clients):
        prompt_id = await here.submit(gated.GRAPH)
        for client in clients:
            assert prompt_id in await ids(client) + await running(client)
            assert (await client.get(f"api/jobs/{prompt_id}"))[1]["id"] == prompt_id
            listed = (await client.get("api/jobs"))[1]["jobs"]
            assert prompt_id in [job["id"] for job in listed]
            remaining = (await client.get("prompt"))[1]["exec_info"]["queue_remaining"]
            assert remaining == number + 1


async def test_events_come_in_order_with_previews_and_one_end(clients: list[Client]) -> None:
    here, there, elsewhere = clients
    async with elsewhere.listening({"supports_preview_metadata": True}) as listener:
        prompt_id = await here.submit(graphs.sampled(7, steps=3))
        await listener.until_end(prompt_id)
        # the entry is there before the end is told, wherever it is asked for
        entries = [await client.history(prompt_id) for client in clients]
    assert entries[0] == entries[1] == entries[2]
    events = [(type_, data) for type_, data in listener.received if type_ != "status"]
    types = [type_ for type_, _ in events if type_ != "progress_state"]
    assert types[0] == "execution_start"
    assert types[-2:] == ["execution_success", "executing"]
    for type_ in ("execution_start", "execution_success", "executed"):
        assert types.count(type_) == 1
    assert types.count("binary") == 3
    assert events[-1][1]["node"] is None
    nodes = [data["node"] for type_, data in events if type_ == "executing"]
    assert nodes.index("3") < nodes.index("8") < nodes.index("9")
    at = types.index("binary")
    assert types[:at].count("progress") <= 1
    assert types.index("executed") > at
    picture = [await client.view(entries[0]["outputs"]["9"]["images"][0]) for client in clients]
    assert picture[0] == picture[1] == picture[2]
    assert (await there.get("queue"))[1] == {"queue_running": [], "queue_pending": []}


async def test_a_reconnect_at_another_replica_is_sent_what_runs(
    team: Team, clients: list[Client]
) -> None:
    here, there, elsewhere = clients
    async with here.listening() as listener:
        prompt_id = await here.submit(gated.GRAPH)
        await listener.until("executing", node="1")
    for client in (there, elsewhere):
        async with client.listening() as listener:
            assert (await listener.until("executing"))["node"] == "1"
    async with there.listening() as listener:
        team.gate.set()
        await listener.until_end(prompt_id)
        assert listener.types().count("execution_start") == 0
        assert listener.types().count("execution_success") == 1


async def test_an_upload_is_seen_viewed_and_used_everywhere(clients: list[Client]) -> None:
    here, there, elsewhere = clients
    picture = graphs.png((1, 2, 3))
    uploaded = await here.upload("there.png", picture, subfolder="deep")
    assert bare(uploaded) == {"name": "there.png", "subfolder": "deep", "type": "input"}
    item = {"filename": "there.png", "subfolder": "deep", "type": "input"}
    for client in clients:
        assert await client.view(item) == picture
    flat = await there.upload("flat.png", picture)
    info = (await elsewhere.get("object_info/LoadImage"))[1]
    assert flat["name"] in str(info["LoadImage"]["input"]["required"]["image"])
    assert flat["name"] in (await elsewhere.get("internal/files/input"))[1]
    entry = await elsewhere.run(graphs.inverted("flat.png"))
    assert entry["status"]["completed"] is True
    made = entry["outputs"]["4"]["images"][0]
    assert await here.view(made) == await there.view(made)


async def test_a_token_that_is_revoked_lets_nobody_in_anywhere_a_second_later(
    team: Team, person: Person
) -> None:
    admin = team.cluster.client(0)
    token, id_ = await team.cluster.token(person.name)
    async with aiohttp.ClientSession(headers=bearer(token)) as session:
        clients = [Client(session, replica.url) for replica in team.cluster.replicas]
        for client in clients:
            assert (await client.get("queue"))[0] == 200
        async with clients[2].listening() as listener:
            async with admin.session.delete(admin.url / f"proxy/api/tokens/{id_}") as answer:
                assert answer.status == 204
            await asyncio.gather(
                *(until_refused(client, within=REVOKED_WITHIN) for client in clients)
            )
            async with asyncio.timeout(TIMEOUT):  # the sockets that use it are closed, too
                while (await listener.socket.receive()).type is not aiohttp.WSMsgType.CLOSE:
                    pass
    for client in person.clients:
        assert (await client.get("queue"))[0] == 200


async def test_one_of_three_equal_prompt_ids_at_once_is_taken(clients: list[Client]) -> None:
    for _ in range(5):
        prompt_id = str(uuid.uuid4())
        body = {"prompt": gated.GRAPH, "prompt_id": prompt_id}
        answers = await asyncio.gather(*(client.post("prompt", body) for client in clients))
        assert sorted(status for status, _ in answers) == [200, 409, 409]
        refused = next(answer for status, answer in answers if status == 409)
        assert refused["error"]["type"] == "duplicate_prompt_id"
