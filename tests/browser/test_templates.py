"""The templates that a server with the simulator offers."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from process import command, serving

from proxy.api import web_interface

pytestmark = pytest.mark.browser


async def test_each_template_that_the_simulator_offers_runs(tmp_path: Path) -> None:
    files = web_interface.installed().templates
    async with (
        serving(tmp_path / "data", "--simulate") as proxy,
        aiohttp.ClientSession(proxy.url) as session,
    ):
        async with session.get("/templates/index.json") as answer:
            listed = await answer.json()
        names = [entry["name"] for category in listed for entry in category["templates"]]
        assert len(names) >= 5
        paths = [str(files[f"{name}.json"]) for name in dict.fromkeys(names)]
        words = ("--server", str(proxy.url), "--output", str(tmp_path / "output"))
        code, out, err = await command("run", *paths, *words)
    assert code == 0, out + err


async def test_a_template_s_picture_is_a_placeholder_that_is_not_kept(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "data", "--simulate") as proxy,
        aiohttp.ClientSession(proxy.url) as session,
        session.get("/templates/flux_schnell-1.webp") as answer,
    ):
        assert answer.content_type == "image/svg+xml"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "flux schnell" in await answer.text()
