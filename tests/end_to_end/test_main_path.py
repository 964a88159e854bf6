"""Upload, submit, follow, fetch: through the proxy, on the simulator, over every unknown of it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from PIL import Image
from stack import Client, Listener, bare, running_proxy

from proxy.simulator import Simulator, Switches

UNKNOWNS: list[dict[str, Any]] = [
    {},
    {"preview": "metadata_with_type"},
    {"preview": "plain"},
    {"preview": "none"},
    {"preview_follows_flags": True},
    {"preview_format": "png"},
    {"preview_format": "webp"},
    {"feature_flags": "never"},
    {"text_frames": "long"},
    {"cached_when_empty": True},
    {"executing_null": "before"},
    {"executing_null": "never"},
    {"final_status": "before"},
    {"timestamps": True},
    {"progress_state": "full"},
    {"progress_state": "none"},
    {"notifications": False},
    {"foreign_messages": True},
    {"late_answer": 0.2},
    {"answer_after_first_event": True},
    {"late_detail": 0.3},
    {"late_detail": 0.3, "late_detail_form": "no_outputs"},
    {"display_name": False},
    {"executed_display_name": True},
    {"executed_names": "display"},
    {"output_ids": True},
    {"output_subfolder": "display_name"},
    {"output_subfolder": "nowhere"},
    {"create_time": "s"},
    {"queue_prompt": "wrapper"},
    {"upload_names": "bare"},
    {"upload_names": "prefixed"},
    {"upload_names": "upper"},
    {"annotated_names": False},
    {"honour_prompt_id": True},
    {"echo_client_id": True},
    {"storage_content_type": False},
    {"storage_range": False},
    {"cache_nodes": False},
]


@pytest.fixture(params=UNKNOWNS, ids=lambda values: ",".join(f"{k}={v}" for k, v in values.items()))
def switched(request: pytest.FixtureRequest, simulator: Simulator) -> Switches:
    simulator.switches.update(request.param)
    return simulator.switches


def assert_well_formed(listener: Listener, prompt_id: str, end: str = "execution_success") -> None:
    """The order of a local ComfyUI."""
    types = listener.types()
    assert types[:2] == ["execution_start", "execution_cached"]
    assert types[-2:] == [end, "executing"]
    assert types.count(end) == 1
    for kind, data in listener.received:
        if kind not in ("status", "binary"):
            assert data["prompt_id"] == prompt_id


async def test_a_workflow_runs_as_on_a_local_comfyui(switched: Switches, client: Client) -> None:
    uploaded = await client.upload("cat.png", graphs.png((10, 20, 30)))
    assert bare(uploaded) == {"name": "cat.png", "subfolder": "", "type": "input"}
    async with client.listening({"supports_preview_metadata": True}) as listener:
        sampled = await client.submit(graphs.sampled(steps=3))
        await listener.until_end(sampled)
        assert_well_formed(listener, sampled)
        assert len(listener.of("progress")) >= 3
        expected = 0 if switched.preview == "none" else 3
        assert len(listener.of("binary")) == expected
        for frame in listener.of("binary"):
            assert frame[:4] == b"\x00\x00\x00\x04"
        listener.received.clear()
        inverted = await client.submit(graphs.inverted("cat.png"))
        await listener.until_end(inverted)
        assert_well_formed(listener, inverted)
    entry = await client.history(inverted)
    outputs = entry["outputs"]
    assert outputs == {data["node"]: data["output"] for data in listener.of("executed")}
    assert entry["prompt"][2] == graphs.inverted("cat.png")
    saved, preview = outputs["4"]["images"][0], outputs["3"]["images"][0]
    assert bare(saved) == {"filename": "inverted_00001_.png", "subfolder": "", "type": "output"}
    assert preview["type"] == "temp"
    picture = Image.open(io.BytesIO(await client.view(saved)))
    assert picture.convert("RGB").getpixel((0, 0)) == (245, 235, 225)
    picture = Image.open(io.BytesIO(await client.view(preview)))
    assert picture.convert("RGB").getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("detail", ["object", "string"])
@pytest.mark.parametrize("node", [True, False])
@pytest.mark.parametrize("late", [0.0, 0.3])
async def test_a_failure_names_its_node(
    simulator: Simulator, client: Client, detail: str, node: bool, late: float
) -> None:
    simulator.switches.update({"error_detail": detail, "error_node": node, "late_detail": late})
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.raising())
        await listener.until_end(prompt_id)
    assert_well_formed(listener, prompt_id, "execution_error")
    error = listener.of("execution_error")[0]
    assert (error["node_id"], error["node_type"]) == ("3", "SimulatorRaise")
    assert error["exception_message"].endswith("\n")
    entry = await client.history(prompt_id)
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["completed"] is False
    assert entry["status"]["messages"][-1] == ["execution_error", error]


@pytest.mark.parametrize("messages", [True, False])
async def test_an_interrupted_run_ends_as_one(
    simulator: Simulator, client: Client, messages: bool
) -> None:
    simulator.switches.interrupted_running = messages
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.waiting())
        await listener.until("executing", node="2")
        status, body = await client.post("interrupt", {})
        assert (status, body) == (200, "")
        await listener.until_end(prompt_id)
    assert_well_formed(listener, prompt_id, "execution_interrupted")
    told_of = listener.of("execution_interrupted")[0]
    assert (told_of["node_id"], told_of["node_type"]) == ("2", "SimulatorWait")
    entry = await client.history(prompt_id)
    assert entry["status"]["status_str"] == "error"
    _, job = await client.get(f"api/jobs/{prompt_id}")
    assert job["status"] == "cancelled"


async def test_a_waiting_job_is_deleted_without_a_trace(
    simulator: Simulator, client: Client
) -> None:
    async with client.listening() as listener:
        running = await client.submit(graphs.waiting())
        await listener.until("executing", node="2")
        waiting = await client.submit(graphs.plain())
        _, queue = await client.get("queue")
        assert [item[1] for item in queue["queue_running"]] == [running]
        assert [item[1] for item in queue["queue_pending"]] == [waiting]
        listener.received.clear()
        assert await client.post("queue", {"delete": [waiting, running, "unknown"]}) == (200, "")
        _, queue = await client.get("queue")
        assert queue["queue_pending"] == []
        assert (await client.get(f"history/{waiting}"))[1] == {}
        assert (await client.get(f"api/jobs/{waiting}"))[0] == 404
        await client.post("interrupt", {"prompt_id": running})
        await listener.until_end(running)
    assert all(
        data.get("prompt_id") != waiting for kind, data in listener.received if kind != "status"
    )


async def test_the_history_is_there_when_success_is_sent(client: Client) -> None:
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.plain())
        await listener.until("execution_success")
        assert (await client.history(prompt_id))["status"]["completed"] is True


async def only_socket(
    simulator: Simulator, session: aiohttp.ClientSession
) -> aiohttp.ClientWebSocketResponse:
    """The only socket of the simulator, which the proxy may have opened before."""
    url = (simulator.base_url / "ws").with_query(token=simulator.key)
    while True:
        await simulator.close_sockets()
        with contextlib.suppress(aiohttp.WSServerHandshakeError):
            return await session.ws_connect(url)


async def test_without_any_event_the_life_is_complete(simulator: Simulator, client: Client) -> None:
    simulator.switches.socket_cap = 1
    async with await only_socket(simulator, client.session):
        async with client.listening() as listener:
            prompt_id = await client.submit(graphs.sampled())
            await listener.until_end(prompt_id)
        assert_well_formed(listener, prompt_id)
        assert [data["node"] for data in listener.of("executed")] == ["9"]


async def test_history_survives_a_restart(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        entry = await Client(session, proxy.url).run(graphs.plain())
        prompt_id = entry["prompt"][1]
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        assert await client.history(prompt_id) == entry
        picture = await client.view(entry["outputs"]["2"]["images"][0])
        assert picture.startswith(b"\x89PNG")


async def test_a_job_that_runs_through_a_restart_is_followed_to_its_end(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        prompt_id = await Client(session, proxy.url).submit(graphs.waiting(0.5))
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        async with client.listening() as listener:
            if await client.get("queue") != (200, {"queue_running": [], "queue_pending": []}):
                await listener.until("status", status={"exec_info": {"queue_remaining": 0}})
        assert (await client.history(prompt_id))["status"]["completed"] is True


async def test_no_key_and_no_token_reach_the_storage(simulator: Simulator, client: Client) -> None:
    entry = await client.run(graphs.plain())
    await client.view(entry["outputs"]["2"]["images"][0])
    assert simulator.storage.requests
    assert simulator.leaks == []


async def test_the_cloud_id_is_nobodys_business(simulator: Simulator, client: Client) -> None:
    entry = await client.run(graphs.plain())
    _, jobs = await client.get("api/jobs")
    for job in simulator.jobs:
        assert str(getattr(job, "id", job)) not in str(entry) + str(jobs)
