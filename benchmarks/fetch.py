"""A load of large answers: each line of the standard input is a URL that is fetched once.

Blocking sockets in threads, as the load must cost less than what it measures. Prints the answers
per second as JSON.
"""

from __future__ import annotations

import argparse
import json
import queue
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from yarl import URL

BUFFER = 1 << 20


def connection(urls: queue.SimpleQueue[URL]) -> int:
    """Fetch URLs of one server until there are no more; the bytes of all bodies."""
    total, buffer, connected = 0, bytearray(BUFFER), None
    try:
        while True:
            try:
                url = urls.get_nowait()
            except queue.Empty:
                return total
            if connected is None:
                connected = socket.create_connection((url.host or "", url.port or 80))
            total += fetch(connected, url, buffer)
    finally:
        if connected is not None:
            connected.close()


def fetch(connected: socket.socket, url: URL, buffer: bytearray) -> int:
    """One request and its whole answer; the length of its body."""
    connected.sendall(f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: {url.authority}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += _some(connected.recv(65536))
    head, _, begun = head.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    if " 200 " not in status:
        raise RuntimeError(f"{url}: {status}")
    size = int(dict(line.lower().split(": ", 1) for line in lines)["content-length"])
    left = size - len(begun)
    while left > 0:
        received = connected.recv_into(buffer, min(left, BUFFER))
        if not received:
            raise ConnectionResetError(f"{url}: {left} bytes are missing")
        left -= received
    return size


def _some(data: bytes) -> bytes:
    if not data:
        raise ConnectionResetError("the server has closed the connection")
    return data


def main() -> None:
    """Fetch all and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=8)
    given = parser.parse_args()
    lines = sys.stdin.read().split()
    urls: queue.SimpleQueue[URL] = queue.SimpleQueue()
    for line in lines:
        urls.put(URL(line))
    begun = time.perf_counter()
    with ThreadPoolExecutor(given.connections) as pool:
        for future in [pool.submit(connection, urls) for _ in range(given.connections)]:
            future.result()
    print(json.dumps(len(lines) / (time.perf_counter() - begun)))


if __name__ == "__main__":
    main()
