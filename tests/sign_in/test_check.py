"""`check` and the start of the server test the providers, with the real commands."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from process import before, command, serving
from servers import free_port
from sign_in.conftest import running_provider
from waiting import until

from proxy.simulator import Simulator


@dataclass
class Setup:
    """Settings of a proxy with a provider that runs."""

    folder: Path
    issuer: str
    environment: dict[str, str]

    def write(self, *, issuer: str | None = None, secret: str = "", more: str = "") -> None:
        """Write the settings."""
        (self.folder / "secret").write_text(secret or "a secret of the client")
        (self.folder / "config.toml").write_text(
            f"""
            {more}
            [[providers]]
            name = "company"
            issuer = "{issuer or self.issuer}"
            client_id = "comfy"
            client_secret_file = "{self.folder / "secret"}"
            """
        )

    async def check(self) -> list[str]:
        """What `check` says of the sign-in."""
        data = ("--config", str(self.folder / "config.toml"), "--data-dir", str(self.folder / "d"))
        environment = {**os.environ, **self.environment}
        _, out, _ = await command("check", *data, environment=environment)
        words = ("sign-in", "template")
        return [line for line in out.splitlines() if line.split()[1:2] and line.split()[1] in words]


@pytest.fixture
async def setup(simulator: Simulator, tmp_path: Path, oidc_provider: Path) -> AsyncIterator[Setup]:
    async with running_provider(oidc_provider, free_port(), "http://127.0.0.1/callback") as url:
        yield Setup(tmp_path, str(url).rstrip("/"), before(simulator))


async def test_check_says_that_people_can_sign_in(setup: Setup) -> None:
    setup.write()
    (line,) = await setup.check()
    assert line.split()[0] == "ok"
    assert "company answers and takes this server's secret" in line


async def test_check_names_the_issuer_that_the_provider_calls_itself(setup: Setup) -> None:
    setup.write(issuer=f"{setup.issuer}/")
    (line,) = await setup.check()
    assert line.startswith("FAILED")
    assert f"set issuer to {setup.issuer}." in line


async def test_check_finds_a_wrong_secret(setup: Setup) -> None:
    setup.write(secret="another secret")
    (line,) = await setup.check()
    assert line.startswith("FAILED")
    assert "(invalid_client): correct client_id and client_secret_file." in line
    assert "another secret" not in line


async def test_check_finds_a_provider_that_is_off(setup: Setup) -> None:
    setup.write(issuer=f"http://127.0.0.1:{free_port()}")
    (line,) = await setup.check()
    assert line.startswith("FAILED")
    assert "cannot be reached" in line


async def test_check_finds_a_missing_template(setup: Setup) -> None:
    setup.write(more='sign_in_template = "guest"')
    template, provider = await setup.check()
    assert template.startswith("FAILED")
    assert "comfy-cloud-proxy member add guest" in template
    assert provider.startswith("ok")


async def test_the_start_tells_what_is_wrong(setup: Setup) -> None:
    setup.write(secret="another secret", more='sign_in_template = "guest"')
    config = ("--config", str(setup.folder / "config.toml"))
    data = setup.folder / "d"
    async with serving(data, *config, environment=setup.environment) as process:
        await until(lambda: any(b"template_not_found" in line for line in process.said))
    said = b"".join(process.said)
    assert b"provider_rejected" in said
    assert b"client_secret_file" in said
