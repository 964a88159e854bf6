"""How answers go out, with the faults that concern them; the same on both origins."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.simulator.faults import HttpFault

_RESET = struct.pack("ii", 1, 0)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def reset(transport: asyncio.BaseTransport | None) -> None:
    """End a connection with a TCP reset."""
    abort = getattr(transport, "abort", None)
    if transport is None or abort is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    abort()


async def answer(
    request: web.Request, handler: Handler, fault: HttpFault | None
) -> web.StreamResponse:
    """Run the handler and send its answer, or what the fault makes of it."""
    if fault is None:
        return await handler(request)
    if fault.delay:
        await asyncio.sleep(fault.delay)
    instead = fault.reset or fault.status is not None
    if not instead or fault.processed:
        response = await handler(request)
    if fault.reset:
        reset(request.transport)
        return web.Response(status=fault.status or 500)
    if fault.status is not None:
        headers = {"Content-Type": "text/plain", **fault.headers}
        return web.Response(status=fault.status, text=fault.body, headers=headers)
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    try:
        return await _spoilt(request, response, response.body, fault)
    except ConnectionError:  # the client is gone
        return response


async def _spoilt(
    request: web.Request, whole: web.Response, body: bytes, fault: HttpFault
) -> web.StreamResponse:
    sent = body if fault.cut is None else body[: fault.cut]
    if fault.corrupt and sent:
        sent = sent[:-1] + bytes([sent[-1] ^ 0xFF])
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    promised = len(sent) if fault.ending == "clean" else len(body)
    response.headers["Content-Length"] = str(promised)
    await response.prepare(request)
    piece = fault.drip_bytes if fault.drip else max(len(sent), 1)
    for start in range(0, len(sent), piece):
        await response.write(sent[start : start + piece])
        if fault.drip:
            await asyncio.sleep(fault.drip)
    if promised == len(sent):
        await response.write_eof()
    elif fault.ending == "reset":
        reset(request.transport)
    elif request.transport is not None:
        request.transport.close()
    return response
