"""What holds for every route: unknown paths, methods, bodies, errors, headers."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import graphs
import pytest
import structlog
from aiohttp import ClientError, ClientSession, web
from aiohttp.test_utils import TestClient
from stack import Proxy

from proxy.admin import (
    dashboard,
    gallery,
    metrics,
    runs,
    usage,
    webhooks,
)
from proxy.api import cloud_routes, downloads, userdata, websocket
from proxy.api.answer_headers import cache_control
from proxy.api.keys import READINESS
from proxy.app.server import ROUTES, server_logger
from proxy.members.directory import Directory
from proxy.members.member import LOCAL, Member
from proxy.packs.discovery import INSTALLED
from proxy.sharing.owners import ENGINE, Owner, acting_owner, member_owner
from proxy.storage.database import (
    BusyError,
    Database,
    OutcomeUnknownError,
    StorageError,
    TooManyUnitsError,
)
from proxy.translate.errors import LocalError

Client = TestClient[Any, Any]

GRAPH = {"prompt": {"1": {"class_type": "EmptyImage", "inputs": {}}}}


@pytest.mark.parametrize("path", ["/nope", "/api/nope", "/api", "/prompt/", "/interrupt", "/api/x"])
async def test_an_unknown_path_is_404_without_a_body(client: Client, path: str) -> None:
    response = await client.get(path)
    assert (response.status, await response.read()) == (404, b"")
    assert response.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_an_unknown_path_knows_no_other_method(client: Client, method: str) -> None:
    response = await client.request(method, "/no/such/route")
    assert (response.status, await response.text()) == (405, "405: Method Not Allowed")
    assert response.headers["Allow"] == "GET,HEAD"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/prompt", "GET,HEAD,POST"),
        ("PUT", "/api/queue", "GET,HEAD,POST"),
        ("PUT", "/interrupt", "GET,HEAD,POST"),
        ("POST", "/view", "GET,HEAD"),
        ("POST", "/ws", "GET,HEAD"),
    ],
)
async def test_a_wrong_method_gets_the_right_ones_in_allow(
    client: Client, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert (response.status, response.headers["Allow"]) == (405, allowed)


async def test_a_client_of_api_v2_is_told_what_to_put_between(client: Client) -> None:
    response = await client.post("/api/v2/jobs", json={"workflow": {}})
    assert response.status == 405
    assert "comfy-api-proxy run" in await response.text()


async def test_below_internal_even_404_has_words(client: Client) -> None:
    response = await client.get("/internal/nope")
    assert (response.status, await response.text()) == (404, "404: Not Found")


async def test_behind_two_slashes_even_404_has_words(client: Client) -> None:
    response = await client.session.get(f"{client.make_url('/')}/queue")
    assert response.url.path == "//queue"
    assert (response.status, await response.text()) == (404, "404: Not Found")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/t" * 64, 404),
        ("/t" * 65, 400),
        ("/queue?" + "a&" * 63, 200),
        ("/queue?" + "a&" * 64, 400),
    ],
)
async def test_a_target_with_too_much_in_it_is_400(
    client: Client, target: str, status: int
) -> None:
    async with client.session.get(f"{client.make_url('')}{target}") as response:
        assert response.status == status
        if status == 400:
            assert (await response.json())["error"]["type"] == "target_too_large"


async def test_a_request_line_that_is_too_long_is_400(client: Client) -> None:
    for length, status in ((8000, 404), (8200, 400)):
        async with client.get("/" + "x" * length) as response:
            assert response.status == status


@pytest.mark.parametrize("path", ["/prompt", "/api/prompt", "/nope", "/interrupt"])
async def test_options_is_200_and_empty_everywhere(client: Client, path: str) -> None:
    response = await client.options(path)
    assert (response.status, await response.read()) == (200, b"")
    assert response.headers["Content-Length"] == "0"
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/prompt", "/ws", "/nope"])
async def test_a_page_of_another_site_is_refused_everywhere(
    client: Client, method: str, path: str
) -> None:
    response = await client.request(method, path, headers={"Origin": "http://evil.example"})
    assert (response.status, await response.read()) == (403, b"")


#: They need more than a path, more of the stack, or answer for ever.
ELSEWHERE = {
    websocket.serve,
    downloads.get_view,
    userdata.list_files,
    metrics.get_metrics,
    dashboard.get_state,
    dashboard.get_events,
    webhooks.list_webhooks,
    usage.get_balances,
    gallery.list_jobs,
    gallery.get_job,
    gallery.get_thumbnail,
    runs.get_run,
    runs.get_preview,
    runs.get_workflow,
    cloud_routes.list_cloud_history,  # it is streamed, so that its length is not known
}
PACK_PATHS = {route.path for pack in INSTALLED.packs for route in pack.routes}
GETS = [
    route
    for route in ROUTES
    if route.method == "GET"
    and "{" not in route.path
    and route.handler not in ELSEWHERE
    and route.path not in PACK_PATHS
    and not route.assets
]


@pytest.mark.parametrize("route", GETS, ids=lambda route: route.path)
async def test_every_get_route_answers_head_and_its_twin(client: Client, route: Any) -> None:
    plain = await client.get(route.path, headers={"Accept-Encoding": "identity"})
    head = await client.head(route.path, headers={"Accept-Encoding": "identity"})
    assert (plain.status, head.status, await head.read()) == (200, 200, b"")
    assert head.headers["Content-Length"] == str(len(await plain.read()))
    twin = await client.get(f"/api{route.path}")
    assert twin.status == (200 if route.twin else 404)


async def test_json_is_written_as_comfyui_writes_it(client: Client) -> None:
    response = await client.get("/prompt")
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert await response.text() == '{"exec_info": {"queue_remaining": 0}}'


BAD_BODIES = [
    (b"{not json", "invalid_json"),
    (b"", "invalid_json"),
    (b"\xef\xbb\xbf{}", "invalid_json"),
    (b"\xff\xfe{}", "invalid_charset"),
    (b"[" * 100_000, "invalid_json"),
    (b"null", "invalid_body"),
    (b"5", "invalid_body"),
    (b'"prompt"', "invalid_body"),
]


@pytest.mark.parametrize(("body", "type_"), BAD_BODIES, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("path", ["/prompt", "/queue", "/history", "/free"])
async def test_a_bad_body_is_400_in_comfyuis_error_form(
    client: Client, path: str, body: bytes, type_: str
) -> None:
    response = await client.post(path, data=body)
    answer = await response.json()
    assert (response.status, answer["error"]["type"]) == (400, type_)
    assert set(answer) == {"error", "node_errors"}
    assert set(answer["error"]) == {"type", "message", "details", "extra_info"}


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/x-www-form-urlencoded", "text/plain", "image/png", None],
)
async def test_the_content_type_of_a_body_does_not_matter(
    client: Client, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await client.post("/prompt", data=json.dumps(GRAPH).encode(), headers=headers)
    assert response.status == 200


async def test_a_charset_is_heeded_and_an_unknown_one_refused(client: Client) -> None:
    body = json.dumps(GRAPH)
    for charset, status in (("iso-8859-1", 200), ("utf-16", 400), ("punycode", 400), ("no", 400)):
        headers = {"Content-Type": f"application/json; charset={charset}"}
        response = await client.post("/prompt", data=body.encode(), headers=headers)
        assert response.status == status


async def test_a_gzip_body_is_unpacked(client: Client) -> None:
    body = gzip.compress(json.dumps(GRAPH).encode())
    response = await client.post("/prompt", data=body, headers={"Content-Encoding": "gzip"})
    assert response.status == 200


async def test_a_body_that_is_not_gzip_is_400(client: Client) -> None:
    response = await client.post(
        "/prompt", data=json.dumps(GRAPH).encode(), headers={"Content-Encoding": "gzip"}
    )
    assert (response.status, (await response.json())["error"]["type"]) == (
        400,
        "invalid_content_encoding",
    )


@pytest.mark.parametrize("path", ["/prompt", "/interrupt", "/queue", "/api/jobs/cancel"])
async def test_a_body_over_the_limit_is_413(serve: Any, path: str) -> None:
    client = await serve(max_upload_bytes=10486)
    response = await client.post(path, data=b"{" + b" " * 20_000 + b"}")
    assert (response.status, await response.text()) == (
        413,
        "Maximum request body size 10486 exceeded.",
    )
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_a_body_that_hides_its_length_is_413_as_well(serve: Any) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1000

    client = await serve(max_upload_bytes=10486)
    assert (await client.post("/prompt", data=endless())).status == 413


async def test_a_gzip_bomb_is_413(serve: Any) -> None:
    client = await serve(max_upload_bytes=10486)
    body = gzip.compress(b" " * 1_000_000)
    response = await client.post("/prompt", data=body, headers={"Content-Encoding": "gzip"})
    assert response.status == 413


async def test_a_refusal_of_a_lower_room_is_passed_on(client: Client, room_of_jobs: Any) -> None:
    room_of_jobs.refusal = LocalError(
        "QUEUE_LIMIT", "The queue is full.", kind="unavailable", retry_after=7
    )
    response = await client.post("/prompt", json=GRAPH)
    assert (response.status, response.headers["Retry-After"]) == (503, "7")
    assert (await response.json())["error"]["message"] == "The queue is full."


async def test_an_unforeseen_error_is_logged_and_not_shown(
    client: Client, room_of_jobs: Any
) -> None:
    room_of_jobs.failure = KeyError("a secret")
    with structlog.testing.capture_logs() as logs:
        response = await client.get("/queue")
    text = await response.text()
    assert (response.status, "secret" in text, "Traceback" in text) == (500, False, False)
    assert [line["log_level"] for line in logs if line["event"] == "request_failed"] == ["error"]


async def test_a_broken_data_folder_is_503_in_words(client: Client, room_of_jobs: Any) -> None:
    room_of_jobs.failure = StorageError("disk full")
    response = await client.get("/queue")
    assert (response.status, (await response.json())["error"]["type"]) == (
        503,
        "store_unavailable",
    )
    assert response.headers["Retry-After"] == "2"


async def test_what_is_shed_is_503_and_says_when_to_try_again(
    client: Client, room_of_jobs: Any
) -> None:
    room_of_jobs.failure = BusyError("units wait")
    response = await client.get("/queue")
    assert (response.status, (await response.json())["error"]["type"]) == (503, "busy")
    assert response.headers["Retry-After"] == "2"


async def test_too_much_of_one_client_is_429_and_says_when_to_try_again(
    client: Client, room_of_jobs: Any
) -> None:
    room_of_jobs.failure = TooManyUnitsError()
    response = await client.get("/queue")
    error = (await response.json())["error"]
    assert (response.status, error["type"]) == (429, "too_many_requests")
    assert response.headers["Retry-After"] == "2"


async def test_units_belong_to_who_sent_the_request_and_those_of_its_job_to_the_engine(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = list[Owner]()
    database = proxy.services[READINESS].database
    write = type(database).write

    async def noted(self: Database, work: Any, **options: Any) -> Any:
        owners.append(acting_owner())
        return await write(self, work, **options)

    monkeypatch.setattr(type(database), "write", noted)
    async with ClientSession(proxy.url) as session:
        await session.post("/settings/name", json="value")
        assert owners.count(member_owner(LOCAL)) == 1
        owners.clear()
        async with session.ws_connect("/ws?clientId=me") as socket:
            await session.post("/prompt", json={"prompt": graphs.plain(), "client_id": "me"})
            async for message in socket:
                if "execution_success" in str(message.data):
                    break
    assert set(owners) == {member_owner(LOCAL), ENGINE}
    assert owners.count(member_owner(LOCAL)) == 1


async def test_where_nobody_knows_what_was_written_there_is_no_answer(
    client: Client, room_of_jobs: Any
) -> None:
    room_of_jobs.failure = OutcomeUnknownError("the database went away")
    with pytest.raises(ClientError):
        await client.post("/prompt", json=GRAPH)


async def test_bad_input_leaves_no_traceback_in_the_log(client: Client) -> None:
    with structlog.testing.capture_logs() as logs:
        await client.post("/prompt", data=b"{oops")
    assert not [line for line in logs if line.get("exc_info")]


async def test_what_is_not_http_is_400_and_one_line(client: Client, caplog: Any) -> None:
    runner = web.AppRunner(client.app, logger=server_logger())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.0 400 Bad Request")
    writer.close()
    await runner.cleanup()
    lines = [line for line in caplog.records if line.name == server_logger().name]
    assert [(line.levelname, line.exc_info) for line in lines] == [("INFO", None)]


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/missing.png", 404, "public, max-age=3600"),
        ("/a/b.WEBP", 200, "public, max-age=86400"),
        ("/x.jpg", 302, "no-cache"),
        ("/x.jpg", 304, None),
        ("/app.js", 404, "no-store"),
        ("/app.mjs", 200, "no-store"),
        ("/user.css", 403, "no-store"),
        ("/templates/index.fr.json", 200, "no-store"),
        ("/view", 200, None),
        ("/queue", 200, None),
    ],
)
def test_cache_control_goes_by_path_and_status(path: str, status: int, expected: Any) -> None:
    assert cache_control(path, status) == expected


async def test_cache_control_is_sent_even_with_a_refusal(client: Client) -> None:
    response = await client.get("/user.css", headers={"Origin": "http://evil.example"})
    assert (response.status, response.headers["Cache-Control"]) == (403, "no-store")


PAGE = "https://app.example"


async def test_an_allowed_page_gets_cors_headers(serve: Any) -> None:
    client = await serve(cors_origins=(PAGE,))
    headers = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    for path in ("/prompt", "/api/prompt", "/nope", "/view", "/proxy/api/usage", "/api/assets"):
        response = await client.get(path, headers=headers)
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Origin" in response.headers.getall("Vary")
    refused = await client.get("/prompt", headers={"Origin": "https://evil.example"})
    assert (refused.status, "Access-Control-Allow-Origin" in refused.headers) == (403, False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/prompt"),
        ("POST", "/api/queue"),
        ("DELETE", "/userdata/a.json"),
        ("PATCH", "/proxy/api/members/ann"),
        ("DELETE", "/api/assets/x"),
    ],
)
async def test_a_preflight_of_an_allowed_page_is_answered(
    serve: Any, method: str, path: str
) -> None:
    client = await serve(cors_origins=(PAGE,))
    asked = {
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,x-api-key",
    }
    response = await client.options(path, headers={"Origin": PAGE, **asked})
    assert response.status == 200
    assert response.headers["Access-Control-Allow-Origin"] == PAGE
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert response.headers["Access-Control-Allow-Methods"] == method
    allowed = response.headers["Access-Control-Allow-Headers"].lower().split(",")
    assert {"authorization", "content-type", "x-api-key"} <= set(allowed)
    other = await client.options(path, headers={"Origin": "https://evil.example", **asked})
    assert (other.status, "Access-Control-Allow-Origin" in other.headers) == (403, False)


async def test_an_allowed_page_may_read_refusals_and_their_headers(serve: Any) -> None:
    members = Directory()
    await members.add(Member("ann"))
    client = await serve(cors_origins=(PAGE,), members=members)
    response = await client.get("/queue", headers={"Origin": PAGE})
    assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (401, PAGE)
    exposed = response.headers["Access-Control-Expose-Headers"].split(",")
    assert "WWW-Authenticate" in exposed


async def test_with_a_star_the_headers_are_those_of_comfyui(serve: Any) -> None:
    client = await serve(cors_origins=("*",))
    for method, path in (("GET", "/prompt"), ("OPTIONS", "/prompt"), ("GET", "/nope")):
        response = await client.request(method, path)
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Access-Control-Allow-Methods"] == (
            "POST, GET, DELETE, PUT, OPTIONS, PATCH"
        )
        assert response.headers["Access-Control-Allow-Headers"] == "Content-Type, Authorization"
    wrong = await client.request("POST", "/nope")
    assert (wrong.status, "Access-Control-Allow-Origin" in wrong.headers) == (405, False)


async def test_an_answer_in_pieces_has_the_headers_of_others(serve: Any) -> None:
    client = await serve(cors_origins=("*",))
    response = await client.get("/api/history_v2")
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
