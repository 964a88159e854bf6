"""A load over keep-alive connections: as many requests as come through in a given time."""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from yarl import URL


async def _connection(url: URL, until: float) -> int:
    """Ask again and again over one connection; the number of whole answers."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    request = f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: {url.authority}\r\n\r\n".encode()
    count = 0
    try:
        while time.perf_counter() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").split("\r\n")
            if " 200 " not in status:
                raise RuntimeError(f"{url}: {status}")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            await reader.readexactly(int(headers["content-length"]))
            count += 1
    finally:
        writer.close()
    return count


async def rate(url: URL, *, seconds: float, connections: int) -> float:
    """Answers per second."""
    begun = time.perf_counter()
    until = begun + seconds
    counts = await asyncio.gather(*(_connection(url, until) for _ in range(connections)))
    return sum(counts) / (time.perf_counter() - begun)


def main() -> None:
    """Measure one URL and print the answers per second as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", type=URL)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=16)
    given = parser.parse_args()
    found = asyncio.run(rate(given.url, seconds=given.seconds, connections=given.connections))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
