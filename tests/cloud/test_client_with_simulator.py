"""The calls and the socket against the Comfy Cloud simulator, as a job goes through them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image

from proxy.cloud.client import CloudClient
from proxy.cloud.connections import CloudAddresses
from proxy.cloud.errors import CloudAmbiguous, CloudRefused, CloudUnauthorized
from proxy.cloud.event_socket import EventSocket, Timeouts
from proxy.cloud.observer import Observer
from proxy.cloud.resilience import RetryPolicy
from proxy.cloud.upstream import Prompt
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator, SocketFault
from proxy.translate import codec
from proxy.translate.frames import CloudFrame
from proxy.translate.snapshots import Snapshot

QUICK = RetryPolicy(5.0, Backoff(first=0.005, longest=0.05), attempt_timeout=10.0)


def graph(color: int = 255) -> dict[str, Any]:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[CloudClient]:
    client = CloudClient(simulator.base_url, simulator.key, retries=QUICK)
    await client.start()
    yield client
    await client.close()


async def ended(client: CloudClient, cloud_id: str) -> Snapshot:
    async with asyncio.timeout(60):
        while True:
            job = await client.job(cloud_id)
            if job is not None and job.settled and job.outputs is not None:
                return job
            await asyncio.sleep(0.01)


async def saved_name(client: CloudClient) -> str:
    submission = await client.submit(Prompt(graph(), {}))
    job = await ended(client, submission.cloud_id)
    assert job.outputs is not None
    name = job.outputs["2"]["images"][0]["filename"]
    assert isinstance(name, str)
    return name


async def fetch(client: CloudClient, name: str, offset: int = 0) -> bytes:
    async with client.download(name, "output", offset) as download:
        return b"".join([chunk async for chunk in download.chunks()])


async def test_a_job_from_submission_to_its_picture(
    simulator: Simulator, client: CloudClient
) -> None:
    submission = await client.submit(Prompt(graph(), {"mark": 2**64}))
    job = await ended(client, submission.cloud_id)
    assert (job.status, submission.node_errors) == ("completed", {})
    extra_data = await client.extra_data(submission.cloud_id)
    assert extra_data is not None
    assert extra_data["mark"] == 2**64
    assert job.outputs is not None
    picture = await fetch(client, job.outputs["2"]["images"][0]["filename"])
    assert Image.open(io.BytesIO(picture)).size == (64, 48)
    assert simulator.storage.requests
    assert simulator.leaks == []


async def test_the_rest_of_a_picture(client: CloudClient) -> None:
    name = await saved_name(client)
    assert await fetch(client, name, 10) == (await fetch(client, name))[10:]
    with pytest.raises(CloudRefused) as caught:
        await fetch(client, name, 10**6)
    assert caught.value.status == 416


async def test_an_upload_is_an_input(client: CloudClient, tmp_path: Path) -> None:
    path = tmp_path / "cat"
    Image.new("RGB", (32, 16), "red").save(path, "png")
    name = await client.upload_image(path, filename="cät.png", content_type="image/png")
    load = {"class_type": "LoadImage", "inputs": {"image": name}}
    submission = await client.submit(Prompt({**graph(), "1": load}, {}))
    assert (await ended(client, submission.cloud_id)).status == "completed"


async def test_the_list_is_newest_first_and_goes_over_pages(client: CloudClient) -> None:
    ids = [(await client.submit(Prompt(graph(n), {}))).cloud_id for n in range(3)]
    assert [job.cloud_id for job in await client.jobs()] == ids[::-1]
    for cloud_id in ids:
        await ended(client, cloud_id)
    assert await client.jobs(("pending", "in_progress")) == []


async def test_a_job_is_cancelled_once(simulator: Simulator, client: CloudClient) -> None:
    simulator.switches.dispatch = 30.0
    submission = await client.submit(Prompt(graph(), {}))
    assert await client.cancel(submission.cloud_id) is True
    assert await client.cancel(submission.cloud_id) is False
    assert await client.cancel("no uuid") is False
    with pytest.raises(CloudRefused, match="404"):  # it may not be known yet
        await client.cancel(str(uuid4()))


async def test_an_unknown_job_is_none(client: CloudClient) -> None:
    assert await client.job(str(uuid4())) is None


async def test_the_catalog(client: CloudClient) -> None:
    assert "SaveImage" in codec.loads(await client.object_info())
    folders = await client.model_folders()
    assert await client.models(folders[0]["name"]) is not None
    assert await client.models("no such folder") is None
    assert (await client.system_stats())["devices"]


async def test_a_wrong_key_is_unauthorized(simulator: Simulator, client: CloudClient) -> None:
    await client.user()
    client.use_key("comfyui-wrong")
    with pytest.raises(CloudUnauthorized):
        await client.user()


async def test_an_invalid_graph_is_refused_with_its_node_errors(client: CloudClient) -> None:
    wrong = {"2": {"class_type": "SaveImage", "inputs": {}}}
    with pytest.raises(CloudRefused) as caught:
        await client.submit(Prompt(wrong, {}))
    assert caught.value.status == 400
    assert isinstance(caught.value.body, dict)
    assert "2" in caught.value.body["node_errors"]


async def test_a_submission_cut_off_behind_its_effect_is_ambiguous_and_made_once(
    simulator: Simulator, client: CloudClient
) -> None:
    simulator.faults.add(HttpFault("POST /api/prompt", reset=True, processed=True))
    with pytest.raises(CloudAmbiguous):
        await client.submit(Prompt(graph(), {"mark": "x"}))
    assert len(await client.jobs()) == 1


async def test_a_cancel_cut_off_behind_its_effect_is_known_to_have_worked(
    simulator: Simulator, client: CloudClient
) -> None:
    simulator.switches.dispatch = 30.0
    submission = await client.submit(Prompt(graph(), {}))
    route = "POST /api/jobs/{id}/cancel"
    simulator.faults.add(HttpFault(route, reset=True, processed=True))
    assert await client.cancel(submission.cloud_id) is True


async def test_a_signature_that_ran_out_gets_a_fresh_one(
    simulator: Simulator, client: CloudClient
) -> None:
    name = await saved_name(client)
    simulator.faults.add(HttpFault("GET storage", status=403, body="ExpiredToken"))
    assert (await fetch(client, name)).startswith(b"\x89PNG")


class Events:
    """Events and frames as they arrive, to be waited for."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.frames = 0
        self.ups = 0
        self.changed = asyncio.Event()

    def event(self, type_: str, _: dict[str, Any]) -> None:
        self.types.append(type_)
        self.changed.set()

    def frame(self, _: CloudFrame) -> None:
        self.frames += 1
        self.changed.set()

    def up(self) -> None:
        self.ups += 1
        self.changed.set()

    def down(self) -> None:
        self.changed.set()

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not happened():
                self.changed.clear()
                await self.changed.wait()


