"""A person signs in at a provider of OpenID Connect and out again, in a real browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.expectations import expect
from browser.frontend import opened_page
from sign_in.conftest import Gateway, oidc_provider, running_gateway

from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["oidc_provider"]


@pytest.fixture
async def gateway(
    chrome: Browser, simulator: Simulator, tmp_path: Path, oidc_provider: Path
) -> AsyncIterator[Gateway]:
    async with running_gateway(
        simulator, tmp_path, oidc_provider, admin_groups=("comfy-admins",)
    ) as running:
        yield running


async def test_a_person_signs_in_and_out(chrome: Browser, gateway: Gateway) -> None:
    async with opened_page(chrome) as page:
        await page.goto(str(gateway.provider / "who/admin-ann"))
        await page.goto(str(gateway.url / "proxy/"))
        await page.get_by_role("link", name="Sign in with company").click()
        await page.get_by_text("Live", exact=True).wait_for()
        assert page.url == str(gateway.url / "proxy/")
        found = await page.context.cookies(str(gateway.url))
        cookies = {cookie["name"]: cookie for cookie in found}
        assert cookies["comfy_proxy_session"]["httpOnly"]
        assert "comfy_proxy_sign_in" not in cookies
        await page.goto(str(gateway.url / "proxy/sign-in"))
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_text("still signed in at company").wait_for()
        way_out = page.get_by_role("link", name="Sign out there, too")
        address = re.compile(re.escape(str(gateway.provider / "session/end")))
        await expect(way_out).to_have_attribute("href", address)
        await page.goto(str(gateway.url / "proxy/"))
        await page.get_by_role("button", name="Sign in").wait_for()
