"""What the cloud tells of a job between the answer to its submission and the job's runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from stack import Client, running_proxy

from proxy.engine.router import EventRouter
from proxy.engine.table import JobTable
from proxy.files.namespace import Namespace
from proxy.jobs import checks
from proxy.simulator import Simulator, Switches

#: A node that cannot run: the cloud tells its errors and leaves it out. Its id looks like a file's
#: name, which is looked up in the storage.
OMITTED: dict[str, Any] = {"3.png": {"class_type": "SaveImage", "inputs": {}}}


@pytest.mark.parametrize(
    ("place", "name", "omitted"),
    [(JobTable, "answer", {}), (JobTable, "answer", OMITTED), (Namespace, "revealed", OMITTED)],
    ids=["whole", "in part", "in part, while names are read"],
)
async def test_what_comes_while_the_client_gets_its_answer_is_sent(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    place: type,
    name: str,
    omitted: dict[str, Any],
) -> None:
    """A picture of SaveImageWebsocket comes once: no later look at the job brings it back."""
    held: list[Callable[[], None]] = []
    answered = asyncio.Event()
    for method in ("on_event", "on_frame"):
        take = getattr(EventRouter, method)

        def hold(router: EventRouter, *messages: Any, take: Any = take) -> None:
            if answered.is_set():
                take(router, *messages)
            else:
                held.append(lambda: take(router, *messages))

        monkeypatch.setattr(EventRouter, method, hold)

    begin = getattr(place, name)

    def bring() -> None:
        if not answered.is_set():
            answered.set()
            for take in held:
                take()

    def begin_and_bring(part: Any, *args: Any) -> Any:
        asyncio.get_running_loop().call_soon(bring)
        return begin(part, *args)

    monkeypatch.setattr(place, name, begin_and_bring)
    if omitted:  # validated by the cloud alone
        monkeypatch.setattr(checks, "_MAX_NODES", 0)
    switches = Switches(late_answer=0.5)
    async with (
        Simulator(switches=switches) as simulator,
        running_proxy(simulator, tmp_path / "data") as proxy,
    ):
        client = Client(session, proxy.url)
        await client.until_ready()
        graph = {**graphs.plain(), **omitted}
        graph["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
        async with client.listening() as listener:
            await listener.until_end(await client.submit(graph))
    assert len(held) > 2
    assert "binary" in [type_ for type_, _ in listener.received]