Open = Callable[..., Awaitable[tuple[EventSocket, Events]]]


@pytest.fixture
async def open_socket(simulator: Simulator) -> AsyncIterator[Open]:
    sockets: list[EventSocket] = []

    async def start(heartbeat: float = 20.0) -> tuple[EventSocket, Events]:
        events = Events()
        socket = EventSocket(
            CloudAddresses(simulator.base_url),
            simulator.key,
            Observer(events.event, events.frame, on_up=events.up, on_down=events.down),
            timeouts=Timeouts(
                heartbeat=heartbeat, socket_backoff=Backoff(first=0.005, longest=0.05)
            ),
        )
        sockets.append(socket)
        await socket.start()
        assert await socket.wait_connected(5)
        return socket, events

    yield start
    for socket in sockets:
        await socket.close()


async def test_the_events_of_a_job(client: CloudClient, open_socket: Open) -> None:
    _, events = await open_socket()
    await client.submit(Prompt(graph(), {}))
    await events.until(lambda: "execution_success" in events.types)
    assert events.types[0] == "status"
    assert events.types.index("execution_start") < events.types.index("executed")


@pytest.mark.parametrize("kind", ["drop", "close", "stall", "garbage", "duplicate"])
async def test_a_faulty_socket_comes_back(
    simulator: Simulator, client: CloudClient, open_socket: Open, kind: Any
) -> None:
    _, events = await open_socket(heartbeat=0.5 if kind == "stall" else 20.0)
    simulator.faults.add(SocketFault(kind, event="execution_start"))
    await client.submit(Prompt(graph(1), {}))
    if kind in ("drop", "close", "stall"):
        await events.until(lambda: events.ups == 2)
    await client.submit(Prompt(graph(2), {}))
    await events.until(lambda: "execution_success" in events.types)
