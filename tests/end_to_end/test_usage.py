"""What members use is counted, limited and recorded: over real sockets, through crashes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from PIL import Image
from process import TIMEOUT, before, command, serving
from prometheus_client.parser import text_string_to_metric_families
from servers import free_port
from stack import Client, Proxy, running_proxy
from team import limited_member
from yarl import URL

from proxy.api.keys import ACCOUNTING, MEMBERS
from proxy.members.accounting import BURST_SECONDS
from proxy.members.member import LOCAL, Member
from proxy.simulator import Simulator

PREFIX = "comfy_cloud_proxy_"


def noise(size: int = 64) -> bytes:
    """A picture that cannot be packed."""
    data = io.BytesIO()
    Image.effect_noise((size, size), 90).save(data, "png")
    return data.getvalue()


async def used(client: Client, **query: str) -> dict[str, Any]:
    """Today's only row of the usage."""
    _, answer = await client.get("proxy/api/usage", **query)
    (row,) = answer["usage"]
    return dict(row)


async def until_used(client: Client, **counts: int) -> dict[str, Any]:
    """Wait until the usage says so: a job is counted when its last message has gone out."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            row = await used(client)
            if all(row[name] == count for name, count in counts.items()):
                return row
            await asyncio.sleep(0.02)


async def metrics(session: aiohttp.ClientSession, url: URL) -> dict[tuple[str, ...], float]:
    """The samples of our metrics by name and labels, those in the order of their names."""
    async with session.get(url / "metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (
            sample.name.removeprefix(PREFIX),
            *(sample.labels[label] for label in sorted(sample.labels)),
        ): (sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def printed(folder: Path, *words: str) -> str:
    """What a command prints about a data folder."""
    code, out, _ = await command(*words, "--data-dir", str(folder))
    assert code == 0
    return out


async def test_jobs_outputs_and_bytes_are_counted(client: Client) -> None:
    data = noise()
    named = await client.upload("noise.png", data)
    entry = await client.run(graphs.inverted(named["name"]))
    (item,) = entry["outputs"]["4"]["images"]
    picture = await client.view(item)
    part = {"Range": "bytes=0-9"}
    url = (client.url / "view").with_query(item)
    async with client.session.get(url, headers=part) as answer:
        assert len(await answer.read()) == 10
    async with client.session.head(url) as answer:
        assert answer.status == 200
    row = await until_used(client, completed=1)
    assert (row["submitted"], row["outputs"], row["bytes_up"]) == (1, 2, len(data))
    assert row["bytes_down"] == len(picture) + 10


async def test_metrics_tell_the_same(client: Client) -> None:
    data = noise()
    await client.upload("noise.png", data)
    async with client.listening():
        entry = await client.run(graphs.plain(7))
        found = await metrics(client.session, client.url)
        assert found["websocket_clients", LOCAL] == 1
    (item,) = entry["outputs"]["2"]["images"]
    picture = await client.view(item)
    await until_used(client, completed=1)
    await client.get("no/such/route")
    found = await metrics(client.session, client.url)
    assert found["jobs_accepted_total", LOCAL] == 1
    assert found["jobs_ended_total", "default", LOCAL, "completed"] == 1
    assert found["job_wait_seconds_count", "default", LOCAL] == 1
    assert found["bytes_served_total", LOCAL] == len(picture)
    assert found["bytes_uploaded_total", LOCAL] == len(data)
    assert found["cloud_calls_total", "default", "POST", "/api/prompt", "200"] == 1
    assert found["cloud_bytes_uploaded_total", "default"] == len(data)
    assert found["event_socket_up", "default"] == 1
    assert found["requests_total", LOCAL, "POST", "/prompt", "2xx"] == 1
    assert found["request_seconds_count", "GET", "/view"] == 1
    assert found["websocket_clients", LOCAL] == 0
    parts = {part for key in found for part in key}
    assert not any("no/such" in part or item["filename"] in part for part in parts)


async def test_live_jobs_are_in_the_metrics(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    opened = asyncio.Event()
    async with (
        Simulator(extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, tmp_path / "data") as proxy,
    ):
        client = Client(session, proxy.url)
        async with client.listening() as listener:
            running = await client.submit(gated.GRAPH)
            await listener.until("executing", node="1")
            await client.submit(graphs.plain(3))
            await client.submit(graphs.plain(4))
            found = await metrics(session, proxy.url)
            states = {key[3]: count for key, count in found.items() if key[0] == "jobs"}
            assert states.pop("running") == 1
            assert sum(states.values()) == 2
            assert found["queue_length", LOCAL] == 3
            assert found["account_slots_used", "default"] == 1
            status, _ = await client.post("queue", {"clear": True})
            assert status == 200
            opened.set()
            await listener.until_end(running)
        row = await until_used(client, completed=1, withdrawn=2)
        assert row["submitted"] == 1
        assert row["running_seconds"] > 0


async def test_a_crash_loses_no_job(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with Simulator() as simulator:
        async with serving(tmp_path, environment=before(simulator)) as process:
            client = Client(session, process.url)
            for color in range(5):
                await client.run(graphs.plain(color))
            await process.kill()
        async with serving(tmp_path, environment=before(simulator)) as process:
            client = Client(session, process.url)
            await client.run(graphs.plain(5))
            row = await until_used(client, completed=6, submitted=6)
            assert (row["member"], row["token"]) == (LOCAL, "")
            (cost,) = (await client.get("proxy/api/usage", rows="costs"))[1]["costs"]
            assert (cost["account"], cost["node_class"], cost["source"]) == (
                "default",
                "",
                "estimated",
            )
            assert cost["credits"] == row["credits_estimated"] > 0
            assert cost["credits"] == pytest.approx(0.27 * cost["seconds"], abs=1e-5)
            _, answer = await client.get("proxy/api/audit", action="submit")
            assert len(answer["entries"]) == 6


async def test_what_members_do_is_recorded(client: Client) -> None:
    entry = await client.run(graphs.plain(9))
    prompt_id = entry["prompt"][1]
    strange = 'x"}\n{"action": "sign_in"'
    await client.post("queue", {"delete": [prompt_id, strange], "clear": True})
    await client.post("interrupt", {"prompt_id": prompt_id})
    _, answer = await client.get("proxy/api/audit")
    assert [listed["action"] for listed in answer["entries"]] == [
        "interrupt",
        "delete",
        "clear_queue",
        "submit",
    ]
    assert answer["entries"][1]["jobs"] == [prompt_id, strange]
    submission = answer["entries"][3]
    assert (submission["job"], submission["member"]) == (prompt_id, LOCAL)
    assert submission["address"] == "127.0.0.1"
    _, page = await client.get("proxy/api/audit", limit="1", offset="1")
    assert [listed["action"] for listed in page["entries"]] == ["delete"]
    assert page["has_more"] is True
    _, page = await client.get("proxy/api/audit", action="submit", member=LOCAL)
    assert len(page["entries"]) == 1


async def test_odd_queries_are_refused_with_a_sentence(client: Client) -> None:
    for path, query in (
        ("proxy/api/usage", {"from": "yesterday"}),
        ("proxy/api/usage", {"to": "2026-02-31"}),
        ("proxy/api/audit", {"limit": "-1"}),
        ("proxy/api/audit", {"limit": "1001"}),
        ("proxy/api/audit", {"offset": "²"}),
    ):
        status, answer = await client.get(path, **query)
        assert status == 400
        assert answer["error"]["message"].endswith(".")


async def test_the_admin_listener_has_the_metrics_to_itself(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with Simulator() as simulator:
        environment = {**before(simulator), "COMFY_PROXY_ADMIN_LISTEN": address}
        async with serving(tmp_path, environment=environment) as process:
            found = await metrics(session, URL(f"http://{address}"))
            assert found["account_slots", "default"] >= 1
            async with session.get(process.url / "metrics") as answer:
                assert answer.status == 404
            async with session.get(process.url / "proxy/api/audit") as answer:
                assert answer.status == 404
            async with session.get(process.url / "proxy/api/usage") as answer:
                assert answer.status == 200
            async with session.get(f"http://{address}/queue") as answer:
                assert answer.status == 404
            assert await process.stop() == 0


async def test_the_jobs_of_a_day_are_limited_across_a_restart(
    tmp_path: Path, simulator: Simulator
) -> None:
    async with (
        running_proxy(simulator, tmp_path / "data") as proxy,
        limited_member(proxy, jobs_per_day=2) as client,
    ):
        await client.run(graphs.plain(1))
        headers = dict(client.session.headers)
    async with (
        running_proxy(simulator, tmp_path / "data") as proxy,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        client = Client(session, proxy.url)
        bodies = [{"prompt": graphs.plain(number)} for number in range(2, 8)]
        answers = await asyncio.gather(*(client.post("prompt", body) for body in bodies))
        refused = [answer for status, answer in answers if status == 429]
        assert len(refused) == 5
        assert refused[0]["error"]["type"] == "limit_reached"
        assert refused[0]["error"]["details"] == "jobs_per_day"
        assert refused[0]["error"]["extra_info"]["ends_at"].endswith("T00:00:00+00:00")
        assert refused[0]["node_errors"] == {}


async def test_the_uploads_of_a_day_are_limited_while_they_come(proxy: Proxy) -> None:
    small, large = noise(32), noise(256)
    async with limited_member(proxy, upload_bytes_per_day=len(small) + 100) as client:
        await client.upload("small.png", small)
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            yield (
                b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
                b"Content-Type: image/png\r\n\r\n"
            )
            while sent < 200 * 1024 * 1024:
                sent += len(large)
                yield large

        for body in (endless(), _form(large)):
            async with client.session.post(
                client.url / "upload/image",
                data=body,
                headers={"Content-Type": "multipart/form-data; boundary=x"},
            ) as answer:
                assert answer.status == 429
                error = (await answer.json())["error"]
            assert error["details"] == "upload_bytes_per_day"
        assert sent < 20 * 1024 * 1024
        assert (await used(client))["bytes_up"] == len(small)


def _form(data: bytes) -> bytes:
    return (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + data + b"\r\n--x--\r\n"
    )


async def test_requests_are_limited_but_not_messages_or_health(proxy: Proxy) -> None:
    async with (
        limited_member(proxy, requests_per_second=0.5) as client,
        client.listening() as listener,
    ):
        for _ in range(int(0.5 * BURST_SECONDS) - 1):
            assert (await client.get("queue"))[0] == 200
        async with client.session.get(client.url / "queue") as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] in ("1", "2")
            assert (await answer.json())["error"]["details"] == "requests_per_second"
        assert (await client.get("healthz"))[0] == 200
        await listener.socket.send_json({"type": "feature_flags", "data": {}})
        await listener.until("feature_flags")


async def test_sign_ins_and_refused_ones_are_recorded_without_a_token(proxy: Proxy) -> None:
    directory = proxy.services[MEMBERS]
    await directory.add(Member("ada", role="admin"))
    token, kept = await directory.new_token("ada")
    wrong = token[:-4] + ("aaaa" if not token.endswith("aaaa") else "bbbb")
    url = proxy.url / "proxy/sign-in"
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data={"token": wrong}) as answer:
            assert answer.status == 401
        async with session.get(proxy.url / "queue", headers={"X-API-Key": wrong}) as answer:
            assert answer.status == 401
        async with session.post(url, data={"token": token}, allow_redirects=False) as answer:
            assert answer.status in (302, 303)
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "203.0.113.9"}
    async with aiohttp.ClientSession(headers=headers) as session:
        client = Client(session, proxy.url)
        _, page = await client.get("proxy/api/audit")
        _, usage = await client.get("proxy/api/usage")
    entries = page["entries"]
    assert [entry["action"] for entry in entries] == [
        "sign_in",
        "sign_in_refused",
        "sign_in_refused",
    ]
    assert (entries[0]["member"], entries[0]["token"]) == ("ada", kept.shown)
    assert entries[1]["member"] == ""
    assert {entry["address"] for entry in entries} == {"127.0.0.1"}
    assert token[-20:] not in json.dumps(page)
    assert usage["usage"] == []


async def test_members_see_their_own_and_admins_see_all(proxy: Proxy) -> None:
    directory = proxy.services[MEMBERS]
    clients = {}
    async with contextlib.AsyncExitStack() as stack:
        for name, role in (("ada", "admin"), ("bob", "user"), ("eve", "user")):
            await directory.add(Member(name, role=role))  # type: ignore[arg-type]
            token, _ = await directory.new_token(name)
            headers = {"Authorization": f"Bearer {token}"}
            session = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
            clients[name] = Client(session, proxy.url)
        for name, color in (("bob", 1), ("eve", 2)):
            await clients[name].run(graphs.plain(color))
        async with asyncio.timeout(TIMEOUT):
            while True:
                _, answer = await clients["ada"].get("proxy/api/usage")
                if sum(row["completed"] for row in answer["usage"]) == 2:
                    break
                await asyncio.sleep(0.02)
        assert [row["member"] for row in answer["usage"]] == ["bob", "eve"]
        for rows, key in (("days", "usage"), ("costs", "costs")):
            _, answer = await clients["ada"].get("proxy/api/usage", rows=rows)
            assert [row["member"] for row in answer[key]] == ["bob", "eve"]
            _, answer = await clients["bob"].get("proxy/api/usage", rows=rows, member="eve")
            assert [row["member"] for row in answer[key]] == ["bob"]
        status, answer = await clients["bob"].get("proxy/api/audit")
        assert (status, answer["error"]["type"]) == (403, "admins_only")
        async with clients["bob"].session.get(proxy.url / "metrics") as page:
            text = await page.text()
        assert 'member="bob"' in text
        assert "eve" not in text
        assert "cloud_calls" not in text
        found = await metrics(clients["ada"].session, proxy.url)
        assert found["jobs_accepted_total", "eve"] == 1
        async with aiohttp.ClientSession() as stranger:
            async with stranger.get(proxy.url / "metrics") as page:
                assert page.status == 401
            async with stranger.get(proxy.url / "proxy/sign-in") as page:
                assert page.status == 200


async def test_waiting_jobs_are_limited(tmp_path: Path) -> None:
    opened = asyncio.Event()
    async with (
        Simulator(extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, tmp_path / "data", slots=1) as proxy,
        limited_member(proxy, max_queued=1) as client,
        client.listening() as listener,
    ):
        running = await client.submit(gated.GRAPH)
        await listener.until("executing", node="1")
        waiting = await client.submit(graphs.plain(1))
        status, answer = await client.post("prompt", {"prompt": graphs.plain(2)})
        assert status == 429
        assert answer["error"]["details"] == "max_queued"
        assert answer["error"]["extra_info"]["value"] == 1
        await client.post("queue", {"delete": [waiting]})
        again = await client.submit(graphs.plain(3))
        opened.set()
        await listener.until_end(running)
        await listener.until_end(again)


async def test_what_a_member_stores_is_bounded(proxy: Proxy) -> None:
    async with limited_member(proxy, stored_bytes=20_000, upload_bytes_per_day=100_000) as alice:
        session, userdata = alice.session, alice.url / "userdata"

        async def write(name: str, count: int) -> tuple[int, dict[str, Any]]:
            async with session.post(userdata / name, data=b"x" * count) as answer:
                body = await answer.json()
                return answer.status, body["error"] if answer.status != 200 else {}

        assert (await write("a", 12_000))[0] == 200
        status, error = await write("b", 12_000)
        assert (status, error["type"], error["details"]) == (413, "limit_reached", "stored_bytes")
        assert (await write("a", 15_000))[0] == 200  # in place of the first
        async with session.post(alice.url / "settings", json={"a": "x" * 9000}) as answer:
            assert answer.status == 413
        deep = (userdata / "a/move").joinpath("f%2Fg%2Fh", encoded=True)
        async with session.post(deep) as answer:  # folders take their place too
            assert answer.status == 413
        async with session.delete(userdata / "a") as answer:
            assert answer.status == 204
        for value in ("x" * 12_000, "y" * 12_000):
            async with session.post(alice.url / "settings", json={"a": value}) as answer:
                assert answer.status == 200
        status, error = await write("c", 40_000)
        assert (status, error["details"]) == (413, "stored_bytes")
        row = await proxy.services[ACCOUNTING].usage.today("alice")
        assert row.bytes_up == 12_000 + 15_000 + 2 * 12_009


@pytest.mark.parametrize("rows", ["costs", "days"])
async def test_usage_tells_the_tokens_of_a_member_apart(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    rows: str,
) -> None:
    shown = []
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        directory = proxy.services[MEMBERS]
        await directory.add(Member("anna", role="admin"))
        for number in range(2):
            text, token = await directory.new_token("anna", note=f"bot {number}")
            client = Client(session, proxy.url / "t" / text)
            await client.run(graphs.plain(number))
            shown.append(token.shown)
        _, answer = await client.get("proxy/api/usage", rows=rows)
        assert {row["token"] for row in answer["costs" if rows == "costs" else "usage"]} == set(
            shown
        )
        url = (client.url / "proxy/api/usage").with_query(rows=rows, format="csv")
        async with session.get(url) as answer:
            head, *lines = (line.split(",") for line in (await answer.text()).splitlines())
        assert {line[head.index("token")] for line in lines} == set(shown)


async def test_jobs_and_bytes_are_counted_by_the_token_that_was_used(proxy: Proxy) -> None:
    directory = proxy.services[MEMBERS]
    await directory.add(Member("anna", role="admin"))
    used = {}
    async with aiohttp.ClientSession() as session:
        for number in range(2):
            text, token = await directory.new_token("anna", note=f"bot {number}")
            client = Client(session, proxy.url / "t" / text)
            entry = await client.run(graphs.plain(number))
            picture = await client.view(entry["outputs"]["2"]["images"][0])
            await client.upload("a.png", picture * (number + 1))
            used[token.shown] = (1, 1, len(picture) * (number + 1), len(picture))
        _, answer = await client.get("proxy/api/usage")
    counts = ("submitted", "completed", "bytes_up", "bytes_down")
    rows = {row["token"]: tuple(row[name] for name in counts) for row in answer["usage"]}
    assert rows == used
