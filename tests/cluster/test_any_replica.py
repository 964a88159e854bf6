"""Any request to any replica: what one of them was told, the others know.

The clients `here`, `there` and `elsewhere` are one client of one member, at three replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import gated
import graphs
import pytest
from cluster.conftest import Team
from cluster.replicas import TIMEOUT, Person, until_refused
from stack import Client, Listener, bare
from team import bearer
from waiting import ids, running
from yarl import URL

from proxy.api.credentials import COOKIE

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Seconds after which nobody may use what was revoked.
REVOKED_WITHIN = 1.0


@asynccontextmanager
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses that are no names
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield session


async def heard_for(listener: Listener, seconds: float) -> None:
    """Read what comes within so many seconds."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while True:
                await listener.next()


async def test_a_newer_socket_at_another_replica_takes_over(clients: list[Client]) -> None:
    here, there, elsewhere = clients
    async with here.listening() as older, there.listening() as newer:
        for color in (8, 9):
            prompt_id = await elsewhere.submit(graphs.plain(color))
            await newer.until_end(prompt_id)
        assert newer.types().count("execution_start") == 2
        await heard_for(older, 0.3)
        assert older.types() == []


async def test_a_session_is_good_everywhere_until_it_ends_anywhere(
    team: Team, person: Person
) -> None:
    here, there, elsewhere = person.clients
    async with browser() as session:
        form = {"token": person.token}
        async with session.post(
            here.url / "proxy/sign-in", data=form, allow_redirects=False
        ) as answer:
            assert answer.status == 303
        (cookie,) = list(session.cookie_jar)
    async with aiohttp.ClientSession(headers={"Cookie": f"{COOKIE}={cookie.value}"}) as session:
        signed_in = [Client(session, client.url) for client in (there, elsewhere, here)]
        for client in signed_in:
            assert (await client.get("queue"))[0] == 200
        async with session.post(there.url / "proxy/sign-out", allow_redirects=False) as answer:
            assert answer.status == 303
        refused = [until_refused(client, within=REVOKED_WITHIN) for client in signed_in]
        await asyncio.gather(*refused)


async def test_settings_and_the_files_of_the_editor_are_the_same_everywhere(
    clients: list[Client],
) -> None:
    here, there, elsewhere = clients
    for number, client in enumerate(clients):
        assert (await client.post("settings", {f"key-{number}": number}))[0] == 200
    for client in clients:
        found = (await client.get("settings"))[1]
        assert {name: found.get(name) for name in ("key-0", "key-1", "key-2")} == {
            "key-0": 0,
            "key-1": 1,
            "key-2": 2,
        }
    path = "userdata/workflows%2Fone.json"
    url = URL(f"{here.url.origin()}/{path}", encoded=True)
    async with here.session.post(url, data=b'{"nodes": []}') as answer:
        assert answer.status == 200, await answer.text()
    for client in clients:
        async with client.session.get(url.with_port(client.url.port)) as answer:
            assert (answer.status, await answer.read()) == (200, b'{"nodes": []}')
        listed = (await client.get("userdata", dir="workflows"))[1]
        assert listed == ["one.json"]
    async with there.session.delete(url.with_port(there.url.port)) as answer:
        assert answer.status == 204
    async with elsewhere.session.get(url.with_port(elsewhere.url.port)) as answer:
        assert answer.status == 404


async def test_dashboards_show_the_same_everywhere(team: Team, clients: list[Client]) -> None:
    here, there, _ = clients
    async with there.listening() as listener:
        running_one = await here.submit(gated.GRAPH)
        await listener.until("executing", node="1")
        waiting = await there.submit(graphs.plain(50))
    admins = [team.cluster.client(number) for number in range(3)]
    for admin in admins:
        status, seen = await admin.get("proxy/api/state")
        assert status == 200
        assert [job["id"] for job in seen["running"]] == [running_one]
        assert [(job["id"], job["turn"]) for job in seen["waiting"]] == [(waiting, 1)]
        assert [account["used"] for account in seen["accounts"]] == [1]
    admin = admins[2]
    async with (
        admin.session.get(admin.url / "proxy/api/events") as stream,
        asyncio.timeout(TIMEOUT),
    ):
        team.gate.set()
        async for line in stream.content:
            if line.startswith(b"data:") and b'"running":[]' in line.replace(b" ", b""):
                break
    usage = [(await admin.get("proxy/api/usage"))[1] for admin in admins]
    assert usage[0] == usage[1] == usage[2]


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


