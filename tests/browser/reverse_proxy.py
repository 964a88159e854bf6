"""A real nginx or Caddy in front of the proxy, with the configurations of the examples."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from process import TIMEOUT
from servers import free_port
from yarl import URL

EXAMPLES = Path(__file__).parents[2] / "examples/gateway"
CLUSTER = Path(__file__).parents[2] / "examples/cluster"
_KINDS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx_text(folder: Path, listen: str, upstream: int) -> str:
    """The example of nginx with these addresses, with its files in `folder`."""
    text = (EXAMPLES / "nginx.conf").read_text(encoding="utf-8")
    places = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in _KINDS)
    for old, new in (
        ("listen 443 ssl", f"listen {listen}"),
        ("/etc/ssl/", f"{folder}/"),
        ("/var/log/nginx/", f"{folder}/"),
        ("server proxy:8188", f"server 127.0.0.1:{upstream}"),
        ("http {\n", f"http {{\n{places}"),
    ):
        assert text.count(old) in (1, 2), old
        text = text.replace(old, new)
    # Its workers have to reach the folder of the test.
    user = "user root;\n" if os.geteuid() == 0 else ""
    return f"{user}pid {folder}/pid;\n{text}"


def caddy_text(listen: str, upstream: int, directives: str) -> str:
    """The example of Caddy with these addresses, which does what further `directives` say."""
    text = (EXAMPLES / "Caddyfile").read_text(encoding="utf-8")
    return _caddy_at(text.replace("proxy:8188", f"127.0.0.1:{upstream}"), listen, directives)


def cluster_caddy_text(listen: str, upstreams: Sequence[int]) -> str:
    """The example of Caddy before several processes, with these addresses."""
    text = (CLUSTER / "Caddyfile").read_text(encoding="utf-8")
    names = " ".join(f"proxy-{number}:8188" for number in range(1, len(upstreams) + 1))
    assert names in text
    text = text.replace(names, " ".join(f"127.0.0.1:{port}" for port in upstreams))
    return _caddy_at(text, listen)


def _caddy_at(text: str, listen: str, directives: str = "") -> str:
    site = "{$COMFY_DOMAIN} {\n"
    assert text.startswith("{\n")
    assert site in text
    text = text.replace(site, f"{listen} {{\n{directives}\n")
    return f"{{\n\tadmin off\n\tauto_https off\n{text.removeprefix('{')}"


def _write(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(text)


@asynccontextmanager
async def nginx(folder: Path, upstream: int) -> AsyncIterator[URL]:
    """nginx before that port, with its files in `folder`. Skips where there is none."""
    port, config = free_port(), folder / "nginx.conf"
    text = nginx_text(folder, f"127.0.0.1:{port}", upstream)
    _write(config, "".join(line for line in text.splitlines(True) if "ssl_cert" not in line))
    options = ("-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config))
    async with _running(folder, port, "nginx", *options, "-g", "daemon off;") as url:
        yield url


@asynccontextmanager
async def caddy(folder: Path, upstream: int, directives: str = "") -> AsyncIterator[URL]:
    """The same with Caddy, which does what further `directives` say."""
    port, config = free_port(), folder / "Caddyfile"
    _write(config, caddy_text(f"http://127.0.0.1:{port}", upstream, directives))
    async with _running(folder, port, "caddy", "run", "--config", str(config)) as url:
        yield url


@asynccontextmanager
async def cluster_caddy(folder: Path, upstreams: Sequence[int]) -> AsyncIterator[URL]:
    """Caddy before several processes, with its files in `folder`. Skips where there is none."""
    port, config = free_port(), folder / "Caddyfile"
    _write(config, cluster_caddy_text(f"http://127.0.0.1:{port}", upstreams))
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
