"""Every route of the table with odd input, over real sockets: never a failure of the proxy's own.

The routes come from the table, so that a new one is asked as well.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes

import graphs
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stack import TIMEOUT, running_proxy

from proxy.api import assets, system
from proxy.api.routes import Route
from proxy.app.server import ROUTES
from proxy.simulator import Simulator

EXAMPLES = 12

#: Names that some route reads from its query or its body.
NAMES = [
    *("filename", "type", "subfolder", "preview", "channel", "max_items", "offset", "limit"),
    *("status", "sort_by", "sort_order", "workflow_id", "dir", "recurse", "split", "full_info"),
    *("overwrite", "path", "clientId", "token", "format", "res"),
]
KEYS = [
    *("prompt", "client_id", "prompt_id", "number", "front", "extra_data", "clear", "delete"),
    *("partial_execution_targets", "job_ids", "unload_models", "free_memory", "clientId"),
    *("enabled", "name", "role", "limits", "weight", "member", "extra_pnginfo", "class_type"),
]

ODD_TEXTS = [
    *("", " ", ".", "..", "../..", "/", "//", "\\", "a/b", "%", "%2e%2e%2f", "%00", "\0", "\n"),
    *("\r\nX: y", "null", "NaN", "Infinity", "-1", "0", "1e999", "9" * 40, "true", "é", "\u202e"),
    *("🎨" * 40, "a" * 300, "con", "a;b=c", "{}", "[]", "'", '"', "<script>", "local", "x [input]"),
    *("14a1c0de-0000-4000-8000-000000000001", "blake3:" + "0" * 64, "input", "webp;200", "rgb"),
]
texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=12)

numbers = st.sampled_from(
    [0, -1, 2**63, 2**70, -(2**70), 10**400, 1e308, -0.0, float("nan"), float("inf")]
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def submissions(draw: st.DrawFn) -> dict[str, Any]:
    """A submission that would run, but for something in its graph or beside it."""
    graph: Any = copy.deepcopy(graphs.plain())
    node = draw(st.sampled_from(["1", "2", "3"]))
    where = draw(st.sampled_from(["node", "class_type", "inputs", "an input", "beside"]))
    odd = draw(values)
    if where == "node":
        graph[node] = odd
    elif where in ("class_type", "inputs"):
        graph.setdefault(node, {"class_type": "SaveImage", "inputs": {}})[where] = odd
    elif where == "an input":
        graph["2"]["inputs"][draw(st.sampled_from(["images", "filename_prefix", "x"]))] = odd
    body = {"prompt": graph}
    if where == "beside":
        body[draw(st.sampled_from(KEYS[1:]))] = odd
    return body


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)
json_bodies = (values | objects | submissions()).map(as_json)
broken_bodies = st.sampled_from(
    [
        *(b"", b"{", b"[" * 5000, b"[" * 5000 + b"]" * 5000, b'{"a":' * 900 + b"1" + b"}" * 900),
        *(b"\xff\xfe", b'"\xff"', b'"\\ud800"', b'{"\\ud800": 1}', b'{"prompt": {"\\ud800": {}}}'),
        *(b"\x1f\x8b\x08\x00", b"NaN", b"-", b"1" * 5000, b'{"clear": true, "clear": 1}', b"\0"),
    ]
) | st.binary(max_size=40)


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes]:
    """A form with files, whole or broken."""
    boundary = draw(st.sampled_from(["b", "x" * 70, "a b", ""]))
    parts = b""
    for _ in range(draw(st.integers(0, 3))):
        name = draw(
            st.sampled_from(["image", "type", "subfolder", "overwrite", "original_ref", "x"])
        )
        filename = draw(st.none() | texts)
        head = f'Content-Disposition: form-data; name="{name}"'
        if filename is not None:
            head += f'; filename="{filename}"'
        value = draw(st.binary(max_size=20) | values.map(as_json))
        encoded = head.encode("utf-8", "surrogatepass").replace(b"\n", b" ").replace(b"\r", b" ")
        more = draw(
            st.sampled_from([b"", b"\r\nContent-Transfer-Encoding: base64", b"\r\nnonsense"])
        )
        parts += f"--{boundary}\r\n".encode() + encoded + more + b"\r\n\r\n" + value + b"\r\n"
    end = draw(st.sampled_from([f"--{boundary}--\r\n", f"--{boundary}", "", "--other--\r\n"]))
    type_ = draw(
        st.sampled_from([f"multipart/form-data; boundary={boundary}", "multipart/form-data"])
    )
    return type_, parts + end.encode()


typed_bodies = (
    st.tuples(
        st.sampled_from(
            [
                *("application/json", "text/plain", "application/x-www-form-urlencoded", ""),
                *("application/json; charset=latin-1", "application/json; charset=nope", "/", ";"),
            ]
        ),
        json_bodies | broken_bodies,
    )
    | forms()
)

headers = st.dictionaries(
    st.sampled_from(
        [
            *("Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since", "Accept"),
            *("If-Unmodified-Since", "Accept-Encoding", "Content-Encoding", "Cookie", "Comfy-User"),
            *("Authorization", "X-API-Key", "Sec-Fetch-Dest", "Upgrade", "Sec-WebSocket-Key"),
            *("X-Forwarded-For", "X-Forwarded-Prefix", "Expect", "Accept-Language"),
        ]
    ),
    st.sampled_from(
        [
            *("bytes=0-", "bytes=5-1", "bytes=-0", "bytes=a-b", "bytes=0-1,3-4", "bytes=99999999-"),
            *('"x"', 'W/"x"', "*", '"', "gzip", "br;q=x", "gzip;q=0,*;q=0", "websocket", "é", ""),
            *("Mon, 01 Jan 0000 00:00:00 GMT", "Bearer ", "Basic !!!", "a=b; c", "100-continue"),
        ]
    ),
    max_size=3,
)


@dataclass
class Served:
    """A proxy in a thread of its own, and what it logged."""

    address: tuple[str, int] = ("", 0)
    logged: list[Any] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=TIMEOUT)


class _Errors(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._told = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(f"{record.name}: {record.getMessage()} {record.exc_info}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served, up = Served(), threading.Event()
    ends: list[Any] = []

    async def serve(folder: Path) -> None:
        end = asyncio.Event()
        async with Simulator() as simulator, running_proxy(simulator, folder) as proxy:
            served.address = str(proxy.url.host), int(proxy.url.port or 0)
            ends.extend((asyncio.get_running_loop(), end))
            up.set()
            await end.wait()

    folder = tmp_path_factory.mktemp("data")
    thread = threading.Thread(target=lambda: asyncio.run(serve(folder)))
    handler = _Errors(served.server_errors)
    logging.getLogger().addHandler(handler)
    with structlog.testing.capture_logs() as logged:
        served.logged = logged
        thread.start()
        assert up.wait(TIMEOUT)
        yield served
        loop, end = ends
        loop.call_soon_threadsafe(end.set)
        thread.join(TIMEOUT)
    logging.getLogger().removeHandler(handler)
    assert not thread.is_alive()


def request(
    method: str, target: str, fields: dict[str, str], body: tuple[str, bytes] | None
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    if body is not None:
        type_, data = body
        lines += [f"Content-Length: {len(data)}", *([f"Content-Type: {type_}"] if type_ else [])]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + (body[1] if body else b"")


def ask(connection: socket.socket, sent: bytes) -> tuple[int, bytes, bool]:
    """Status and body of the answer, and whether the connection can be used again."""
    connection.sendall(sent)
    with closing(HTTPResponse(connection, method=sent.partition(b" ")[0].decode())) as answer:
        answer.begin()
        if answer.status == 101:
            return 101, b"", False
        if answer.headers.get_content_type() == "text/event-stream":
            return answer.status, answer.readline(), False
        return answer.status, answer.read(), not answer.will_close


def escaped(part: str) -> str:
    return quote_from_bytes(part.encode("utf-8", "surrogatepass"), safe="")


@st.composite
def targets(draw: st.DrawFn, route: Route) -> str:
    """The route's path with odd parts, and an odd query."""
    prefix = draw(st.sampled_from(["", "/api"])) if route.twin else ""
    path = ""
    for step in route.path.strip("/").split("/"):
        part = step
        if step.startswith("{"):
            odd = draw(texts)
            part = draw(st.sampled_from([escaped(odd), quote(odd, safe="/", errors="replace")]))
        path += f"/{part}"
    query = draw(st.lists(st.tuples(st.sampled_from(NAMES), texts), max_size=3))
    bad = draw(st.sampled_from(["", "", "", "%ff=%fe", "a&&=", "%"]))
    pairs = [f"{name}={escaped(value)}" for name, value in query] + ([bad] if bad else [])
    return prefix + path + ("?" + "&".join(pairs) if pairs else "")


