"""A load over keep-alive connections: as many requests as come through in a given time."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence

from yarl import URL

#: Bytes of a body that are read at once.
BUFFER = 1 << 20


async def _connection(url: URL, headers: Sequence[str], until: float) -> int:
    """Ask again and again over one connection; the number of whole answers."""
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=BUFFER)
    lines = f"GET {url.raw_path_qs} HTTP/1.1", f"Host: {url.authority}", *headers
    request = "".join(f"{line}\r\n" for line in (*lines, "")).encode()
    count = 0
    try:
        while time.perf_counter() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status, *answer = head.decode("latin-1").split("\r\n")
            if status.split(" ")[1] not in ("200", "304"):
                raise RuntimeError(f"{url}: {status}")
            answered = dict(line.lower().split(": ", 1) for line in answer if line)
            left = int(answered.get("content-length", 0))
            while left > 0:
                received = len(await reader.read(min(left, BUFFER)))
                if not received:
                    raise ConnectionResetError(f"{url}: {left} bytes are missing")
                left -= received
            count += 1
    finally:
        writer.close()
    return count


async def rate(url: URL, headers: Sequence[str] = (), *, seconds: float, connections: int) -> float:
    """Answers per second, 200 or 304, to requests with these header lines."""
    begun = time.perf_counter()
    until = begun + seconds
    counts = await asyncio.gather(*(_connection(url, headers, until) for _ in range(connections)))
    return sum(counts) / (time.perf_counter() - begun)


def main() -> None:
    """Measure one URL and print the answers per second as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", type=URL)
    parser.add_argument("--header", action="append", default=[], metavar="LINE")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=16)
    given = parser.parse_args()
    measured = rate(given.url, given.header, seconds=given.seconds, connections=given.connections)
    found = asyncio.run(measured)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
