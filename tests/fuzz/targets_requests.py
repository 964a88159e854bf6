"""Targets: paths, queries, headers and bodies of requests."""

from __future__ import annotations

import asyncio
import warnings
from functools import cache
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from fuzz import seeds
from fuzz.harness import of_bytes, of_json, of_text
from multidict import MultiDict
from yarl import URL

from proxy.api import bodies, credentials, origins, request_bodies
from proxy.api.jobs import parse_query, removals
from proxy.api.keys import ACCOUNTING, BUDGET, SPOOL, Services
from proxy.api.spool import Spool
from proxy.api.upload import form, original_ref
from proxy.edge import addressing
from proxy.edge.connections import Admission
from proxy.files.conversions import conversion, original_place, small
from proxy.sharing import owners
from proxy.sharing.budget import MemoryBudget
from proxy.translate import asset_requests, codec, media_types
from proxy.translate.assets import AssetError, read_cursor, read_hash
from proxy.translate.errors import LocalError
from proxy.webhooks.addresses import WebhookAddresses, WebhookUrlError

_SECRET = "comfyui-secret-key"

#: Bytes of a request line or of a header that the server reads.
_MAX_LINE = 8190

#: Bytes of a form, which has a few dozen parts.
_MAX_FORM = 12 * 1024


@of_bytes(ValueError, seeds=lambda: (codec.dump_bytes(value) for value in seeds.events()))
def json_value(data: bytes) -> None:
    """Decode JSON, and look for secrets in it."""
    codec.breadth(data)
    codec.may_show(data, _SECRET)
    value = codec.loads_text(data)
    codec.redact(value, _SECRET)
    request_bodies.parse(data, "latin-1")


@of_text(LocalError, seeds=("limit=5&offset=1&status=completed", *seeds.queries()))
def query(text: str) -> None:
    """Read the queries of lists, pictures and pages."""
    pairs = MultiDict(parse_qsl(text[:_MAX_LINE], keep_blank_values=True))
    for read in (
        parse_query,
        asset_requests.read_list,
        asset_requests.read_refine,
        asset_requests.read_tags,
    ):
        try:
            read(pairs)  # type: ignore[operator]
        except LocalError:
            continue
    request_bodies.query_number(pairs, "limit", 5, 1, 100)
    conversion(pairs.get("preview"), pairs.get("channel"))
    small(pairs.get("res"), "a.png")
    for value in list(pairs.values())[:10]:
        asset_requests.read_name(value)
        read_hash(value)


@of_text(AssetError, seeds=["eyJzIjogIm5hbWUiLCAidiI6ICJhIiwgImlkIjogIjEiLCAibyI6ICJhc2MifQ"])
def cursor(text: str) -> None:
    """Read the cursor of a list."""
    read_cursor(text, "name", "asc")


@of_json(
    LocalError,
    parse=request_bodies.parse,
    seeds=lambda: [
        {"name": "a", "tags": ["input"], "user_metadata": {"a": 1}, "hash": "blake3:" + "0" * 64},
        {"job_ids": ["14a1c0de-0000-4000-8000-000000000001"], "naming_strategy": "preserve"},
        {"roots": ["models"], "clear": True, "delete": ["a"], "mime_type": "image/png; a=b"},
    ],
)
def asset_body(value: Any) -> None:
    """Read bodies of routes of assets and lists."""
    for read in (
        asset_requests.read_changes,
        asset_requests.read_tags_body,
        asset_requests.read_roots,
        asset_requests.read_new,
        asset_requests.read_export,
    ):
        try:
            read(value)  # type: ignore[operator]
        except LocalError:
            continue
    if isinstance(value, dict):
        removals(value)
        texts = {name: text for name, text in value.items() if isinstance(text, str)}
        asset_requests.read_upload(texts, texts.values())


@of_text(LocalError, seeds=['{"filename": "a.png", "subfolder": "", "type": "input"}'])
def original_of_a_mask(text: str) -> None:
    """Read the picture that a mask belongs to."""
    original_place(original_ref(text))


@of_text(ValueError, seeds=["/t/comfy_token/queue?token=a", "/comfy/t/a/../b", *seeds.paths()])
def token_path(text: str) -> None:
    """Remove prefixes and tokens from a request's address."""
    path, _, query_string = text[:_MAX_LINE].partition("?")
    url = URL.build(path=path, query_string=query_string, encoded=True)
    addressing.may_have_token(text)
    stripped, _ = addressing.strip(url, "/comfy", members=True)
    assert "token" not in stripped.query


@of_text(
    LocalError, seeds=["Bearer abc", "Basic YTpi", "a=b; c=d", "gzip;q=0.5, *", "127.0.0.1:80"]
)
def header(text: str) -> None:
    """Read headers of requests."""
    text = text[:_MAX_LINE]
    media_types.charset(text)
    bodies.coding([text], ("deflate", "gzip"))
    owners.parse_address.__wrapped__(text)
    origins.is_cross_origin(text, f"http://{text}")
    origins.is_loopback(text)
    origins.is_rebindable(text, ["*.example.com"])
    headers = {"Authorization": text, "Cookie": text, "X-API-Key": text}
    if text.isprintable():
        request = make_mocked_request("GET", "/", headers)
        request.protocol.prefix = addressing.NO_PREFIX
        credentials.cookie(request, "session")
        credentials.credentials_of(request)


@of_text(
    WebhookUrlError,
    seeds=["https://example.com/a?b#c", "http://[::1]:80/", "https://user@127.0.0.1", "http://a:x"],
)
def webhook_url(text: str) -> None:
    """Check the address of a webhook."""
    WebhookAddresses().check_url(text)


async def _no_limit(_: str) -> None:
    return None


@cache
def _services() -> Services:
    """What a form needs, for a member without limits."""
    services = Services()
    limiter = SimpleNamespace(upload_room=_no_limit)
    services[ACCOUNTING] = SimpleNamespace(limiter=limiter)  # type: ignore[misc]
    services[SPOOL] = Spool(2**28)
    services[BUDGET] = MemoryBudget(2**28)
    return services


@cache
def _app() -> web.Application:
    app = web.Application()
    _services().provide(app)
    return app


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@of_bytes(
    LocalError,
    web.HTTPException,
    seeds=lambda: (type_.encode() + b"\n" + body for type_, body in seeds.uploads()),
)
def multipart(data: bytes) -> None:
    """Read a form: its content type is the first line.

    Other tasks run between two parts, so that what one form takes in all is not bounded.
    """
    type_, _, body = data[:_MAX_FORM].partition(b"\n")
    if type_.decode(errors="replace").isprintable():
        with warnings.catch_warnings(action="ignore"):  # of aiohttp, which the program ignores too
            _loop().run_until_complete(_read_form(type_.decode(errors="replace"), body))


async def _read_form(type_: str, body: bytes) -> None:
    content = StreamReader(BaseProtocol(_loop()), 2**16, loop=_loop())
    content.feed_data(body)
    content.feed_eof()
    request = make_mocked_request(
        "POST", "/upload/image", {"Content-Type": type_}, payload=content, app=_app()
    )
    protocol = request.protocol
    protocol.admission = Admission("local")
    protocol.context.services = _services()
    protocol.max_field_size, protocol.max_headers = 8190, 128
    async with form(request) as fields:
        list(fields.values())
