"""A proxy at whose real provider of OpenID Connect people sign in."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from npm import node_modules
from servers import free_port
from stack import TIMEOUT, Proxy, running_proxy
from yarl import URL

from proxy.settings import ProviderSettings
from proxy.simulator import Simulator

SCRIPT = Path(__file__).with_name("provider.mjs")
PACKAGE = "oidc-provider@9"


@pytest.fixture(scope="session")
def oidc_provider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `oidc-provider` among its modules; all workers of a run share it."""
    return node_modules(tmp_path_factory, "oidc-provider", PACKAGE)


@asynccontextmanager
async def running_provider(folder: Path, port: int, *redirects: str) -> AsyncIterator[URL]:
    """The provider, which knows these redirect URIs."""
    process = await asyncio.create_subprocess_exec(
        "node", str(SCRIPT), str(port), ",".join(redirects), cwd=folder, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            while b"listening" not in await process.stdout.readline():
                assert process.returncode is None
        yield URL(f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def settings_of_provider(folder: Path, issuer: str, **more: object) -> ProviderSettings:
    secret = folder / "client_secret"
    secret.write_text("a secret of the client\n")
    return ProviderSettings(
        **{
            "name": "company",
            "issuer": issuer,
            "client_id": "comfy",
            "client_secret_file": secret,
            **more,
        }
    )


@dataclass
class Gateway:
    """A proxy, and the provider at which its members sign in."""

    proxy: Proxy
    provider: URL

    @property
    def url(self) -> URL:
        return self.proxy.url

    @property
    def sign_in(self) -> URL:
        return self.proxy.url / "proxy/sign-in/company"


@asynccontextmanager
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses that are no names
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield session


@asynccontextmanager
async def running_gateway(
    simulator: Simulator, folder: Path, modules: Path, **more: object
) -> AsyncIterator[Gateway]:
    """A proxy before the simulator, whose members sign in at a real provider."""
    port = free_port()
    provider = settings_of_provider(folder, f"http://127.0.0.1:{port}", **more)
    async with running_proxy(simulator, folder / "data", providers=(provider,)) as proxy:
        callback = proxy.url / "proxy/sign-in/company/callback"
        async with running_provider(modules, port, str(callback)) as url:
            yield Gateway(proxy, url)
