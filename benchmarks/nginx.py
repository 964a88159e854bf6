"""Debian's nginx from a folder of its own: it serves files, and passes requests on to itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from yarl import URL

CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
error_log stderr crit;
pid {prefix}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    log_not_found off;
    sendfile on;
    keepalive_requests 1000000;
    default_type image/png;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    {server}
}}
"""

#: Static files; and what the proxy takes for the cloud, as far as views need one.
STATIC = """server {{
    listen 127.0.0.1:{port};
    root {folder};
    location = /api/view {{ return 302 http://127.0.0.1:{port}/$arg_filename; }}
}}"""
PASSED_ON = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }}"
#: The same with what makes it quicker for large answers: connections that stay open, and buffers
#: large enough to do without files.
PASSED_ON_TUNED = """upstream files {{ server {authority}; keepalive 32; }}
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffers 64 32k;
        proxy_max_temp_file_size 0;
        proxy_pass http://files;
    }}
}}"""


def program() -> str | None:
    """Where nginx is, if it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def static(prefix: Path, folder: Path) -> AsyncIterator[URL]:
    """An nginx that serves the files of `folder`."""
    port = _free_port()
    async with _running(prefix, port, STATIC.format(port=port, folder=folder)) as url:
        yield url


@asynccontextmanager
async def passing_on(prefix: Path, upstream: URL, server: str = PASSED_ON) -> AsyncIterator[URL]:
    """Another nginx before `upstream`, by `proxy_pass`."""
    port = _free_port()
    server = server.format(
        port=port, upstream=str(upstream).rstrip("/"), authority=upstream.authority
    )
    async with _running(prefix, port, server) as url:
        yield url


@asynccontextmanager
async def _running(prefix: Path, port: int, server: str) -> AsyncIterator[URL]:
    found = program()
    assert found is not None
    configuration = _configured(prefix, server)
    process = await asyncio.create_subprocess_exec(
        found, "-p", str(prefix), "-e", "stderr", "-c", str(configuration)
    )
    try:
        await _listening(port)
        yield URL(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()


def _configured(prefix: Path, server: str) -> Path:
    prefix.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = prefix / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(prefix=prefix, server=server, user=user))
    return configuration


async def _listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
