"""The calls to a deployment: streams, submissions and files, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from deployments import framed, stepped
from structlog.testing import capture_logs
from waiting import until

from proxy.cloud.errors import (
    CloudAmbiguous,
    CloudFilesGone,
    CloudRefused,
    CloudUnauthorized,
    CloudUnreachable,
)
from proxy.cloud.event_socket import Timeouts
from proxy.cloud.observer import Observer
from proxy.cloud.resilience import RetryPolicy
from proxy.cloud.upstream import Prompt
from proxy.cloud.v2.catalog import NodeList
from proxy.cloud.v2.client import DeploymentClient
from proxy.cloud.v2.sse import MAX_FRAME_BYTES, FrameParser, OversizedFrameError, StreamFrame
from proxy.simulator.deployment import SimulatedDeployment
from proxy.translate.snapshots import Snapshot
from tests.cloud.conftest import Serve, answer


@pytest.fixture
async def client(
    deployment: SimulatedDeployment, tmp_path: Path
) -> AsyncIterator[DeploymentClient]:
    listed = tmp_path / "object_info.json"
    listed.write_bytes(deployment.object_info)
    client = DeploymentClient(
        deployment.base_url, deployment.key, NodeList(listed), retries=RetryPolicy(budget=0.2)
    )
    await client.start()
    yield client
    await client.close()


async def none_known(_: Any) -> set[str]:
    return set()


class Heard:
    """What an observer heard."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.frames: list[Any] = []
        self.snapshots: list[Snapshot] = []

    @property
    def observer(self) -> Observer:
        return Observer(
            lambda type_, data: self.events.append((type_, data)),
            self.frames.append,
            self.snapshots.append,
            due=lambda: True,
        )


async def ended(client: DeploymentClient, cloud_id: str) -> Snapshot:
    async with asyncio.timeout(20):
        while True:
            snapshot = await client.job(cloud_id)
            assert snapshot is not None
            if snapshot.ended and snapshot.settled:
                return snapshot
            await asyncio.sleep(0.02)


# --- streams -------------------------------------------------------------------------------


def test_frames_are_the_same_however_their_bytes_are_cut() -> None:
    data = 'event: status\r\ndata: {"é": 1}\n\n: keepalive\n\ndata: a\ndata: b\n\n'.encode()
    whole = list(FrameParser().feed(data))
    assert whole == [StreamFrame("status", '{"é": 1}'), StreamFrame("message", "a\nb")]
    parser = FrameParser()
    assert [frame for byte in data for frame in parser.feed(bytes([byte]))] == whole


def test_a_frame_without_an_end_is_given_up() -> None:
    parser = FrameParser()
    list(parser.feed(b"x" * MAX_FRAME_BYTES))
    with pytest.raises(OversizedFrameError):
        list(parser.feed(b"x"))


