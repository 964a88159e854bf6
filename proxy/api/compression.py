"""Packed JSON and text for clients that can unpack it: ComfyUI's `--enable-compress-response-body`.

Files, pictures, websockets and what is packed already go as they are. Large bodies are packed in
a thread (aiohttp does so).
"""

from __future__ import annotations

from aiohttp import web

from proxy.api import accept

#: The codings of ComfyUI; of equal ones it takes the first.
_CODINGS = ("deflate", "gzip")
_TYPES = frozenset({"application/json", "text/plain"})
#: Bytes below which packing costs more than it saves.
LEAST = 256


def pack(request: web.Request, answer: web.StreamResponse) -> None:
    """Have an answer packed as it is sent, if it is one to pack and the client asked for it."""
    if not isinstance(answer, web.Response) or answer.prepared:
        return
    if answer.content_type not in _TYPES or "Content-Encoding" in answer.headers:
        return
    if not isinstance(answer.body, bytes | bytearray) or len(answer.body) < LEAST:
        return
    answer.headers.add("Vary", "Accept-Encoding")
    coding = accept.coding(request.headers.getall("Accept-Encoding", ()), _CODINGS)
    if coding != accept.IDENTITY:
        answer.enable_compression(web.ContentCoding(coding))
