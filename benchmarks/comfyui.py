"""ComfyUI's `GET /object_info`, without the work of asking every class: `json_response` of all."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvloop
from aiohttp import web


async def serve(object_info: object) -> None:
    """Answer until the process is ended."""

    async def handle(_: web.Request) -> web.Response:
        return web.json_response(object_info)

    app = web.Application()
    app.router.add_get("/object_info", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(Path(sys.argv[1]).read_bytes())))
