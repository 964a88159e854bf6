"""Clients that submit a job each, listen, and note how old each event is. Prints JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import struct
import time
import uuid

import aiohttp
import uvloop
from yarl import URL

#: Seconds at the beginning and at the end of the jobs that are not counted.
MARGIN = 2.0


class Ages:
    """Milliseconds from the making of an event to its arrival, while `counting`."""

    def __init__(self) -> None:
        self.counting = False
        self.messages = 0
        self.started = 0
        self.ages: list[float] = []

    def note(self, made: float) -> None:
        """An event has arrived."""
        if self.counting:
            self.ages.append(1000 * (time.time() - made))


async def listen(session: aiohttp.ClientSession, url: URL, client: str, ages: Ages) -> None:
    """Read one socket."""
    async with session.ws_connect((url / "ws").with_query(clientId=client), max_msg_size=0) as ws:
        await ws.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        async for message in ws:
            ages.messages += ages.counting
            if message.type is aiohttp.WSMsgType.BINARY:
                ages.note(struct.unpack("<d", message.data[-8:])[0])
            elif '"execution_start"' in message.data[:30]:
                ages.started += 1
            elif '"progress"' in message.data[:24]:
                event = json.loads(message.data)
                ages.note(event["data"]["max"])


async def submit(session: aiohttp.ClientSession, url: URL, client: str, seconds: int) -> None:
    """Submit one job, again where it was not taken."""
    inputs = {"seconds": seconds, "seed": int(client[:6], 16)}
    graph = {"1": {"class_type": "BenchmarkEvents", "inputs": inputs}}
    body = {"prompt": graph, "client_id": client}
    while True:
        async with session.post(url / "prompt", json=body) as answer:
            if answer.status == 200:
                return
            assert answer.status == 503, await answer.text()
        await asyncio.sleep(0.5)


async def main(given: argparse.Namespace) -> None:
    """Measure and print."""
    ages = Ages()
    clients = [uuid.uuid4().hex for _ in range(given.jobs)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        listening = [
            asyncio.create_task(listen(session, given.url[number % len(given.url)], client, ages))
            for number, client in enumerate(clients)
        ]
        await asyncio.sleep(1)
        turn = asyncio.Semaphore(10)

        async def one(number: int, client: str) -> None:
            async with turn:
                url = given.url[number % len(given.url)]
                await submit(session, url, client, given.seconds)

        await asyncio.gather(*(one(number, client) for number, client in enumerate(clients)))
        async with asyncio.timeout(120):
            while ages.started < given.jobs:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        print("running", flush=True)
        await asyncio.sleep(MARGIN)
        counted = given.seconds - 2 * MARGIN
        print("counting", flush=True)
        ages.counting = True
        await asyncio.sleep(counted)
        ages.counting = False
        print("counted", flush=True)
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
    cuts = statistics.quantiles(ages.ages, n=100)
    found = {
        "seconds": counted,
        "messages": ages.messages / counted,
        "events": len(ages.ages) / counted,
        "median": statistics.median(ages.ages),
        "p99": cuts[98],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", type=URL, nargs="+")
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    uvloop.run(main(parser.parse_args()))
