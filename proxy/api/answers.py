"""Answers in ComfyUI's manner: JSON by `json.dumps`, and empty bodies without a content type."""

from __future__ import annotations

from aiohttp import web

from proxy.translate import codec
from proxy.translate.errors import LocalError

JSON_TYPE = "application/json; charset=utf-8"


#: Bytes of an answer that are written at once.
PIECE = 256 * 1024


class _InPieces(web.Response):
    """An answer of which no more than a piece waits for a client that reads slowly or not at all.

    aiohttp gives a whole body to the transport, which keeps all of it that is not taken.
    """

    async def write_eof(self, data: bytes = b"") -> None:
        """Write what is left."""
        body = self._body if self._compressed_body is None else self._compressed_body
        if self._eof_sent or self._must_be_empty_body or not isinstance(body, bytes | bytearray):
            await super().write_eof(data)
            return
        whole = memoryview(body)
        last = max(0, len(whole) - 1) // PIECE * PIECE
        for start in range(0, last, PIECE):
            await self.write(whole[start : start + PIECE])
        await web.StreamResponse.write_eof(self, bytes(whole[last:]))


def ready(body: bytes, status: int = 200) -> web.Response:
    """JSON that has been encoded already."""
    kind = web.Response if len(body) <= PIECE else _InPieces
    return kind(body=body, status=status, headers={"Content-Type": JSON_TYPE})


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
