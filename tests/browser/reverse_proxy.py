"""A real nginx or Caddy in front of the proxy, as the documents and examples set them up."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from process import TIMEOUT
from servers import free_port
from yarl import URL

_CONFIG = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        ''      close;
    }}
}}
"""


_CADDYFILE = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    {directives}
    reverse_proxy 127.0.0.1:{upstream} {{
        flush_interval -1
    }}
}}
"""


def _write(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(text)


@asynccontextmanager
async def nginx(folder: Path, upstream: int) -> AsyncIterator[URL]:
    """nginx before that port, with its files in `folder`. Skips where there is none."""
    port, config = free_port(), folder / "nginx.conf"
    _write(config, _CONFIG.format(folder=folder, port=port, upstream=upstream))
    async with _running(folder, port, "nginx", "-p", str(folder), "-c", str(config)) as url:
        yield url


@asynccontextmanager
async def caddy(folder: Path, upstream: int, directives: str = "") -> AsyncIterator[URL]:
    """The same with Caddy, which does what further `directives` say."""
    port, config = free_port(), folder / "Caddyfile"
    _write(config, _CADDYFILE.format(port=port, upstream=upstream, directives=directives))
    async with _running(folder, port, "caddy", "run", "--config", str(config)) as url:
        yield url


@asynccontextmanager
async def _running(folder: Path, port: int, name: str, *options: str) -> AsyncIterator[URL]:
    """A program that listens on the port until the block ends, with its files in `folder`."""
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    process = await asyncio.create_subprocess_exec(
        program,
        *options,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)},
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionError:
                    assert process.returncode is None, f"{name} does not start"
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield URL(f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