async def test_a_stream_tells_nodes_and_the_end(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    deployment.switches.pace = 0.02
    heard = Heard()
    feed = client.events(heard.observer, Timeouts())
    await feed.start()
    submission = await client.submit(Prompt(stepped(10), {}, mark="m"))
    feed.follow(submission.cloud_id, stepped(10))
    await until(lambda: any(snapshot.ended for snapshot in heard.snapshots))
    await feed.close()
    assert "progress" in dict(heard.events)
    assert feed.connected


async def test_a_dropped_stream_is_opened_again(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    deployment.switches.pace = 0.05
    heard = Heard()
    feed = client.events(heard.observer, Timeouts())
    await feed.start()
    submission = await client.submit(Prompt(stepped(40), {}, mark="m"))
    feed.follow(submission.cloud_id, stepped(40))
    await until(lambda: "progress" in dict(heard.events))
    deployment.drop_streams()
    await until(lambda: any(snapshot.ended for snapshot in heard.snapshots))
    await feed.close()
    assert deployment.calls["GET /api/v2/jobs/{id}/events"] >= 2


async def test_streams_that_are_lost_at_once_share_a_line(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    deployment.switches.pace = 0.2
    feed = client.events(Heard().observer, Timeouts())
    await feed.start()
    for number in range(3):
        submission = await client.submit(Prompt(stepped(40), {}, mark=f"m{number}"))
        feed.follow(submission.cloud_id, stepped(40))
    await until(lambda: deployment.calls["GET /api/v2/jobs/{id}/events"] == 3)
    await client.job(submission.cloud_id)
    with capture_logs() as logs:
        deployment.drop_streams()
        await until(lambda: any(log["event"] == "failure_ended" for log in logs))
    await feed.close()
    assert [log["event"] for log in logs] == ["stream_lost", "failure_ended"]
    assert logs[1]["count"] == 3


@pytest.mark.parametrize("switch", ["streaming", "streams"])
async def test_without_a_stream_a_job_is_read(
    client: DeploymentClient, deployment: SimulatedDeployment, switch: str
) -> None:
    setattr(deployment.switches, switch, False if switch == "streaming" else 0)
    heard = Heard()
    feed = client.events(heard.observer, Timeouts())
    await feed.start()
    submission = await client.submit(Prompt(framed(), {}, mark="m"))
    feed.follow(submission.cloud_id, framed())
    snapshot = await ended(client, submission.cloud_id)
    await feed.close()
    assert snapshot.outputs is not None
    assert list(snapshot.outputs) == ["3"]
    assert [type_ for type_, _ in heard.events][-1] == "progress_state"


async def test_live_jobs_are_those_that_run(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    deployment.switches.pace = 0.5
    running = await client.submit(Prompt(stepped(40), {}, mark="a"))
    done = await client.submit(Prompt(framed(), {}, mark="b"))
    await ended(client, done.cloud_id)
    live = await client.live([running.cloud_id, done.cloud_id])
    assert [job.cloud_id for job in live] == [running.cloud_id]


async def test_one_job_that_cannot_be_read_hides_no_other(serve: Serve, tmp_path: Path) -> None:
    async def reply(request: web.Request) -> web.Response:
        if request.path.endswith("/b"):
            return web.json_response({"id": "b", "status": "running"})
        return web.Response(status=500)

    server = await serve(reply)
    client = DeploymentClient(server.url, "key", NodeList(tmp_path / "object_info.json"))
    await client.start()
    assert [job.cloud_id for job in await client.live(["a", "b"])] == ["b"]
    assert len(server.seen) == 3
    with pytest.raises(CloudRefused):
        await client.live(["a"])
    await client.close()


# --- submissions ---------------------------------------------------------------------------


async def test_the_key_is_a_bearer_and_nothing_else(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    await client.submit(Prompt(framed(), {}, mark="m"))
    (request,) = deployment.requests
    assert request.credentials == ("Authorization",)


async def test_a_mark_is_taken_once_and_found(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    first = await client.submit(Prompt(framed(), {}, mark="m"))
    with pytest.raises(CloudAmbiguous) as caught:
        await client.submit(Prompt(framed(), {}, mark="m", again=True))
    assert caught.value.refused is not None
    assert await client.find("m", none_known, since=0) == first.cloud_id
    assert len(deployment.jobs) == 1


async def test_a_refused_mark_is_free_again(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    deployment.switches.state = "starting"
    with pytest.raises(CloudRefused) as caught:
        await client.submit(Prompt(framed(), {}, mark="m"))
    assert caught.value.retry_after == 1
    deployment.switches.state = "ready"
    await client.submit(Prompt(framed(), {}, mark="m"))


async def test_a_lost_answer_may_be_sent_again_there(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    deployment.switches.lose_answers = 1
    with pytest.raises(CloudAmbiguous):
        await client.submit(Prompt(framed(), {}, mark="m"))
    assert client.may_repeat


async def test_a_job_of_another_mark_is_not_found(client: DeploymentClient) -> None:
    await client.submit(Prompt(framed(), {}, mark="m"))
    assert await client.find("other", none_known, since=0) is None


@pytest.mark.parametrize("switch", ["labels", "lists"])
async def test_without_labels_or_lists_nothing_is_found(
    client: DeploymentClient, deployment: SimulatedDeployment, switch: str
) -> None:
    setattr(deployment.switches, switch, False)
    await client.submit(Prompt(framed(), {}, mark="m"))
    assert await client.find("m", none_known, since=0) is None


async def test_labels_that_were_refused_are_sent_again_with_the_next_job(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    deployment.switches.labels = False
    await client.submit(Prompt(framed(), {}, mark="m"))
    deployment.switches.labels = True
    sent = await client.submit(Prompt(framed(), {}, mark="n"))
    assert await client.find("n", none_known, since=0) == sent.cloud_id


async def test_a_large_workflow_is_not_sent(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    graph = framed()
    graph["1"]["inputs"]["text"] = "x" * 10_000_000
    with pytest.raises(CloudRefused) as caught:
        await client.submit(Prompt(graph, {}, mark="m"))
    assert caught.value.status == 413
    assert deployment.requests == []


async def test_a_submission_has_the_trace_of_its_request(serve: Serve, tmp_path: Path) -> None:
    cloud = await serve(answer({"id": "a"}))
    client = DeploymentClient(cloud.url, "key", NodeList(tmp_path / "none"))
    await client.start()
    await client.submit(Prompt({}, {}, mark="m", trace="00-a-b-01"))
    await client.close()
    assert cloud.seen[0].headers["traceparent"] == "00-a-b-01"


async def test_another_key_is_unauthorized(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    client.use_key("another")
    with pytest.raises(CloudUnauthorized):
        await client.check_key()
    client.use_key(deployment.key)
    await client.check_key()


async def test_a_deployment_that_is_away_has_taken_nothing(tmp_path: Path) -> None:
    async with SimulatedDeployment() as deployment:
        url = deployment.base_url
    client = DeploymentClient(url, "key", NodeList(tmp_path / "none"))
    await client.start()
    with pytest.raises(CloudUnreachable) as caught:
        await client.submit(Prompt(framed(), {}, mark="m"))
    await client.close()
    assert not caught.value.sent


async def test_cancel_tells_whether_the_job_ends_by_it(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    deployment.switches.pace = 0.05
    running = await client.submit(Prompt(stepped(1000), {}, mark="a"))
    await deployment.wait_for("running")
    assert await client.cancel(running.cloud_id)
    assert (await ended(client, running.cloud_id)).status == "cancelled"
    deployment.switches.pace = 0.0
    done = await client.submit(Prompt(framed(), {}, mark="b"))
    await ended(client, done.cloud_id)
    assert not await client.cancel(done.cloud_id)
    with pytest.raises(CloudRefused, match="404"):  # it may not be known yet
        await client.cancel("00000000-0000-0000-0000-000000000000")


async def test_what_expires_is_cancelled_also_if_the_answer_to_the_cancel_is_lost(
    serve: Serve, tmp_path: Path
) -> None:
    expired = answer({"id": "j", "status": "expired"})
    script = await serve(answer(status=504, text="<html>"), expired, expired)
    client = DeploymentClient(
        script.url, "key", NodeList(tmp_path / "none"), retries=RetryPolicy(budget=0.0)
    )
    await client.start()
    with pytest.raises(CloudRefused):
        await client.cancel("j")
    assert (await ended(client, "j")).status == "cancelled"
    await client.close()


# --- files ---------------------------------------------------------------------------------


async def uploaded(client: DeploymentClient, path: Path) -> str:
    return await client.upload(
        path, hash_="0" * 64, filename="a b.png", content_type="image/png", picture=True
    )


async def test_an_input_is_held_until_it_expires(
    client: DeploymentClient, deployment: SimulatedDeployment, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"bytes")
    name = await uploaded(client, path)
    assert await client.holds(name)
    client.uploads.forget()
    deployment.workers.assets.clear()
    assert not await client.holds(name)


async def test_an_input_that_ends_soon_is_not_held(
    client: DeploymentClient, deployment: SimulatedDeployment, tmp_path: Path
) -> None:
    deployment.switches.input_life = 60.0
    path = tmp_path / "x"
    path.write_bytes(b"bytes")
    assert not await client.holds(await uploaded(client, path))


async def test_a_submission_with_a_gone_input_says_so(client: DeploymentClient) -> None:
    graph = framed()
    graph["2"]["inputs"]["image"] = client.reference("gone.png", "input")
    with pytest.raises(CloudFilesGone):
        await client.submit(Prompt(graph, {}, mark="m"))


async def test_bytes_come_from_the_storage_without_the_key(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    submission = await client.submit(Prompt(framed(), {}, mark="m"))
    snapshot = await ended(client, submission.cloud_id)
    name = next(iter((snapshot.outputs or {}).values()))["images"][0]["filename"]
    async with client.download(name, "output", 8) as download:
        data = b"".join([chunk async for chunk in download.chunks()])
    assert data[:8] != b"\x89PNG\r\n\x1a\n"
    assert deployment.storage.leaks == []
    assert deployment.storage.requests[-1].credentials == ()


async def test_the_release_of_later_jobs_makes_an_older_list_outdated(
    client: DeploymentClient, deployment: SimulatedDeployment
) -> None:
    await client.submit(Prompt(framed(), {}, mark="a"))
    assert (await client.account_plan()).notice == ""
    deployment.switches.release = 4
    await client.submit(Prompt(framed(), {}, mark="b"))
    assert "Runs release 4" in (await client.account_plan()).notice
