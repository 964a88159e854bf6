"""What is learnt of the cloud: facts, and anomalies without their secrets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import graphs
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from backend import open_database
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stack import Client, Proxy, running_proxy
from yarl import URL

from proxy.api.keys import OBSERVATIONS
from proxy.cloud.client import CloudClient
from proxy.cloud.observations import MAX_ANOMALIES, AccountObservations, Observations
from proxy.logging import public_word, without_secrets
from proxy.simulator import HttpFault, Simulator
from proxy.storage.database import StorageError
from proxy.storage.leases import Batch
from proxy.storage.usage import Observation, ObservationRepository
from proxy.translate import codec

SUBMIT = "POST /api/prompt"
DETAIL = "GET /api/jobs/{id}"


# --- in memory -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret",
    [
        "comfyui-0123456789abcdef",
        "https://storage.example/a.png?X-Goog-Signature=abc",
        "a red fox in the snow",
        "7121851e-1054-57bd-bdfe-1bb2f96c0cf7",
        "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9.png",
        "a" * 300,
    ],
)
def test_an_example_holds_words_and_numbers_alone(secret: str) -> None:
    example = {"status": "exploded", "node": {secret: [1, secret, None]}, "at": 1.5}
    shown = without_secrets(example)
    assert secret not in codec.dumps(shown)
    assert (shown["status"], shown["at"]) == ("exploded", 1.5)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_every_example_is_small_and_can_be_written(value: Any) -> None:
    shown = without_secrets(value)
    assert codec.loads(codec.dump_bytes(shown)) == shown


def test_many_forms_are_counted_as_others() -> None:
    rows: list[Observation] = []
    one = AccountObservations("main", keep=rows.append)
    for number in range(MAX_ANOMALIES + 5):
        one.add_anomaly("event", f"odd {number}", {})
    assert [row.kind for row in rows] == ["event"] * MAX_ANOMALIES + ["other"] * 5


class Refusing(ObservationRepository):
    """Refuses to write while `full`."""

    full = True

    async def add(self, rows: Sequence[Observation], batch: Batch | None = None) -> None:
        if self.full:
            raise StorageError("disk full")
        await super().add(rows, batch)


async def test_what_could_not_be_written_is_not_lost(tmp_path: Path) -> None:
    database = await open_database(tmp_path)
    repository, one = Refusing(database), AccountObservations("main")
    observations = Observations(repository, {"main": one})
    one.learn("prompt_id", "honoured")
    one.add_anomaly("event", "odd", {"a": 1})
    with pytest.raises(StorageError):
        await observations.unwritten.flush()
    one.add_anomaly("event", "odd", {"a": 2})
    repository.full = False
    await observations.unwritten.flush()
    rows = {row.kind: row for row in await repository.load(["main"])}
    assert (rows["event"].count, rows["event"].value) == (2, b'{"a": 1}')
    assert rows["fact"].value == b'"honoured"'
    await database.close()


def test_a_word_of_the_cloud_is_shown_and_a_sentence_is_not() -> None:
    assert public_word("QUOTA_EXCEEDED") == "QUOTA_EXCEEDED"
    assert public_word("a red fox") == "<text of 9>"


# --- seen by the way -----------------------------------------------------------------------


async def anomalies(client: Client) -> list[tuple[str, str]]:
    status, body = await client.get("proxy/api/cloud-anomalies")
    assert status == 200
    (account,) = body["accounts"]
    return [(anomaly["kind"], anomaly["name"]) for anomaly in account["anomalies"]]


async def test_a_cloud_that_does_what_is_written_has_no_anomalies(
    simulator: Simulator, client: Client
) -> None:
    await client.run(graphs.sampled(1))
    assert (await client.post("prompt", {"prompt": {}}))[0] == 400
    assert await anomalies(client) == []


@dataclass(frozen=True)
class Sent:
    """A message of the cloud as it goes over the wire."""

    data: str | bytes
    name: str = "odd"

    def wire(self, *_: object) -> str | bytes:
        return self.data


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (
            '{"type": "job_exploded", "data": {"prompt_id": "x", "why": "no reason"}}',
            ("event", "job_exploded: type"),
        ),
        (
            '{"type": "progress", "data": {"prompt_id": "x", "percent": 5}}',
            ("event", "progress: without max, node, value"),
        ),
        ('{"kind": "progress"}', ("event", "not an event")),
        ("no JSON", ("event", "not an event")),
        ((77).to_bytes(4) + b"secret", ("frame", "type 77")),
    ],
)
async def test_an_unlisted_message_is_counted_and_kept_once(
    simulator: Simulator, client: Client, data: str | bytes, name: tuple[str, str]
) -> None:
    await client.run(graphs.plain(1))
    for _ in range(2):
        simulator.tenants[0].event_sockets.broadcast(Sent(data))
    await client.run(graphs.plain(2))
    assert await anomalies(client) == [name]
    _, body = await client.get("proxy/api/cloud-anomalies")
    (one,) = body["accounts"][0]["anomalies"]
    assert one["count"] == 2
    assert "no reason" not in str(one)
    assert "secret" not in str(one)


@pytest.mark.parametrize(
    ("body", "status", "name"),
    [
        ({"code": "QUOTA_GONE", "message": "x"}, 429, "429 QUOTA_GONE"),
        ({"code": "TEAPOT", "message": "x"}, 418, "418 with an unlisted status"),
        ({"reason": "x"}, 403, "403 with an unlisted body"),
        ([1], 200, "not of its form"),
    ],
)
async def test_an_unlisted_answer_is_counted(
    simulator: Simulator, client: Client, body: Any, status: int, name: str
) -> None:
    simulator.faults.add(
        HttpFault("GET /api/global_subgraphs", status=status, body=codec.dumps(body)), times=1
    )
    await client.get("global_subgraphs")
    assert ("answer", f"GET /api/global_subgraphs: {name}") in await anomalies(client)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"status": "hibernating"}, "status hibernating"),
        ({"outputs": [1]}, "outputs list"),
        ({"create_time": "yesterday"}, "create_time str"),
    ],
)
async def test_an_unlisted_form_of_a_job_is_counted(change: dict[str, Any], name: str) -> None:
    job = {"id": "7121851e-1054-57bd-bdfe-1bb2f96c0cf7", "status": "completed", "outputs": {}}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({**job, **change})

    app = web.Application()
    app.router.add_get("/api/jobs/{id}", answer)
    async with TestServer(app) as server:
        rows: list[Observation] = []
        observations = AccountObservations(keep=rows.append)
        url = URL(str(server.make_url("/")))
        client = CloudClient(url, "comfyui-key", observations=observations)
        await client.start()
        try:
            await client.job(job["id"])
            await client.job(job["id"])
        finally:
            await client.close()
    assert [(row.kind, row.name) for row in rows] == [("job", name)] * 2
    assert job["id"] not in str(rows)


async def test_anomalies_outlive_a_restart_and_are_a_metric(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    for count in (1, 2):
        async with running_proxy(simulator, tmp_path) as proxy:
            client = Client(session, proxy.url)
            await client.run(graphs.plain(count))
            simulator.tenants[0].event_sockets.broadcast(
                Sent('{"type": "job_exploded", "data": {}}')
            )
            await client.run(graphs.plain(count + 2))
            _, body = await client.get("proxy/api/cloud-anomalies")
            (one,) = body["accounts"][0]["anomalies"]
            assert one["count"] == count
            async with session.get(proxy.url / "metrics") as answer:
                text = await answer.text()
        assert 'cloud_anomalies_total{account="default",kind="event"} 1.0' in text


# --- facts are used ------------------------------------------------------------------------


async def upload(client: Client, name: str, data: bytes) -> tuple[int, Any]:
    form = aiohttp.FormData()
    form.add_field("image", data, filename=name, content_type="image/png")
    async with client.session.post(client.url / "upload/image", data=form) as answer:
        return answer.status, await answer.json()


def blank_picture(width: int) -> bytes:
    picture = io.BytesIO()
    Image.new("1", (width, 1)).save(picture, "PNG")
    return picture.getvalue()


def learn(proxy: Proxy, **facts: str) -> None:
    for account in proxy.services[OBSERVATIONS].accounts.values():
        for name, value in facts.items():
            account.learn(name, value)


async def test_an_id_is_asked_for_only_where_the_cloud_was_seen_to_honour_it(
    simulator: Simulator, proxy: Proxy, client: Client
) -> None:
    simulator.switches.honour_prompt_id = True
    await client.run(graphs.plain(1))
    learn(proxy, prompt_id="honoured")
    await client.run(graphs.plain(2))
    first, second = simulator.jobs.values()
    assert (UUID(first.id).version, UUID(second.id).version) == (4, 5)


async def test_a_cloud_that_stops_to_honour_ids_is_noticed(
    simulator: Simulator, proxy: Proxy, client: Client
) -> None:
    learn(proxy, prompt_id="honoured")
    await client.run(graphs.plain())
    _, body = await client.get("proxy/api/cloud-anomalies")
    assert body["accounts"][0]["facts"] == {"prompt_id": "minted"}


async def test_a_lost_answer_is_found_by_the_id_without_a_list(
    simulator: Simulator, proxy: Proxy, client: Client
) -> None:
    simulator.switches.honour_prompt_id = True
    learn(proxy, prompt_id="honoured")
    await client.run(graphs.plain(1))
    listed = simulator.calls["GET /api/jobs"]
    simulator.faults.add(HttpFault(SUBMIT, reset=True, processed=True))
    await client.submit(graphs.plain(2))
    assert len(simulator.jobs) == 2
    assert simulator.calls["GET /api/jobs"] == listed


@pytest.mark.parametrize("again", ["same", "refused"])
async def test_a_submission_is_repeated_at_once_where_that_makes_no_second_job(
    simulator: Simulator, proxy: Proxy, client: Client, again: Any
) -> None:
    simulator.switches.update({"honour_prompt_id": True, "repeated_prompt_id": again})
    reason = {"same": "the same job", "refused": "refused"}[again]
    learn(proxy, prompt_id="honoured", prompt_id_again=reason)
    simulator.faults.add(HttpFault(SUBMIT, reset=True, processed=True))
    simulator.faults.add(HttpFault(DETAIL, status=404), times=1)  # it is not listed yet
    simulator.faults.add(HttpFault("GET /api/jobs", status=200, body='{"jobs": []}'), times=1)
    await client.run(graphs.plain())
    assert len(simulator.jobs) == 1
    assert simulator.calls[SUBMIT] == 2


async def test_an_announced_limit_of_uploads_is_one_of_pictures(
    proxy: Proxy, client: Client
) -> None:
    learn(proxy, max_upload_size="1000")
    status, body = await upload(client, "a.png", blank_picture(1) + bytes(1000))
    assert (status, body["error"]["type"]) == (413, "upload_too_large")
    assert (await upload(client, "a.mp4", b"x" * 1001))[0] == 200


async def test_pixels_that_the_cloud_was_seen_to_take_are_sent_to_it(
    simulator: Simulator, proxy: Proxy, client: Client
) -> None:
    status, body = await upload(client, "wide.png", blank_picture(16385))
    assert (status, body["error"]["type"]) == (400, "image_too_large")
    assert simulator.calls["POST /api/upload/image"] == 0
    learn(proxy, upload_edge="taken")
    await upload(client, "wide.png", blank_picture(16385))
    assert simulator.calls["POST /api/upload/image"] == 1
