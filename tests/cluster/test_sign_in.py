"""A sign-in at a provider that begins at one replica and ends at another."""

from __future__ import annotations

from pathlib import Path

import aiohttp
from cluster.replicas import Servers, running_cluster
from servers import free_port
from sign_in.conftest import (
    browser,
    oidc_provider,  # noqa: F401 (a fixture)
    running_provider,
)
from yarl import URL

from proxy.simulator import Simulator

#: Seconds by which the clock of the first replica is ahead.
AHEAD = 30


async def test_a_sign_in_ends_at_another_replica(
    tmp_path: Path,
    servers: Servers,
    simulator: Simulator,
    oidc_provider: Path,  # noqa: F811
) -> None:
    port = free_port()
    secret, settings = tmp_path / "client_secret", tmp_path / "settings.toml"
    secret.write_text("a secret of the client")
    settings.write_text(
        f"""
        [[providers]]
        name = "company"
        issuer = "http://127.0.0.1:{port}"
        client_id = "comfy"
        client_secret_file = "{secret}"
        """
    )
    options = ("--config", str(settings))
    async with running_cluster(
        tmp_path, servers, simulator, count=2, options=options, skews=[AHEAD]
    ) as cluster:
        first, second = (replica.url for replica in cluster.replicas)
        callback = first / "proxy/sign-in/company/callback"
        async with (
            running_provider(oidc_provider, port, str(callback)) as provider,
            browser() as session,
        ):
            async with session.get(provider / "who/ann"):
                pass
            back = await _sent_back(session, first / "proxy/sign-in/company")
            # A balancer hands on the address that the browser has asked.
            elsewhere = second.join(back.relative())
            headers = {"Host": str(first.authority)}
            async with session.get(elsewhere, headers=headers, allow_redirects=False) as answer:
                assert answer.status == 303, await answer.text()
            for replica in (first, second):
                async with session.get(replica / "api/user") as answer:
                    assert (await answer.json())["id"] == "ann"


async def _sent_back(session: aiohttp.ClientSession, url: URL) -> URL:
    """Follow a sign-in up to the address with which the provider sends the browser back."""
    while not url.path.endswith("/callback"):
        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status in (302, 303), await answer.text()
            url = answer.url.join(URL(answer.headers["Location"], encoded=True))
    return url