def methods(route: Route) -> st.SearchStrategy[str]:
    """Mostly those of the route."""
    own = ["GET", "HEAD"] if route.method == "GET" else [route.method]
    every = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
    return st.sampled_from(every if route.method == "*" else own * 4 + every)


# The proxy in its thread draws random numbers, too, which Hypothesis takes for the strategies'.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_input_is_a_failure_of_the_proxys_own(
    served: Served, route: Route, data: st.DataObject
) -> None:
    method = data.draw(methods(route), label="method")
    target = data.draw(targets(route), label="target")
    body = data.draw(st.none() | typed_bodies, label="body")
    fields = data.draw(headers, label="headers")
    sent = request(method, target, fields, body)
    with served.connect() as connection:
        status, answer, usable = ask(connection, sent)
        may_be_away = route.handler in (assets.not_here, system.get_readiness)
        assert status < 500 or (status in (501, 503) and may_be_away), (status, answer[:500])
        # A body that cannot be unpacked ends the connection, behind the answer.
        if usable and not (body and "Content-Encoding" in fields):
            assert ask(connection, request("GET", "/healthz", {}, None))[0] == 200
    assert not [line for line in served.logged if line["log_level"] in ("error", "critical")]
    assert not [line for line in served.logged if line.get("exc_info")]
    assert not served.server_errors


def test_it_serves_as_before(served: Served) -> None:
    body = "application/json", as_json({"prompt": graphs.plain()})
    with served.connect() as connection:
        assert ask(connection, request("POST", "/prompt", {}, body))[0] == 200
