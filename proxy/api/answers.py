"""Answers in ComfyUI's manner: JSON by `json.dumps`, and empty bodies without a content type."""

from __future__ import annotations

from aiohttp import web

from proxy.translate import codec
from proxy.translate.errors import LocalError

JSON_TYPE = "application/json; charset=utf-8"


def ready(body: bytes, status: int = 200) -> web.Response:
    """JSON that has been encoded already."""
    return web.Response(body=body, status=status, headers={"Content-Type": JSON_TYPE})


def json(value: object, status: int = 200) -> web.Response:
    """A value as ComfyUI's JSON."""
    return ready(codec.dump_bytes(value), status)


def empty(status: int = 200) -> web.Response:
    """A bare status: `Content-Length: 0` and no content type."""
    return web.Response(status=status)


def text(body: str, status: int = 200) -> web.Response:
    """Plain text."""
    return web.Response(text=body, status=status)


def refusal(error: LocalError) -> web.Response:
    """An error in the form of ComfyUI's prompt errors."""
    answer = json(error.body(), error.status)
    answer.headers.update(error.headers)
    return answer


def job_error(message: str, status: int = 400, **more: object) -> web.Response:
    """An error in the form of ComfyUI's job routes: `{"error": message}`."""
    return json({"error": message, **more}, status)
