"""What `docs/openapi.json` says of `/proxy/api`, beside the answers of a running proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import jsonschema
import openapi
import pytest
from openapi_spec_validator import validate
from stack import TIMEOUT
from team import Team, bearer, running_team

from proxy.api import system
from proxy.api.routes import Route
from proxy.app.server import ROUTES
from proxy.simulator import Simulator

DOCUMENT = json.loads(Path(__file__, "../../../docs/openapi.json").resolve().read_text("utf-8"))


def strict(schema: Any) -> Any:
    """The schema, whose objects may have no fields that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(part) for name, part in schema.items()}
    return {"additionalProperties": False, **found} if "properties" in found else found


def check(method: str, path: str, status: int, body: Any) -> None:
    """Fail unless this is an answer that the document describes."""
    responses = DOCUMENT["paths"][f"/proxy/api/{path}"][method.lower()]["responses"]
    response = responses.get(str(status), responses["default"])
    schema = response["content"]["application/json"]["schema"]
    components = strict(DOCUMENT["components"]["schemas"])
    whole = {**strict(schema), "components": {"schemas": components}}
    jsonschema.validate(body, whole, cls=jsonschema.Draft202012Validator)


def parameters(method: str, path: str) -> set[str]:
    """Return the parameters of the query that the document describes."""
    described = DOCUMENT["paths"][f"/proxy/api/{path}"][method.lower()].get("parameters", [])
    return {found["name"] for found in described if found["in"] == "query"}


class Person:
    """Somebody whose every answer is compared with the document."""

    def __init__(self, team: Team, session: aiohttp.ClientSession, token: str) -> None:
        self.url, self.session, self.headers = team.url, session, bearer(token)

    async def ask(
        self, method: str, path: str, body: Any = None, *, expected: int = 200, **fields: str
    ) -> Any:
        """The answer, to a route whose path has `{NAME}` for some of the fields."""
        query = {name: value for name, value in fields.items() if f"{{{name}}}" not in path}
        assert query.keys() <= parameters(method, path)
        url = (self.url / "proxy/api" / path.format(**fields)).with_query(query)
        async with self.session.request(method, url, json=body, headers=self.headers) as answer:
            assert answer.status == expected, await answer.text()
            if expected == 204:
                assert "204" in DOCUMENT["paths"][f"/proxy/api/{path}"][method.lower()]["responses"]
                return None
            found = await answer.json()
        check(method, path, expected, found)
        return found

    async def submit(self, graph: dict[str, Any]) -> str:
        """Submit a job; its id."""
        url = self.url / "prompt"
        async with self.session.post(url, json={"prompt": graph}, headers=self.headers) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["prompt_id"])

    async def ended(self, id_: str) -> dict[str, Any]:
        """Look at a job until it has ended."""
        async with asyncio.timeout(TIMEOUT):
            while (found := await self.ask("GET", "jobs/{id}", id=id_))["ended"] is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return dict(found)


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path / "data", slots=1) as running:
        yield running


async def jobs(ann: Person, bob: Person) -> None:
    """Look at jobs that wait, run, have failed and have ended well."""
    runs, waits = await ann.submit(graphs.waiting()), await bob.submit(graphs.plain())
    async with asyncio.timeout(TIMEOUT):
        while True:
            state = await ann.ask("GET", "state")
            if state["waiting"] and state["running"] and state["running"][0]["node"]:
                break
            await asyncio.sleep(0.02)
    assert (await ann.ask("GET", "jobs/{id}", id=waits, member="bob"))["state"] == "waiting"
    assert (await ann.ask("GET", "jobs/{id}", id=runs))["ended"] is None
    assert (await ann.ask("GET", "run", id=runs))["nodes"]
    await ann.ask("GET", "preview", expected=204, id=waits, member="bob")
    assert (await ann.ask("GET", "workflow", id=waits, member="bob"))["prompt"]
    await ann.ask("GET", "workflow", expected=400, id=runs, format="png")
    body = {"member": "ann", "id": runs}
    assert (await ann.ask("POST", "jobs/cancel", body))["cancelled"] is True
    ended = await bob.ended(waits)
    assert ended["outputs"]
    failed = await bob.ended(await bob.submit(graphs.raising()))
    assert failed["error"] is not None
    found = await bob.ask("GET", "jobs", limit="1", status="failed")
    assert [job["id"] for job in found["jobs"]] == [failed["id"]]
    assert len((await ann.ask("GET", "jobs"))["jobs"]) == 3
    await bob.ask("GET", "state")
    await ann.ask("GET", "jobs/{id}", expected=404, id="none")
    await bob.ask("GET", "jobs", expected=403, member="ann")


