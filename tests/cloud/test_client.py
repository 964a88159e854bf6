"""The typed calls, each against the form of answer that the cloud's OpenAPI gives."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from proxy.cloud.answers import Submission
from proxy.cloud.errors import (
    CloudAmbiguous,
    CloudDown,
    CloudGarbage,
    CloudRefused,
    CloudTruncated,
    CloudUnreachable,
)
from proxy.cloud.resilience import CircuitBreaker, RetryPolicy
from proxy.cloud.upstream import Prompt
from proxy.runtime.backoff import Backoff
from tests.cloud.conftest import Connect, Serve, answer, cut_off, hang_up, redirect

GRAPH = {"3": {"class_type": "KSampler", "inputs": {"seed": 2**64 - 1}}}
JOB = {"id": "a", "status": "completed", "create_time": 1795527685850, "is_new_field": 1}


async def test_submit_sends_known_fields_as_json(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({"prompt_id": "a", "number": 1, "node_errors": {}}))
    client = await connect(cloud.url)
    submission = await client.submit(Prompt(GRAPH, {"x": 2**70}, ["3"]))
    assert submission == Submission("a", {})
    seen = cloud.seen[0]
    assert (seen.method, seen.target) == ("POST", "/api/prompt")
    assert seen.headers["Content-Type"] == "application/json"
    assert json.loads(seen.body) == {
        "prompt": GRAPH,
        "extra_data": {"x": 2**70},
        "partial_execution_targets": ["3"],
    }


async def test_submit_takes_a_graph_of_megabytes(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({"error": {"type": "TOO_LARGE"}}, 413))
    client = await connect(cloud.url)
    with pytest.raises(CloudRefused) as caught:
        await client.submit(Prompt({"1": {"inputs": {"text": "x" * 3_000_000}}}, {}))
    assert caught.value.status == 413
    assert len(cloud.seen[0].body) > 3_000_000


async def test_submit_leaves_targets_out_where_there_are_none(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({"prompt_id": "a", "node_errors": {"7": {}}}))
    submission = await (await connect(cloud.url)).submit(Prompt(GRAPH, {}))
    assert submission.node_errors == {"7": {}}
    assert set(json.loads(cloud.seen[0].body)) == {"prompt", "extra_data"}


@pytest.mark.parametrize("body", [{"prompt_id": "a", "error": {"type": "x"}}, {"error": "no"}])
async def test_submit_takes_a_200_with_an_error_as_a_refusal(
    serve: Serve, connect: Connect, body: dict
) -> None:
    cloud = await serve(answer(body))
    with pytest.raises(CloudRefused) as caught:
        await (await connect(cloud.url)).submit(Prompt(GRAPH, {}))
    assert (caught.value.status, caught.value.body) == (400, body)


@pytest.mark.parametrize(
    "body", [{"number": 1, "node_errors": {"3": {}}}, {}, {"prompt_id": None, "error": None}]
)
async def test_submit_does_not_know_what_a_200_without_a_job_means(
    serve: Serve, connect: Connect, body: dict
) -> None:
    cloud = await serve(answer(body))
    with pytest.raises(CloudAmbiguous) as caught:
        await (await connect(cloud.url)).submit(Prompt(GRAPH, {}))
    assert caught.value.taken is not bool(body.get("node_errors"))
    assert (caught.value.refused is None) is caught.value.taken
    assert len(cloud.seen) == 1


@pytest.mark.parametrize("status", [400, 402, 403, 413, 429, 500, 503])
async def test_submit_hands_a_refusal_on_at_once(
    serve: Serve, connect: Connect, status: int
) -> None:
    cloud = await serve(answer({"error": {"type": "T"}}, status, headers={"Retry-After": "7"}))
    with pytest.raises(CloudRefused) as caught:
        await (await connect(cloud.url)).submit(Prompt(GRAPH, {}))
    assert len(cloud.seen) == 1
    assert (caught.value.status, caught.value.retry_after) == (status, 7.0)


@pytest.mark.parametrize(
    "fault",
    [
        hang_up,
        cut_off(b'{"prompt_id"', 100),
        answer(text="<html>ok</html>"),
        answer([1]),
        answer(text="bad gateway", status=502),
        answer(text="gateway timeout", status=504),
        answer(text="origin timeout", status=524),
    ],
    ids=["reset", "cut off", "not JSON", "not an object", "502", "504", "524"],
)
async def test_submit_without_the_clouds_answer_is_ambiguous_and_not_repeated(
    serve: Serve, connect: Connect, fault
) -> None:
    cloud = await serve(fault)
    with pytest.raises(CloudAmbiguous):
        await (await connect(cloud.url)).submit(Prompt(GRAPH, {}))
    assert len(cloud.seen) == 1


async def test_submit_on_a_connection_that_died_idle_is_ambiguous_and_not_repeated(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({}), hang_up, answer({"prompt_id": "twice"}))
    client = await connect(cloud.url)
    await client.user()
    with pytest.raises(CloudAmbiguous):
        await client.submit(Prompt(GRAPH, {}))
    assert len(cloud.seen) == 2


async def test_submit_to_nobody_is_unreachable(connect: Connect, unused_tcp_port: int) -> None:
    client = await connect(URL(f"http://127.0.0.1:{unused_tcp_port}"))
    with pytest.raises(CloudUnreachable) as caught:
        await client.submit(Prompt(GRAPH, {}))
    assert not caught.value.sent


async def test_submit_with_an_open_circuit_sends_nothing(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({}, 503), answer({"prompt_id": "a"}))
    circuit = CircuitBreaker(failures=1, silence=0.0, backoff=Backoff(60.0, 60.0))
    client = await connect(cloud.url, breaker=circuit, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudRefused):
        await client.user()
    with pytest.raises(CloudDown):
        await client.submit(Prompt(GRAPH, {}))
    assert len(cloud.seen) == 1


async def test_submit_does_not_follow_a_redirect(serve: Serve, connect: Connect) -> None:
    other = await serve(answer({"prompt_id": "a"}))
    cloud = await serve(redirect(other.url, 307))
    with pytest.raises(CloudAmbiguous):
        await (await connect(cloud.url)).submit(Prompt(GRAPH, {}))
    assert other.seen == []


async def test_the_short_values_that_were_sent_with_a_job_are_read_however_many_they_are(
    serve: Serve, connect: Connect
) -> None:
    extra = {f"field {number}": "," * 4000 for number in range(30)}
    job = {**JOB, "workflow": {"extra_data": {**extra, "long": "x" * 5000}}}
    cloud = await serve(answer(job), answer(job))
    client = await connect(cloud.url)
    assert await client.extra_data("a") == extra
    assert await client.job("a") is not None


@pytest.mark.parametrize("workflow", [None, {}, {"extra_data": None}, {"prompt": {}}, [], "x"])
async def test_what_was_sent_with_a_job_may_be_unknown(
    serve: Serve, connect: Connect, workflow: object
) -> None:
    cloud = await serve(answer({**JOB, "workflow": workflow}), answer({}, 404))
    client = await connect(cloud.url)
    assert await client.extra_data("a") is None
    assert await client.extra_data("a") is None


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"workflow": {'])
async def test_garbage_does_not_say_that_nothing_was_sent_with_a_job(
    serve: Serve, connect: Connect, text: str
) -> None:
    client = await connect((await serve(answer(text=text))).url)
    with pytest.raises(CloudGarbage):
        await client.extra_data("a")


async def test_job_is_a_snapshot_or_none(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(JOB), answer({"code": "NOT_FOUND"}, 404))
    client = await connect(cloud.url)
    job = await client.job("a/b")
    assert job is not None
    assert (job.cloud_id, job.status, job.create_time) == ("a/b", "completed", 1795527685850)
    assert cloud.seen[0].target == "/api/jobs/a%2Fb"
    assert await client.job("b") is None


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_a_name_that_no_path_holds_is_not_asked_for(
    serve: Serve, connect: Connect, name: str
) -> None:
    cloud = await serve(answer([]))
    client = await connect(cloud.url)
    assert await client.job(name) is None
    assert await client.models(name) is None
    assert cloud.seen == []


async def test_jobs_follow_the_cursor(serve: Serve, connect: Connect) -> None:
    cloud = await serve(
        answer({"jobs": [{"id": "c"}, {"id": "b"}], "pagination": {"next_cursor": "x+1"}}),
        answer({"jobs": [{"id": "b"}, {"id": "a"}, 7, {}], "pagination": {"has_more": False}}),
    )
    client = await connect(cloud.url)
    jobs = await client.jobs(("pending", "in_progress"))
    assert [job.cloud_id for job in jobs] == ["c", "b", "a"]
    first, second = (URL(seen.target).query for seen in cloud.seen)
    assert first["status"] == "pending,in_progress"
    assert (first["sort_by"], first["sort_order"]) == ("create_time", "desc")
    assert second["after"] == "x+1"


async def test_jobs_follow_the_offset_where_there_is_no_cursor(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(
        answer({"jobs": [{"id": "b"}], "pagination": {"has_more": True}}),
        answer({"jobs": [{"id": "a"}], "pagination": {"has_more": False}}),
    )
    jobs = await (await connect(cloud.url)).jobs()
    assert [job.cloud_id for job in jobs] == ["b", "a"]
    assert URL(cloud.seen[1].target).query["offset"] == "1"


async def test_jobs_are_read_back_to_a_time(serve: Serve, connect: Connect) -> None:
    at = 1_700_000_000_000
    newer = [{"id": "c", "create_time": at + 2}, {"id": "b", "create_time": at}]
    cloud = await serve(
        answer({"jobs": newer, "pagination": {"next_cursor": "x"}}),
        answer({"jobs": [{"id": "a", "create_time": at - 1}], "pagination": {"next_cursor": "y"}}),
    )
    jobs = await (await connect(cloud.url)).jobs(since=at)
    assert [job.cloud_id for job in jobs] == ["c", "b", "a"]
    assert len(cloud.seen) == 2


async def test_jobs_stop_when_pages_repeat_themselves(serve: Serve, connect: Connect) -> None:
    page = {"jobs": [{"id": "a"}], "pagination": {"has_more": True, "next_cursor": "x"}}
    cloud = await serve(answer(page))
    assert len(await (await connect(cloud.url)).jobs()) == 1
    assert len(cloud.seen) == 2


@pytest.mark.parametrize(("size", "is_known"), [(200, False), (199, True)])
async def test_a_job_is_not_there_unless_full_pages_repeat_themselves(
    serve: Serve, connect: Connect, size: int, *, is_known: bool
) -> None:
    page = {"jobs": [{"id": str(number)} for number in range(size)]}
    cloud = await serve(answer({**page, "pagination": {"has_more": True, "next_cursor": "x"}}))
    client = await connect(cloud.url)

    async def all_known(cloud_ids: Collection[str]) -> set[str]:
        return set(cloud_ids)

    if is_known:
        assert await client.find("mark", all_known, since=0) is None
    else:
        with pytest.raises(CloudTruncated):
            await client.find("mark", all_known, since=0)


async def test_a_list_of_live_jobs_is_asked_for_twice(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer("", 500))
    with pytest.raises(CloudRefused):
        await (await connect(cloud.url)).live(["a"])
    assert len(cloud.seen) == 2


async def test_jobs_without_a_list_are_garbage(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({"jobs": None}))
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudGarbage):
        await client.jobs()


@pytest.mark.parametrize(
    ("status", "body", "cancelled"),
    [
        (200, {"cancelled": True}, True),
        (200, {"cancelled": False}, False),
        (200, {"cancelled": ["a"]}, True),
        (200, {"cancelled": []}, False),
        (400, {"code": "BAD_REQUEST"}, False),
    ],
)
async def test_cancel_says_whether_it_did(
    serve: Serve, connect: Connect, status: int, body: dict, cancelled: bool
) -> None:
    cloud = await serve(answer(body, status))
    assert await (await connect(cloud.url)).cancel("a") is cancelled
    assert (cloud.seen[0].method, cloud.seen[0].target) == ("POST", "/api/jobs/a/cancel")


async def test_cancel_whose_first_answer_got_lost_looks_at_the_job(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(
        hang_up, answer({"cancelled": False}), answer({"id": "a", "status": "cancelled"})
    )
    assert await (await connect(cloud.url)).cancel("a") is True


class Multipart:
    """Reads an upload as a server does."""

    def __init__(self) -> None:
        self.fields: dict[str, tuple[str | None, str | None, bytes]] = {}

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        for name, field in (await request.post()).items():
            if isinstance(field, web.FileField):
                self.fields[name] = (field.filename, field.content_type, field.file.read())
            else:
                self.fields[name] = (None, None, str(field).encode())
        return web.json_response({"name": "f00d.png", "subfolder": "ignored", "type": "input"})


async def test_upload_sends_a_browsers_form_and_returns_the_name(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"\x89PNG" * 100_000)
    form = Multipart()
    cloud = await serve(form)
    name = await (await connect(cloud.url)).upload_image(
        path, filename='Füchs "1".png', content_type="image/png"
    )
    assert name == "f00d.png"
    assert form.fields["type"] == (None, None, b"input")
    assert form.fields["image"] == ("Füchs %221%22.png", "image/png", path.read_bytes())
    assert int(cloud.seen[0].headers["Content-Length"]) > path.stat().st_size


async def test_upload_is_repeated_from_its_first_byte(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"abc")
    form = Multipart()
    cloud = await serve(hang_up, answer({}, 503), form)
    await (await connect(cloud.url)).upload_image(path, filename="a.png", content_type="image/png")
    assert form.fields["image"][2] == b"abc"


async def test_upload_of_what_the_cloud_refuses_says_why(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"abc")
    cloud = await serve(answer({"code": "BAD_REQUEST", "message": "too large"}, 400))
    with pytest.raises(CloudRefused, match="too large"):
        await (await connect(cloud.url)).upload_image(path, filename="a", content_type="image/png")


async def test_upload_without_a_name_in_the_answer_is_garbage(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"abc")
    cloud = await serve(answer({"name": ""}))
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudGarbage):
        await client.upload_image(path, filename="a", content_type="image/png")


async def test_object_info_is_the_bytes_as_they_came(serve: Serve, connect: Connect) -> None:
    body = b'{"A": {"seed": 18446744073709551615, "x": NaN}}'
    cloud = await serve(answer(text="<html>"), answer(body=body))
    assert await (await connect(cloud.url)).object_info() == body


async def test_models_are_lists_of_objects(serve: Serve, connect: Connect) -> None:
    cloud = await serve(
        answer([{"name": "loras", "folders": ["loras"]}, 7]),
        answer([{"name": "a.safetensors", "pathIndex": 0}]),
        answer({"code": "NOT_FOUND"}, 404),
    )
    client = await connect(cloud.url)
    assert await client.model_folders() == [{"name": "loras", "folders": ["loras"]}]
    assert await client.models("loras") == [{"name": "a.safetensors", "pathIndex": 0}]
    assert await client.models("nothing") is None


async def test_model_preview_is_bytes_and_type_or_none(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(body=b"RIFF", content_type="image/webp"), answer({}, 404))
    client = await connect(cloud.url)
    assert await client.model_preview("loras", 0, "sub/a b.png") == (b"RIFF", "image/webp")
    assert cloud.seen[0].target == "/api/experiment/models/preview/loras/0/sub/a%20b.png"
    assert await client.model_preview("loras", 0, "b.png") is None


async def test_a_template_picture_is_a_file_beside_the_api(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(body=b"RIFF", content_type="image/webp"), answer({}, 404))
    client = await connect(cloud.url)
    assert await client.template_picture("a b-1.webp") == (b"RIFF", "image/webp")
    assert cloud.seen[0].target == "/templates/a%20b-1.webp"
    assert await client.template_picture("b-1.webp") is None


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ({"loader_path": "ab.wav", "hash": "blake3:cd"}, "ab.wav"),
        ({"loader_path": None, "hash": "blake3:cd"}, "cd.wav"),
        ({"asset_hash": "cd"}, "cd.wav"),
    ],
)
async def test_an_asset_is_called_as_its_loader_takes_it(
    serve: Serve, connect: Connect, tmp_path: Path, output: dict[str, Any], name: str
) -> None:
    cloud = await serve(answer(output, 201))
    client = await connect(cloud.url)
    path = tmp_path / "x"
    path.write_bytes(b"RIFF")
    sent = await client.upload_asset(path, filename="talk.WAV", content_type="audio/wav")
    assert (sent, cloud.seen[0].target) == (name, "/api/assets")


async def test_user_takes_any_body(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(text="OK"))
    await (await connect(cloud.url)).user()


async def test_lists_that_are_none_and_catalogs_that_are_no_object_are_garbage(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({"not": "a list"}), answer(["not an object"]))
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudGarbage):
        await client.model_folders()
    with pytest.raises(CloudGarbage):
        await client.object_info()


async def test_refusals_other_than_unknown_are_raised(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({"code": "FORBIDDEN"}, 403))
    client = await connect(cloud.url)
    for call in (client.cancel("a"), client.job("a"), client.models("loras")):
        with pytest.raises(CloudRefused):
            await call
