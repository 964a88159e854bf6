"""Strangers who hold as much memory as they get."""

from __future__ import annotations

import asyncio
import io
import json

from security.attack import STRANGER, Target

ADDRESSES, CONNECTIONS = 9, 256
HEAD = b"GET /queue HTTP/1.1\r\nHost: x\r\n"
UNFINISHED = HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 15_700) for number in range(4))


async def test_unfinished_headers_of_several_addresses(target: Target) -> None:
    """A member still gets memory for what it sends."""
    graph = {"1": {"class_type": "Nope", "inputs": {"text": "x" * 200_000}}}
    async with target.attacked_by(STRANGER):
        for number in range(ADDRESSES):
            await asyncio.gather(
                *(
                    target.connect(UNFINISHED, source=f"127.0.0.{number + 2}")
                    for _ in range(CONNECTIONS)
                )
            )
        await asyncio.sleep(1)
        for _ in range(3):
            body = json.dumps({"prompt": graph}).encode()
            assert await target.request("POST", "prompt", member="bob", data=body) == 400
            status = await target.request(
                "POST", "userdata/x?overwrite=true", member="bob", data=io.BytesIO(bytes(8_000_000))
            )
            assert status == 200