async def reports(ann: Person, bob: Person) -> None:
    """Look at what was used, seen and recorded."""
    await bob.ended(await bob.submit(graphs.plain()))
    assert (await ann.ask("GET", "usage"))["usage"]
    assert (await ann.ask("GET", "usage", rows="costs"))["costs"]
    await ann.ask("GET", "usage", expected=400, rows="weeks")
    await bob.ask("GET", "usage", **{"from": "2026-01-01"})
    await ann.ask("GET", "usage", expected=400, **{"from": "yesterday"})
    await ann.ask("GET", "usage", expected=400, format="png")
    assert (await ann.ask("GET", "audit", limit="5"))["entries"]
    assert (await ann.ask("GET", "cloud-anomalies"))["accounts"]
    await bob.ask("GET", "audit", expected=403)
    await bob.ask("GET", "interface")


async def members(ann: Person, bob: Person) -> None:
    """Add, change and remove a member and its tokens."""
    cleo = {"name": "cleo", "limits": {"jobs_per_day": 3, "denied_classes": ["A*"]}}
    await ann.ask("POST", "members", cleo, expected=201)
    await ann.ask("POST", "members", cleo, expected=409)
    await ann.ask("PATCH", "members/{name}", {"weight": 2}, name="cleo")
    await ann.ask("PATCH", "members/{name}", {"weight": -1}, name="cleo", expected=400)
    made = await ann.ask("POST", "tokens", {"member": "cleo", "expires": "9d"}, expected=201)
    listed = (await ann.ask("GET", "tokens"))["tokens"]
    assert {token["member"] for token in listed} == {"ann", "bob", "cleo"}
    assert any(token["last_used"] for token in listed)
    await ann.ask("DELETE", "tokens/{prefix}", prefix=made["id"], expected=204)
    await ann.ask("DELETE", "members/{name}", name="cleo", expected=204)
    await ann.ask("DELETE", "members/{name}", name="cleo", expected=404)
    assert len((await bob.ask("GET", "members"))["members"]) == 1


@pytest.mark.parametrize("story", [jobs, reports, members], ids=lambda story: story.__name__)
async def test_answers_are_as_they_are_described(
    story: Callable[[Person, Person], Awaitable[None]], team: Team, session: aiohttp.ClientSession
) -> None:
    await story(Person(team, session, team.ann), Person(team, session, team.bob))


async def test_what_takes_some_values_refuses_others(
    team: Team, session: aiohttp.ClientSession
) -> None:
    chosen = [
        (method.upper(), path.removeprefix("/proxy/api/"), parameter["name"])
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if "enum" in parameter["schema"]
    ]
    assert len(chosen) == 4
    ann = Person(team, session, team.ann)
    for method, path, name in chosen:
        in_path = {"id": "none"} if "{id}" in path else {}
        await ann.ask(method, path, expected=400, **in_path, **{name: "moon"})


async def test_events_have_the_state_as_it_is_described(
    team: Team, session: aiohttp.ClientSession
) -> None:
    async with session.get(team.url / "proxy/api/events", headers=bearer(team.ann)) as stream:
        lines = [(await stream.content.readline()).decode().strip() for _ in range(2)]
    assert lines[0] == "event: state"
    check("GET", "state", 200, json.loads(lines[1].removeprefix("data: ")))


def test_the_document_is_openapi() -> None:
    validate(DOCUMENT)
    assert len(
        {found["operationId"] for path in DOCUMENT["paths"].values() for found in path.values()}
    ) == len(openapi.OPERATIONS)


def test_a_route_without_a_description_is_named() -> None:
    routes = [*ROUTES, Route("GET", "/proxy/api/moon", system.get_health)]
    (sentence,) = openapi.undescribed(routes)
    assert sentence.startswith("GET /proxy/api/moon is not in docs/openapi.json: describe what it")
    gone = [route for route in ROUTES if route.path != "/proxy/api/state"]
    (sentence,) = openapi.undescribed(gone)
    assert sentence.startswith("docs/openapi.py describes GET /proxy/api/state, which is no route")
    assert openapi.undescribed(ROUTES) == []


def test_a_field_that_is_not_described_is_found() -> None:
    check("POST", "jobs/cancel", 200, {"cancelled": True})
    with pytest.raises(jsonschema.ValidationError, match="moon"):
        check("POST", "jobs/cancel", 200, {"cancelled": True, "moon": 1})
