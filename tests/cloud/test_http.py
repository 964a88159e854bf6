"""One request: its key, its errors, its repetitions, its place in the counts."""

from __future__ import annotations

import asyncio
import gzip
import logging
import tracemalloc
from pathlib import Path

import pytest
from aiohttp import web
from PIL import Image
from structlog.testing import capture_logs
from waiting import until
from yarl import URL

from proxy.cloud import connections, http
from proxy.cloud.answers import AnswerLimits
from proxy.cloud.calls import API
from proxy.cloud.client import CloudClient
from proxy.cloud.errors import (
    CloudDown,
    CloudGarbage,
    CloudRefused,
    CloudUnauthorized,
    CloudUnreachable,
)
from proxy.cloud.observations import AccountObservations
from proxy.cloud.resilience import MAX_RETRY_AFTER, CircuitBreaker, RetryPolicy
from proxy.cloud.upstream import Prompt
from proxy.metrics import PREFIX, Metrics
from proxy.runtime.backoff import Backoff
from proxy.simulator import Simulator
from proxy.storage.database import FencedError
from proxy.storage.usage import Observation
from tests.cloud.conftest import KEY, Connect, Serve, answer, cut_off, hang_up, redirect


async def stay_silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def test_a_call_carries_the_key_in_its_header_and_no_cookie(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({}, headers={"Set-Cookie": "session=1"}))
    client = await connect(cloud.url)
    await client.system_stats()
    await client.system_stats()
    assert [seen.headers["X-API-Key"] for seen in cloud.seen] == [KEY, KEY]
    assert all("Cookie" not in seen.headers for seen in cloud.seen)


async def test_a_check_stops_a_request_before_anything_is_sent(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({}))
    client = await connect(cloud.url)

    def refuse() -> None:
        raise FencedError("the lease has run out")

    with pytest.raises(FencedError), connections.checked(refuse):
        await client.submit(Prompt({}, {}))
    assert cloud.seen == []
    await client.system_stats()
    assert len(cloud.seen) == 1


async def test_netrc_is_not_read(
    serve: Serve, connect: Connect, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    cloud = await serve(answer({}))
    await (await connect(cloud.url)).system_stats()
    assert "Authorization" not in cloud.seen[0].headers


async def test_another_key_counts_from_the_next_call_on(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({}))
    client = await connect(cloud.url)
    client.use_key("comfyui-other")
    await client.user()
    assert cloud.seen[0].headers["X-API-Key"] == "comfyui-other"


async def test_the_base_url_may_have_a_path(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({}))
    await (await connect(cloud.url / "gate" / "way")).user()
    assert cloud.seen[0].target == "/gate/way/api/user"


async def test_a_call_before_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        await CloudClient(URL("http://127.0.0.1:1"), KEY).user()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_read_is_repeated_after_a_passing_refusal(
    serve: Serve, connect: Connect, status: int
) -> None:
    cloud = await serve(answer({}, status), answer({}, status), answer({"system": {}}))
    assert await (await connect(cloud.url)).system_stats() == {"system": {}}
    assert len(cloud.seen) == 3


@pytest.mark.parametrize(
    "fault",
    [hang_up, cut_off(b'{"sys', 100), answer(text='{"sys'), answer(text="<html>")],
    ids=["reset", "cut off", "truncated", "not JSON"],
)
async def test_a_read_is_repeated_after_a_fault(serve: Serve, connect: Connect, fault) -> None:
    cloud = await serve(fault, fault, answer({"system": {}}))
    assert await (await connect(cloud.url)).system_stats() == {"system": {}}


async def test_a_read_gives_up_when_its_budget_is_spent(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({}, 503))
    retries = RetryPolicy(budget=1.0, backoff=Backoff(first=0.01, longest=0.02))
    client = await connect(cloud.url, retries=retries)
    with pytest.raises(CloudRefused) as caught:
        await client.user()
    assert caught.value.status == 503
    assert len(cloud.seen) > 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413])
async def test_a_lasting_refusal_is_not_repeated(
    serve: Serve, connect: Connect, status: int
) -> None:
    cloud = await serve(answer({"code": "NO", "message": "no"}, status))
    with pytest.raises(CloudRefused) as caught:
        await (await connect(cloud.url)).user()
    assert len(cloud.seen) == 1
    assert (caught.value.status, caught.value.body) == (status, {"code": "NO", "message": "no"})
    assert isinstance(caught.value, CloudUnauthorized) == (status == 401)


async def test_retry_after_is_waited_for(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({}, 429, headers={"Retry-After": "1"}), answer({}))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await (await connect(cloud.url, retries=RetryPolicy(budget=30.0))).user()
    assert loop.time() - began >= 1.0