async def test_assets_are_the_same_at_every_replica(clients: list[Client]) -> None:
    here, there, elsewhere = clients
    form = aiohttp.FormData({"tags": "input,mine"})
    form.add_field("file", graphs.png((4, 5, 6)), filename="a.png")
    async with here.session.post(here.url / "api/assets", data=form) as answer:
        uploaded = (await answer.json())["id"]
    entry = await there.run(graphs.plain(0x040506, prefix="shared"))
    (item,) = entry["outputs"]["2"]["images"]
    for client in clients:
        for tag, id_ in (("mine", uploaded), ("output", item["id"])):
            listed = (await client.get("api/assets", tags_all=tag))[1]["assets"]
            assert id_ in [item["id"] for item in listed]
    path = f"api/assets/{uploaded}/tags"
    assert (await there.post(path, {"tags": ["later"]}))[1]["added"] == ["later"]
    assert (await elsewhere.get("api/assets", tags_all="later"))[1]["total"] == 1
    async with elsewhere.listening() as listener:
        body = {"asset_ids": [uploaded, item["id"]]}
        _, begun = await here.post("api/assets/export", body)
        events = await listener.until("asset_export", task_id=begun["task_id"], progress=1)
        assert events["status"] in ("running", "completed")
        if events["status"] == "running":
            events = await listener.until("asset_export", status="completed")
    _, task = await there.get(f"api/tasks/{begun['task_id']}")
    assert task["result"]["export_name"] == events["export_name"]
    query = {"filename": events["export_name"], "type": "temp", "subfolder": "exports"}
    archives = []
    for client in clients:
        url = (client.url / "view").with_query(query)
        async with client.session.get(url) as answer:
            assert answer.status == 200
            archives.append(await answer.read())
    assert archives[0] == archives[1] == archives[2]
    assert len(archives[0]) == task["result"]["export_size"]


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


async def test_a_ticket_of_one_replica_is_good_at_the_others(person: Person) -> None:
    here, there, elsewhere = person.clients
    entry = await here.run(graphs.plain(0x123456))
    (item,) = entry["outputs"]["2"]["images"]
    picture = await here.view(item)
    async with aiohttp.ClientSession() as stranger:
        url = (here.url / "api/view").with_query(item)
        async with stranger.get(
            url, headers={"X-API-Key": person.token}, allow_redirects=False
        ) as answer:
            assert answer.status == 302
            target = answer.headers["Location"]
        for client in (here, there, elsewhere):
            async with stranger.get(
                client.url.join(URL(target)).with_port(client.url.port)
            ) as answer:
                assert answer.status == 200
                assert await answer.read() == picture
            async with stranger.get((client.url / "view").with_query(item)) as answer:
                assert answer.status == 401


async def test_the_queue_has_one_order_wherever_jobs_were_submitted(clients: list[Client]) -> None:
    here, there, elsewhere = clients
    first = await here.submit(gated.GRAPH)
    second = await there.submit(graphs.plain(20))
    third = await elsewhere.submit(graphs.plain(21))
    fourth = await there.submit(graphs.plain(22), front=True)
    fifth = await here.submit(graphs.plain(23), number=-1000)
    for client in clients:
        queue = (await client.get("queue"))[1]
        assert [item[1] for item in queue["queue_running"]] == [first]
        assert [item[1] for item in queue["queue_pending"]] == [fifth, fourth, second, third]
        assert queue["queue_pending"][0][0] == -1000


async def test_a_job_is_cancelled_at_any_replica(team: Team, clients: list[Client]) -> None:
    here, there, elsewhere = clients
    async with elsewhere.listening() as listener:
        running_one = await here.submit(gated.GRAPH)
        waiting = [await here.submit(graphs.plain(30 + number)) for number in range(3)]
        await listener.until("executing", node="1")
        assert (await there.post("queue", {"delete": [waiting[0]]}))[0] == 200
        assert (await there.post(f"api/jobs/{waiting[1]}/cancel"))[1] == {"cancelled": True}
        for client in clients:
            assert await ids(client) == [waiting[2]]
        assert (await elsewhere.post("queue", {"clear": True}))[0] == 200
        for client in clients:
            assert await ids(client) == []
        assert (await there.post("interrupt", {"prompt_id": running_one}))[0] == 200
        await listener.until("execution_interrupted", prompt_id=running_one)
        await listener.until_end(running_one)
    for client in clients:
        assert await running(client) == []
        entry = await client.history(running_one)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"


