"""The whole stack below a base path."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import graphs
from stack import Client, running_proxy

from proxy.simulator import Simulator


async def test_a_job_below_the_base_path(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path / "data", base_path="/comfy/") as proxy:
        client = Client(session, proxy.url / "comfy")
        entry = await client.run(graphs.plain())
        (image,) = next(iter(entry["outputs"].values()))["images"]
        whole = await client.view(image)
        view = (client.url / "view").with_query(image)
        async with session.get(view, headers={"Range": "bytes=0-3"}) as part:
            assert (part.status, await part.read()) == (206, whole[:4])
        async with session.head(view) as head:
            assert head.status == 200
            assert int(head.headers["Content-Length"]) == len(whole)
        await client.upload("a.png", graphs.png())
        status, _ = await Client(session, proxy.url).get("queue")
        assert status == 200
