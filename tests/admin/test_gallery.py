"""What the dashboard shows of ended jobs and of the last day, over the whole stack."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from PIL import Image
from stack import TIMEOUT, Client, running_proxy, serving
from team import Team, bearer, running_team

from proxy.admin import members
from proxy.app.server import Server
from proxy.simulator import Simulator


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path / "data") as running:
        yield running


class Person:
    """A member who runs jobs and looks at the dashboard."""

    def __init__(self, team: Team, session: aiohttp.ClientSession, token: str) -> None:
        self.url, self.session, self.headers = team.url, session, bearer(token)

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        url = (self.url / "proxy/api" / path).with_query(query)
        async with self.session.get(url, headers=self.headers) as answer:
            json = answer.content_type == "application/json"
            return answer.status, await (answer.json() if json else answer.read())

    async def run(self, graph: dict[str, Any], **more: Any) -> str:
        """Submit a job and wait until it has ended; its id."""
        body = {"prompt": graph, **more}
        async with self.session.post(
            self.url / "prompt", json=body, headers=self.headers
        ) as answer:
            assert answer.status == 200, await answer.text()
            id_ = str((await answer.json())["prompt_id"])
        async with asyncio.timeout(TIMEOUT):
            while (await self.get(f"jobs/{id_}"))[1]["ended"] is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return id_

    async def listed(self, **query: str) -> list[str]:
        status, answer = await self.get("jobs", **query)
        assert status == 200, answer
        return [job["id"] for job in answer["jobs"]]


@pytest.fixture
def person(team: Team, session: aiohttp.ClientSession) -> Callable[[str], Person]:
    return lambda token: Person(team, session, token)


async def test_the_last_jobs_with_label_cost_and_error(
    team: Team, person: Callable[[str], Person]
) -> None:
    ann, bob = person(team.ann), person(team.bob)
    workflow = {"extra_pnginfo": {"workflow": {"name": "Portraits"}}}
    made = await bob.run(graphs.sampled(), extra_data=workflow)
    failed = await ann.run(graphs.raising())
    _, answer = await ann.get("jobs")
    first, second = sorted(answer["jobs"], key=lambda job: str(job["id"] != failed))
    assert (first["id"], first["state"], first["label"]) == (failed, "failed", "EmptyImage")
    assert first["error"] == {
        "type": "ValueError",
        "message": "boom",
        "node": "3",
        "class": "SimulatorRaise",
    }
    assert (second["id"], second["member"], second["label"]) == (made, "bob", "Portraits")
    assert (second["account"], second["thumbnail"]) == ("default", True)
    assert [part["source"] for part in second["cost"]["parts"]] == ["estimated"]
    assert second["created"] <= second["started"] <= second["ended"]


async def test_jobs_are_filtered_searched_and_paged(
    team: Team, person: Callable[[str], Person]
) -> None:
    ann, bob = person(team.ann), person(team.bob)
    made = [await bob.run(graphs.plain(color)) for color in range(2)]
    failed = await ann.run(graphs.raising())
    assert await ann.listed(status="failed") == [failed]
    assert sorted(await ann.listed(member="bob")) == sorted(made)
    assert await ann.listed(q=made[0][:8].upper()) == [made[0]]
    found = await ann.listed(q="emptyimage", member="bob", status="completed")
    assert sorted(found) == sorted(made)
    assert await ann.listed(q="nothing like it") == []
    seen: list[str] = []
    query = {"limit": "1"}
    while True:
        _, page = await ann.get("jobs", **query)
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        query["before"] = page["next"]
    assert seen == await ann.listed()
    assert sorted(seen) == sorted([failed, *made])


@pytest.mark.parametrize(
    "query",
    [
        {"status": "odd"},
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "x"},
        {"before": "1"},
        {"before": "9" * 16 + ".1"},
    ],
)
async def test_a_page_that_cannot_be_is_400(
    team: Team, person: Callable[[str], Person], query: dict[str, str]
) -> None:
    status, answer = await person(team.ann).get("jobs", **query)
    assert (status, answer["error"]["type"]) == (400, f"invalid_{next(iter(query))}")


async def test_a_job_node_by_node(
    team: Team, person: Callable[[str], Person], simulator: Simulator
) -> None:
    simulator.switches.pace = 0.1
    bob = person(team.bob)
    job = await bob.run(graphs.sampled(steps=20))
    _, shown = await bob.get(f"jobs/{job}")
    nodes = {node["id"]: node for node in shown["nodes"]}
    assert nodes["3"]["class"] == nodes["3"]["title"] == "KSampler"
    assert max(nodes.values(), key=lambda node: node["ran"] or 0)["id"] == "3"
    ran = [node for node in shown["nodes"] if node["began"] is not None]
    assert [node["id"] for node in ran][-2:] == ["8", "9"]
    assert sum(node["ran"] for node in ran) <= shown["ended"] - shown["created"]
    assert [
        (output["number"], output["node"], output["thumbnail"]) for output in shown["outputs"]
    ] == [(0, "9", True)]
    again = await bob.run(graphs.sampled(steps=20))
    _, shown = await bob.get(f"jobs/{again}")
    assert any(node["cached"] and node["began"] is None for node in shown["nodes"])


async def test_a_job_that_runs_is_shown_with_its_nodes(
    team: Team, session: aiohttp.ClientSession, person: Callable[[str], Person]
) -> None:
    bob = person(team.bob)
    async with session.post(
        team.url / "prompt", json={"prompt": graphs.waiting()}, headers=bob.headers
    ) as answer:
        job = (await answer.json())["prompt_id"]
    status, shown = await bob.get(f"jobs/{job}")
    assert (status, shown["ended"], len(shown["nodes"])) == (200, None, 3)
    assert (await bob.get("jobs/nothing"))[0] == 404
    assert (await bob.get("run"))[0] == 400


async def test_a_thumbnail_is_small_and_of_the_output(
    team: Team, person: Callable[[str], Person]
) -> None:
    bob = person(team.bob)
    job = await bob.run(graphs.plain(0xFF0000, size=1200))
    for query in ({}, {"output": "0"}):
        status, data = await bob.get("thumbnail", id=job, **query)
        assert status == 200
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("WEBP", (512, 512))
            red, green, blue = picture.convert("RGB").getpixel((9, 9))  # type: ignore[misc]
            assert (red > 240, green < 16, blue < 16) == (True, True, True)
    assert (await bob.get("thumbnail", id=job, output="1"))[0] == 404
    assert (await bob.get("thumbnail", id=job, output="x"))[0] == 400
    assert (await bob.get("thumbnail", id="nothing"))[0] == 404


async def test_a_member_is_shown_nothing_of_another(
    team: Team, person: Callable[[str], Person]
) -> None:
    ann, bob = person(team.ann), person(team.bob)
    theirs = await ann.run(graphs.plain(0x123456))
    own = await bob.run(graphs.plain(0x654321))
    assert await bob.listed() == await bob.listed(member="bob") == [own]
    for path, query in (
        ("jobs", {}),
        (f"jobs/{theirs}", {}),
        ("thumbnail", {"id": theirs}),
        ("run", {"id": theirs}),
        ("preview", {"id": theirs}),
        ("workflow", {"id": theirs}),
        ("members", {}),
        ("tokens", {}),
    ):
        status, answer = await bob.get(path, member="ann", **query)
        assert (status, answer["error"]["type"]) == (403, "admins_only")
        assert await bob.get(path, member="nobody", **query) == (status, answer)
    assert (await bob.get(f"jobs/{theirs}"))[0] == 404
    for path, status in (("thumbnail", 404), ("preview", 204), ("workflow", 404)):
        assert (await bob.get(path, id=theirs))[0] == status
    assert (await bob.get("run", id=theirs))[1]["progress"] is None
    for path in ("jobs", "members", "tokens", "state"):
        status, answer = await bob.get(path)
        assert status == 200
        assert "ann" not in str(answer)
    assert (await ann.get("thumbnail", id=own, member="bob"))[0] == 200
    assert (await ann.get(f"jobs/{own}", member="bob"))[1]["label"] == "EmptyImage"


async def test_what_was_sent_is_a_file_without_the_id_of_a_socket(
    team: Team, person: Callable[[str], Person]
) -> None:
    bob = person(team.bob)
    workflow = {"nodes": [], "version": 0.4}
    sent = {"extra_pnginfo": {"workflow": workflow}, "client_id": "socket"}
    job = await bob.run(graphs.plain(), extra_data=sent)
    _, whole = await bob.get("workflow", id=job)
    assert (whole["prompt"], whole["workflow"]) == (graphs.plain(), workflow)
    assert "client_id" not in whole["extra_data"]
    assert (await bob.get("workflow", id=job, format="interface"))[1] == workflow
    bare = await bob.run(graphs.plain(2))
    assert (await bob.get("workflow", id=bare, format="api"))[1] == graphs.plain(2)
    status, refusal = await bob.get("workflow", id=bare, format="interface")
    assert (status, refusal["error"]["type"]) == (404, "no_workflow")
    assert (await bob.get("workflow", id=bare, format="other"))[0] == 400


async def test_a_cost_says_what_is_reported_and_what_is_estimated(
    team: Team, person: Callable[[str], Person]
) -> None:
    graph = {
        "1": {
            "class_type": "FluxProUltraImageNode",
            "inputs": {
                "prompt": "a cat",
                "prompt_upsampling": False,
                "seed": 1,
                "aspect_ratio": "1:1",
                "raw": False,
            },
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    bob = person(team.bob)
    job = await bob.run(graph)
    _, answer = await bob.get("jobs")
    (listed,) = answer["jobs"]
    seconds = (listed["ended"] - listed["started"]) / 1000
    gpu, node = listed["cost"]["parts"]
    assert (gpu["class"], gpu["source"]) == ("", "estimated")
    assert gpu["credits"] == pytest.approx(0.27 * seconds, abs=1e-6)
    assert node == {
        "class": "FluxProUltraImageNode",
        "nodes": 1,
        "credits": 10.55,  # $0.05
        "source": "reported",
    }
    assert listed["cost"]["credits"] == pytest.approx(gpu["credits"] + 10.55)
    assert listed["cost"]["source"] == "estimated"
    assert (await bob.get(f"jobs/{job}"))[1]["cost"] == listed["cost"]
    _, costs = await bob.get("usage", rows="costs")
    assert [
        (row["node_class"], row["source"], row["credits"], row["nodes"]) for row in costs["costs"]
    ] == [
        ("", "estimated", gpu["credits"], 0),
        ("FluxProUltraImageNode", "reported", 10.55, 1),
    ]
    (day,) = (await bob.get("usage"))[1]["usage"]
    assert (day["credits_estimated"], day["credits_reported"]) == (gpu["credits"], 10.55)


async def test_the_admin_listener_has_no_web_interface_to_link_to(
    team: Team, session: aiohttp.ClientSession
) -> None:
    server = Server(team.proxy.services, stop_timeout=0.5, admin=True)
    async with serving(server) as address:
        url = f"{address}/proxy"
        async with session.get(f"{url}/api/state", headers=bearer(team.ann)) as answer:
            assert (await answer.json())["server"]["interface"] is False
        async with session.get(f"{url}/page/app.js", headers=bearer(team.ann)) as answer:
            assert answer.content_type == "text/javascript"
        async with session.get(f"{url}/page/none.js", headers=bearer(team.ann)) as answer:
            assert answer.status == 404


async def test_without_members_everything_is_ones_own(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        client = Client(session, proxy.url)
        entry = await client.run(graphs.plain())
        _, answer = await client.get("proxy/api/jobs")
        (job,) = answer["jobs"]
        assert (job["member"], job["id"]) == ("local", entry["prompt"][1])
        _, state = await client.get("proxy/api/state")
        assert state["viewer"]["role"] == "admin"
        assert state["server"]["simulated"] is False
        assert (await client.get("proxy/api/tokens"))[1] == {"tokens": []}


async def test_a_member_makes_and_revokes_own_tokens_that_live_no_longer(
    team: Team, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, token = await team.members.new_token("bob", lifetime=3600)
    url, headers = team.url / "proxy/api/tokens", bearer(short)
    for wanted in ({}, {"expires": "90d"}, {"expires": "1m"}):
        body = {"member": "bob", "note": "bot", **wanted}
        async with session.post(url, json=body, headers=headers) as answer:
            assert answer.status == 201
            made = await answer.json()
        assert made["expires"] <= token.expires
        found = team.members.access(made["token"])
        assert found is not None
        assert found.member == team.members.get("bob")
    async with session.post(url, json={"note": "mine"}, headers=headers) as answer:
        assert (answer.status, (await answer.json())["member"]) == (201, "bob")
    async with session.delete(url / made["id"], headers=headers) as answer:
        assert answer.status == 204
    ann = team.members.tokens("ann")[0].id
    for prefix in (ann, "zzzzzzzz", ""):
        async with session.delete(url / f"ccp_{prefix}", headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["type"]) == (403, "admins_only")
    assert team.members.access(team.ann) is not None
    monkeypatch.setattr(members, "MAX_OWN_TOKENS", len(team.members.tokens("bob")))
    async with session.post(url, json={"member": "bob"}, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (409, "too_many_tokens")
