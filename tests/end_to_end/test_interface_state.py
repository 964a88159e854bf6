"""`GET /proxy/api/interface` and `GET /`, over accounts that work and accounts that do not."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from stack import Proxy, running_proxy
from wrong_key import OTHER_KEY, with_other_key

from proxy.api.extension import SCRIPT_PATH
from proxy.api.keys import CATALOG, READINESS
from proxy.api.web_interface import WebInterface
from proxy.catalog import source
from proxy.cloud import resilience
from proxy.cloud.event_socket import Timeouts
from proxy.runtime.backoff import Backoff
from proxy.simulator import Simulator


@pytest.fixture
def interface(tmp_path: Path) -> WebInterface:
    """A frontend of one page."""
    script = tmp_path / "static" / "extensions" / "core" / "a.js"
    script.parent.mkdir(parents=True)
    script.touch()
    (tmp_path / "static" / "index.html").write_text("<p>the frontend</p>")
    return WebInterface(frontend=tmp_path / "static")


async def state(proxy: Proxy) -> tuple[dict[str, object], str]:
    """What the extension reads, and the page at `/`."""
    async with aiohttp.ClientSession() as session:
        async with session.get(proxy.url / "proxy/api/interface") as answer:
            found = await answer.json()
        async with session.get(proxy.url) as answer:
            return found, await answer.text()


async def test_a_wrong_key_keeps_the_frontend_closed_until_it_is_mended(
    simulator: Simulator,
    tmp_path: Path,
    interface: WebInterface,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "PAUSE", 0.05)
    monkeypatch.setattr(resilience, "REFUSED_KEY_RETRIES", Backoff(0.05, 0.1))
    async with running_proxy(
        with_other_key(simulator),
        tmp_path / "data",
        interface=interface,
        timeouts=Timeouts(ready_age=0.0, socket_backoff=Backoff(0.05, 0.1)),
    ) as proxy:
        await proxy.services[READINESS].report(patient=True)
        found, page = await state(proxy)
        assert "does not accept the API key" in str(found["trouble"])
        assert found["interface"] == "waiting"
        assert "the frontend" not in page
        simulator.account.key = OTHER_KEY
        while found["trouble"] or found["interface"] != "ready":
            await proxy.services[READINESS].report(patient=True)
            await proxy.services[CATALOG].load(timeout=60)
            found, page = await state(proxy)
        assert "the frontend" in page


async def test_a_plan_without_api_access_is_no_wrong_key(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.account.plan = "free"
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        report = await proxy.services[READINESS].report(patient=True)
        assert "needs a plan with API access" in str(report.reason)


async def test_our_script_is_one_of_the_extensions(
    simulator: Simulator, tmp_path: Path, interface: WebInterface
) -> None:
    async with (
        running_proxy(simulator, tmp_path / "data", interface=interface) as proxy,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(proxy.url / "extensions") as answer:
            assert await answer.json() == ["/extensions/core/a.js", SCRIPT_PATH]
        async with session.get(proxy.url.join(proxy.url / SCRIPT_PATH[1:])) as answer:
            assert answer.content_type == "application/javascript"
            assert "registerExtension" in await answer.text()
