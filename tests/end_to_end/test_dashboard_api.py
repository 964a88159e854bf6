"""What the dashboard is made of, as programs see it: state, events, cancelling."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from stack import TIMEOUT
from team import Team, bearer, running_team

from proxy.jobs.engine_calls import OverviewAnswered
from proxy.jobs.service import JobService
from proxy.simulator import Simulator


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path, slots=1) as team:
        yield team


async def submit(session: aiohttp.ClientSession, team: Team, token: str, graph: Any) -> str:
    async with session.post(
        team.url / "prompt", json={"prompt": graph}, headers=bearer(token)
    ) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["prompt_id"])


async def state(session: aiohttp.ClientSession, team: Team, token: str) -> dict[str, Any]:
    async with session.get(team.url / "proxy/api/state", headers=bearer(token)) as answer:
        assert answer.status == 200
        return dict(await answer.json())


async def events(stream: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """The server-sent events, as name and data."""
    async with asyncio.timeout(TIMEOUT):
        name = ""
        async for line in stream.content:
            field, _, value = line.decode().rstrip("\n").partition(":")
            if field == "event":
                name = value.strip()
            elif field == "data":
                yield name, json.loads(value) if value.strip() else None


async def test_an_admin_sees_all_and_a_member_the_own(
    simulator: Simulator, team: Team, session: aiohttp.ClientSession
) -> None:
    runs = await submit(session, team, team.ann, graphs.waiting())
    waits = await submit(session, team, team.bob, graphs.waiting())
    seen = await state(session, team, team.ann)
    assert [job["id"] for job in seen["running"]] == [runs]
    assert [(job["id"], job["turn"], job["reason"]) for job in seen["waiting"]] == [
        (waits, 1, "all slots are in use")
    ]
    assert [account["used"] for account in seen["accounts"]] == [1]
    assert {row["member"] for row in seen["usage"]} == {"ann", "bob"}
    assert seen["viewer"] == {"name": "ann", "role": "admin", "gateway": True, "signed_in": False}
    own = await state(session, team, team.bob)
    assert (own["running"], own["accounts"]) == ([], [])
    assert [job["id"] for job in own["waiting"]] == [waits]
    assert {row["member"] for row in own["usage"]} == {"bob"}


async def test_events_follow_a_job_to_its_failure(
    team: Team, session: aiohttp.ClientSession
) -> None:
    url = team.url / "proxy/api/events"
    async with session.get(url, headers=bearer(team.ann)) as stream:
        assert stream.content_type == "text/event-stream"
        messages = events(stream)
        before = (await anext(messages))[1]["history"]
        failing = await submit(session, team, team.bob, graphs.raising())
        async for _, seen in messages:
            if seen["history"] != before and not seen["running"]:
                break
        url = team.url / "proxy/api/jobs"
        async with session.get(url, headers=bearer(team.ann)) as answer:
            (failure,) = (await answer.json())["jobs"]
        assert (failure["id"], failure["member"], failure["error"]["message"]) == (
            failing,
            "bob",
            "boom",
        )
    async with session.delete(url, headers=bearer(team.ann)) as answer:
        assert answer.status == 405


async def test_the_events_end_with_the_access(team: Team, session: aiohttp.ClientSession) -> None:
    url = team.url / "proxy/api/events"
    async with (
        session.get(url, headers=bearer(team.bob)) as bobs,
        session.get(url, headers=bearer(team.ann)) as anns,
    ):
        bob, ann = events(bobs), events(anns)
        await anext(bob)
        await anext(ann)
        await team.members.change("bob", disabled=True)
        async for name, _ in ann:
            if name == "members":
                break
        async for _ in bob:
            pass


async def test_many_streams_of_a_member_read_each_state_once(
    team: Team, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, reads, overview = team.url / "proxy/api/events", 0, JobService.overview

    def counted(service: JobService, *asked: Any) -> OverviewAnswered:
        nonlocal reads
        reads += 1
        return overview(service, *asked)

    async with contextlib.AsyncExitStack() as opened:
        streams = []
        for _ in range(20):
            opening = session.get(url, headers=bearer(team.bob))
            streams.append(events(await opened.enter_async_context(opening)))
            await anext(streams[-1])
        monkeypatch.setattr(JobService, "overview", counted)
        await submit(session, team, team.bob, graphs.waiting())
        for stream in streams:
            async for _, seen in stream:
                if seen["running"]:
                    break
    assert 0 < reads < 20


async def test_an_admin_who_becomes_a_user_sees_its_own_jobs_only(
    team: Team, session: aiohttp.ClientSession
) -> None:
    await team.members.change("bob", role="admin")
    async with session.get(team.url / "proxy/api/events", headers=bearer(team.bob)) as stream:
        messages = events(stream)
        assert (await anext(messages))[1]["viewer"]["role"] == "admin"
        await team.members.change("bob", role="user")
        async for name, seen in messages:
            if name == "state":
                assert (seen["viewer"]["role"], seen["accounts"]) == ("user", [])
                break


async def test_head_brings_no_stream(team: Team, session: aiohttp.ClientSession) -> None:
    url = team.url / "proxy/api/events"
    async with session.head(url, headers=bearer(team.ann)) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")


@pytest.mark.parametrize("who", ["ann", "bob"])
async def test_an_admin_cancels_for_others_and_a_member_for_nobody_else(
    team: Team, session: aiohttp.ClientSession, who: str
) -> None:
    other = "bob" if who == "ann" else "ann"
    prompt_id = await submit(session, team, getattr(team, other), graphs.waiting())
    async with session.post(
        team.url / "proxy/api/jobs/cancel",
        json={"member": other, "id": prompt_id},
        headers=bearer(getattr(team, who)),
    ) as answer:
        assert answer.status == (200 if who == "ann" else 403)
        parsed = await answer.json()
    assert (
        parsed == {"cancelled": True} if who == "ann" else parsed["error"]["type"] == "admins_only"
    )


@pytest.mark.parametrize("body", [{}, {"member": "ann"}, {"member": 1, "id": "x"}, []])
async def test_what_names_no_job_is_400(
    team: Team, session: aiohttp.ClientSession, body: Any
) -> None:
    async with session.post(
        team.url / "proxy/api/jobs/cancel", json=body, headers=bearer(team.ann)
    ) as answer:
        assert answer.status == 400
