"""The calls to a deployment against what the official v2 server has answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from deployments import framed
from v2_recordings import FOLDER, RecordedServer, answers_of
from waiting import until

from proxy.cloud.errors import CloudAmbiguous, CloudRefused
from proxy.cloud.event_socket import Timeouts
from proxy.cloud.observer import Observer
from proxy.cloud.resilience import RetryPolicy
from proxy.cloud.upstream import Prompt
from proxy.cloud.v2.catalog import NodeList
from proxy.cloud.v2.client import DeploymentClient

JOBS, ASSETS = "/api/v2/jobs", "/api/v2/assets"
#: Any file.
SCENARIO = FOLDER / "01_ok.jsonl"
PICTURE = "38a1b86e-ec08-4b63-b7ea-b6efa9fb608d"


@asynccontextmanager
async def client_of(
    scenario: str, tmp_path: Path
) -> AsyncIterator[tuple[DeploymentClient, RecordedServer]]:
    server = RecordedServer(scenario)
    async with server.running() as url:
        client = DeploymentClient(
            url,
            "a-token-of-the-server",
            NodeList(tmp_path / "none"),
            retries=RetryPolicy(budget=0.2),
        )
        await client.start()
        try:
            yield client, server
        finally:
            await client.close()


async def none_known(_: Any) -> set[str]:
    return set()


def observer(frames: Callable[..., Any] = lambda *_: None) -> Observer:
    return Observer(frames, frames, frames, due=lambda: True)


# --- 09: files -----------------------------------------------------------------------------


async def stored(client: DeploymentClient) -> str:
    return await client.upload(
        SCENARIO, hash_="c" * 64, filename="é.png", content_type="image/png", picture=True
    )


async def test_an_upload_is_named_by_its_id_also_when_its_bytes_are_known(tmp_path: Path) -> None:
    async with client_of("09_upload_load", tmp_path) as (client, server):
        first = await stored(client)
        again = await stored(client)
        other = await stored(client)
    assert first == again == f"{PICTURE}.png"
    assert other != first
    paths = [(method, path) for method, path, _ in server.received]
    assert paths == [("POST", f"{ASSETS}/from-hash"), ("POST", ASSETS)] * 3
    fields = server.received[1][2]
    assert b"expected_hash" not in fields
    assert fields.index(b'name="file_path"') < fields.index(b'name="file"')


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (3, 422, "placement root"),
        (4, 422, "must not contain"),
        (5, 409, "does not match"),
        (6, 422, "Missing 'file_path'"),
    ],
)
async def test_a_refused_upload_says_why(
    number: int, status: int, words: str, tmp_path: Path
) -> None:
    async with client_of("09_upload_load", tmp_path) as (client, server):
        server.skip("POST", ASSETS, number)
        with pytest.raises(CloudRefused) as caught:
            await stored(client)
    assert caught.value.status == status
    assert words in str(caught.value.body)


async def test_an_output_that_is_refused_as_an_input_is_told_by_node(tmp_path: Path) -> None:
    async with client_of("09_upload_load", tmp_path) as (client, server):
        server.skip("POST", JOBS, 1)
        with pytest.raises(CloudRefused) as caught:
            await client.submit(Prompt(framed(), {}, mark="m"))
    body: Any = caught.value.body
    assert body["error"]["type"] == "prompt_outputs_failed_validation"
    assert body["node_errors"]["1"]["errors"][0]["type"] == "custom_validation_failed"


async def test_a_file_that_was_deleted_is_not_held_and_not_read(tmp_path: Path) -> None:
    async with client_of("09_upload_load", tmp_path) as (client, _):
        assert not await client.holds(f"{PICTURE}.png")
        with pytest.raises(CloudRefused) as caught:
            async with client.download(f"{PICTURE}.png", "input"):
                pass
    assert caught.value.status == 404


# --- 10: submissions -----------------------------------------------------------------------


async def test_each_answer_to_a_submission_has_its_meaning(tmp_path: Path) -> None:
    recorded = [*answers_of("10_idempotent", "POST", JOBS)]
    async with client_of("10_idempotent", tmp_path) as (client, _):
        for _, status, answer in recorded:
            error = (answer or {}).get("error") or {}
            prompt = Prompt(framed(), {}, mark="m", again=True)
            if status == 201:
                assert (await client.submit(prompt)).cloud_id == answer["id"]
            elif error["code"] == "idempotency_key_reuse":
                with pytest.raises(CloudAmbiguous) as lost:
                    await client.submit(prompt)
                assert lost.value.refused is not None
            else:
                with pytest.raises(CloudRefused) as caught:
                    await client.submit(prompt)
                assert caught.value.status == status
    assert [status for _, status, _ in recorded] == [201, 422, 422, 422, 201, 422, 201, 400, 400]


# --- 12: lists and wrong routes ------------------------------------------------------------


async def test_a_key_is_accepted_by_a_list(tmp_path: Path) -> None:
    async with client_of("12_list", tmp_path) as (client, server):
        await client.check_key()
    assert server.received[0][:2] == ("GET", JOBS)


async def test_a_list_that_ignores_its_filter_has_no_job_of_ours(tmp_path: Path) -> None:
    async with client_of("12_list", tmp_path) as (client, server):
        assert await client.find("mark", none_known, since=0) is None
    assert len(server.received) == 1


async def test_a_list_that_is_refused_does_not_refuse_the_key(tmp_path: Path) -> None:
    async with client_of("12_list", tmp_path) as (client, server):
        server.skip("GET", JOBS, 2)
        with pytest.raises(CloudRefused) as caught:
            await client.find("mark", none_known, since=0)
    assert caught.value.status == 400


# --- 13: streams ---------------------------------------------------------------------------


async def test_without_a_place_for_a_stream_its_job_is_read_and_nothing_is_refused(
    tmp_path: Path,
) -> None:
    refused = "c128e3ac-90cd-4058-999b-a5a8c3db1930"
    async with client_of("13_streams_limit", tmp_path) as (client, server):
        feed = client.events(observer(), Timeouts())
        await feed.start()
        feed.follow(refused, framed())
        await until(lambda: len(server.received) == 2)
        assert feed.connected
        assert feed.refused is None
        await feed.close()
    paths = [path for _, path, _ in server.received]
    assert paths == [f"{JOBS}/{refused}/events", f"{JOBS}/{refused}"]