async def test_a_retry_after_beyond_the_budget_is_raised_instead(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({}, 429, headers={"Retry-After": "3600"}))
    with pytest.raises(CloudRefused) as caught:
        await (await connect(cloud.url)).user()
    assert caught.value.retry_after == pytest.approx(MAX_RETRY_AFTER)
    assert len(cloud.seen) == 1


async def test_a_refused_connection_is_unreachable_and_unsent(
    connect: Connect, unused_tcp_port: int
) -> None:
    client = await connect(
        URL(f"http://127.0.0.1:{unused_tcp_port}"), retries=RetryPolicy(budget=0.0)
    )
    with pytest.raises(CloudUnreachable, match=f"127.0.0.1:{unused_tcp_port}") as caught:
        await client.user()
    assert not caught.value.sent


async def test_no_answer_in_time_is_unreachable(serve: Serve, connect: Connect) -> None:
    cloud = await serve(stay_silent)
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0, attempt_timeout=0.5))
    with pytest.raises(CloudUnreachable, match="no answer in time") as caught:
        await client.user()
    assert caught.value.sent


async def test_no_redirect_is_followed_with_the_key(serve: Serve, connect: Connect) -> None:
    other = await serve(answer({}))
    cloud = await serve(redirect(other.url / "api" / "user"))
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudGarbage, match="redirect"):
        await client.user()
    assert other.seen == []


async def test_a_key_in_an_answer_is_redacted(serve: Serve, connect: Connect) -> None:
    cloud = await serve(
        answer({"code": "NO", "message": f"bad key {KEY}"}, 403), answer({"system": {"key": KEY}})
    )
    client = await connect(cloud.url)
    with pytest.raises(CloudRefused) as caught:
        await client.user()
    assert KEY not in f"{caught.value} {caught.value.body}"
    assert await client.system_stats() == {"system": {"key": "[REDACTED]"}}


