"""How both origins listen, and how their answers go out, with the faults that concern them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web
from yarl import URL

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


class Listener:
    """Serves an application on one address; may be started again after a stop."""

    def __init__(self, make_app: Callable[[], web.Application]) -> None:
        self._make_app = make_app
        self._runner: web.AppRunner | None = None
        self._url: URL | None = None

    @property
    def url(self) -> URL:
        """The origin. Raises `RuntimeError` before the start."""
        if self._url is None:
            raise RuntimeError("the simulator does not listen yet: await start() first")
        return self._url

    async def start(self, host: str, port: int) -> None:
        """Begin to listen; port 0 takes a free one. Raises `OSError` when the address is not
        free."""
        runner = web.AppRunner(self._make_app(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        address = runner.addresses[0]
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        self._url = URL(f"http://{name}:{address[1]}")

    async def stop(self) -> None:
        """Release the port; requests in progress are cut off."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