async def test_an_interrupt_without_an_id_stops_what_the_client_runs(
    clients: list[Client],
) -> None:
    here, there, elsewhere = clients
    async with elsewhere.listening() as listener:
        prompt_id = await here.submit(gated.GRAPH)
        await listener.until("executing", node="1")
        assert (await there.post("interrupt"))[0] == 200
        await listener.until("execution_interrupted", prompt_id=prompt_id)


async def test_what_is_deleted_from_the_history_is_gone_everywhere(clients: list[Client]) -> None:
    here, there, elsewhere = clients
    kept, deleted = [(await here.run(graphs.plain(40 + number))) for number in range(2)]
    kept_id, deleted_id = kept["prompt"][1], deleted["prompt"][1]
    for client in clients:
        assert set((await client.get("history"))[1]) == {kept_id, deleted_id}
    assert (await there.post("history", {"delete": [deleted_id]}))[0] == 200
    for client in clients:
        assert list((await client.get("history"))[1]) == [kept_id]
        assert (await client.get(f"history/{deleted_id}"))[1] == {}
        assert (await client.get(f"api/jobs/{deleted_id}"))[0] == 404
    assert (await elsewhere.post("history", {"clear": True}))[0] == 200
    for client in clients:
        assert (await client.get("history"))[1] == {}


async def test_every_replica_shows_the_same_dashboard(team: Team, person: Person) -> None:
    here, there, elsewhere = person.clients
    entry = await here.run(graphs.sampled(3, steps=3))
    prompt_id = entry["prompt"][1]
    found = [(await client.get("proxy/api/jobs"))[1] for client in person.clients]
    assert found[0] == found[1] == found[2]
    assert found[0]["jobs"][0]["id"] == prompt_id
    shown = [(await client.get(f"proxy/api/jobs/{prompt_id}"))[1] for client in person.clients]
    assert shown[0] == shown[1] == shown[2]
    assert any(node["ran"] is not None for node in shown[0]["nodes"])
    pictures = []
    for client in (here, there, elsewhere):
        url = (client.url / "proxy/api/thumbnail").with_query(id=prompt_id)
        async with client.session.get(url) as answer:
            assert answer.status == 200
            pictures.append(await answer.read())
    assert pictures[0] == pictures[1] == pictures[2]


async def test_a_picture_for_a_helper_node_and_its_result_are_at_every_replica(
    clients: list[Client],
) -> None:
    here, there, elsewhere = clients
    picture = graphs.png((9, 8, 7))
    async with here.session.put(here.url / "api/etn/image/shared", data=picture) as answer:
        assert answer.status == 201
    for client in clients:
        async with client.session.put(client.url / "api/etn/image/shared", data=b"x") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "cached"})
        async with client.session.get(client.url / "api/etn/image/shared") as answer:
            assert await answer.read() == picture
    graph = {
        "1": {"class_type": "ETN_LoadImageCache", "inputs": {"id": "shared"}},
        "2": {"class_type": "ETN_SaveImageCache", "inputs": {"images": ["1", 0], "format": "PNG"}},
        "3": {
            "class_type": "ETN_SendImageWebSocket",
            "inputs": {"images": ["1", 0], "format": "PNG"},
        },
    }
    async with elsewhere.listening() as listener:
        prompt_id = await there.submit(graph)
        executed = await listener.until("executed", node="2")
        (image,) = executed["output"]["images"]
        results = []
        for client in clients:
            address = client.url / "api/etn/image" / image["id"]
            async with client.session.get(address) as answer:
                results.append((answer.status, await answer.read()))
        await listener.until_end(prompt_id)
    assert results[0][0] == 200
    assert results[0] == results[1] == results[2]
    (frame,) = listener.of("binary")
    assert frame[8:] == results[0][1]