async def test_nothing_that_is_logged_or_raised_has_the_key(
    serve: Serve,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    cloud = await serve(answer({"code": KEY}, 503), answer({"code": KEY}, 404))
    client = await connect(cloud.url, retries=RetryPolicy(backoff=Backoff(0.01, 0.01)))
    with pytest.raises(CloudRefused) as caught:
        await client.user()
    out, err = capsys.readouterr()
    lines = [line for line in (out + err).splitlines() if "call_repeated" in line]
    assert "GET /api/user: 503" in lines[0]
    assert "attempt=2" in lines[0]
    assert KEY not in out + err + caplog.text + repr(caught.value)


@pytest.mark.parametrize(
    ("status", "failure"), [(503, "unanswered calls"), (500, "/api/system_stats")]
)
async def test_an_outage_has_one_line_at_its_begin_and_one_at_its_end(
    serve: Serve, connect: Connect, status: int, failure: str
) -> None:
    cloud = await serve(*[answer({}, status)] * 20, answer({}))
    client = await connect(cloud.url, retries=RetryPolicy(backoff=Backoff(0.001, 0.001)))
    with capture_logs() as lines:
        await client.system_stats()
        await client.system_stats()
    told = [line for line in lines if line["event"] in ("call_repeated", "failure_ended")]
    assert [line["event"] for line in told] == ["call_repeated", "failure_ended"]
    assert (told[1]["failure"], told[1]["count"]) == (failure, 20)


async def test_a_silent_cloud_opens_the_circuit_and_an_answer_closes_it(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({}, 503), answer({}, 504), answer({}))
    circuit = CircuitBreaker(failures=2, silence=0.0, backoff=Backoff(1.0, 30.0))
    client = await connect(cloud.url, breaker=circuit)
    with pytest.raises(CloudDown) as caught:
        await client.user()
    assert caught.value.retry_after == pytest.approx(0.5, abs=0.5)
    assert len(cloud.seen) == 2
    await asyncio.sleep(caught.value.retry_after)
    await client.user()
    assert not circuit.failing


async def test_refusals_do_not_open_the_circuit(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({}, 404))
    circuit = CircuitBreaker(failures=1, silence=0.0)
    client = await connect(cloud.url, breaker=circuit)
    assert await client.job("some") is None
    assert not circuit.failing


@pytest.mark.parametrize("route", API.routes)
@pytest.mark.parametrize("base", ["https://cloud.example", "https://cloud.example/cloud"])
async def test_a_call_is_counted_by_its_route_whatever_its_names_are(base: str, route: str) -> None:
    names = {name: "9f/cancel ü" for name in ("id", "folder", "file", "dest") if name in route}
    call = CloudClient(URL(base), KEY).http.call("GET", route, path=("a", "b.png"), **names)
    assert call.route == f"/api/{route}"
    path = route.replace("{path}", "a/b.png")
    for name in names:
        path = path.replace(f"{{{name}}}", "9f%2Fcancel%20%C3%BC")
    assert str(call.url) == f"{base}/api/{path}"


async def test_the_call_of_another_route_is_counted_as_other() -> None:
    http = CloudClient(URL("https://cloud.example"), KEY).http
    assert http.call("GET", "jobs/{id}/assets", id="a").route == "other"


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_what_cannot_be_in_a_path_is_not_found(name: str) -> None:
    http = CloudClient(URL("https://cloud.example"), KEY).http
    for names in ({"id": name}, {"path": ("a", name)}):
        with pytest.raises(CloudRefused) as caught:
            http.call("GET", "jobs/{id}", **names)
        assert caught.value.status == 404


def counted(metrics: Metrics, name: str, *labels: str) -> float:
    names = ("account", "method", "route", "status")
    found = dict(zip(names, ("main", *labels), strict=False))
    return metrics.registry.get_sample_value(PREFIX + name, found) or 0


async def test_answers_refusals_and_silence_are_counted(simulator: Simulator) -> None:
    metrics = Metrics()
    observations = AccountObservations("main", metrics)
    cloud = CloudClient(simulator.base_url, simulator.key, observations=observations)
    await cloud.start()
    await cloud.user()
    assert await cloud.job("7d4ab5a8-9d8c-4bb4-9e4b-1f2a6a3c1c55") is None
    cloud.use_key("comfyui-wrong")
    with pytest.raises(CloudRefused):
        await cloud.user()
    await cloud.close()
    for method, route, status in (
        ("GET", "/api/user", "200"),
        ("GET", "/api/jobs/{id}", "404"),
        ("GET", "/api/user", "401"),
    ):
        assert counted(metrics, "cloud_calls_total", method, route, status) == 1
    assert counted(metrics, "cloud_call_seconds_count", "GET", "/api/user") == 2


async def test_bytes_of_files_are_counted(simulator: Simulator, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.effect_noise((64, 64), 50).save(path)
    size = path.stat().st_size
    metrics = Metrics()
    observations = AccountObservations("main", metrics)
    cloud = CloudClient(simulator.base_url, simulator.key, observations=observations)
    await cloud.start()
    name = await cloud.upload_image(path, filename="picture.png", content_type="image/png")
    async with cloud.download(name, "input", 100) as download:
        received = [chunk async for chunk in download.chunks()]
    await cloud.close()
    assert counted(metrics, "cloud_bytes_uploaded_total") == size
    assert counted(metrics, "cloud_bytes_downloaded_total") == sum(map(len, received))


async def test_a_call_without_an_answer_is_counted_as_none(unused_tcp_port: int) -> None:
    metrics = Metrics()
    cloud = CloudClient(
        URL(f"http://127.0.0.1:{unused_tcp_port}"),
        "key",
        retries=RetryPolicy(budget=0.01),
        observations=AccountObservations("main", metrics),
    )
    await cloud.start()
    with pytest.raises(CloudUnreachable):
        await cloud.user()
    await cloud.close()
    assert counted(metrics, "cloud_calls_total", "GET", "/api/user", "none") >= 1


@pytest.mark.parametrize("encoding", [None, "gzip"])
async def test_an_endless_answer_is_given_up(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, encoding: str | None
) -> None:
    usual = AnswerLimits(1000, 100)
    monkeypatch.setattr(
        http.Http.read, "__kwdefaults__", {**http.Http.read.__kwdefaults__, "limits": usual}
    )
    body = b" " * 1_000_000
    headers = {"Content-Encoding": encoding} if encoding else {}
    body = gzip.compress(body) if encoding else body
    cloud = await serve(answer(body=body, headers=headers), answer({}))
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudGarbage, match="larger than 1,000 bytes"):
        await client.system_stats()
    assert await client.system_stats() == {}


async def test_of_an_endless_refusal_the_beginning_is_kept(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(status=404, text="gone " * 1_000_000), answer({}))
    client = await connect(cloud.url)
    with pytest.raises(CloudRefused) as caught:
        await client.system_stats()
    assert len(str(caught.value.body)) == http.MAX_REFUSAL
    assert await client.system_stats() == {}


async def test_an_answer_of_another_form_is_not_kept_until_the_next_attempt(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer(body=b"x" * 8 * 2**20))
    policy = RetryPolicy(budget=100.0, backoff=Backoff(60.0, 60.0))
    noted: list[Observation] = []
    observations = AccountObservations(keep=noted.append)
    client = await connect(cloud.url, retries=policy, observations=observations)
    tracemalloc.start()
    try:
        call = asyncio.create_task(client.job("a"))
        await until(lambda: noted)  # the answer is noted as one of another form
        await until(lambda: tracemalloc.get_traced_memory()[0] < 4 * 2**20)
    finally:
        tracemalloc.stop()
        call.cancel()
