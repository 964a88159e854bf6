"""A real browser before the whole stack, where there is one, and a mark that leaves it to
`make browser`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.frontend import chromium, headless, opened_page
from stack import Proxy, running_proxy

from proxy.api import web_interface
from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

#: Seconds of a test with several long waits on a slow machine.
_TEST_TIMEOUT = 900

_MISSING = [
    f"{what} is not installed"
    for what, found in (
        ("the extra `browser`", find_spec("playwright")),
        ("the extra `ui`", find_spec("comfyui_frontend_package")),
        ("Chromium", chromium()),
    )
    if not found
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(_TEST_TIMEOUT))


def pytest_report_header() -> str:
    """Which web interface is served."""
    return f"comfyui-frontend-package {web_interface.installed().frontend_version}"


@pytest.fixture
async def chrome() -> AsyncIterator[Browser]:
    """The browser. Skips where something is missing."""
    if _MISSING:
        pytest.skip("; ".join(_MISSING))
    async with headless(chromium() or "") as running:
        yield running


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """An empty page of the browser, for tests that need no web interface."""
    pytest.importorskip("playwright", reason="the extra `browser` is not installed")
    path = chromium()
    if path is None:
        pytest.skip("Chromium is not installed")
    async with headless(path) as browser, opened_page(browser) as opened:
        yield opened


@pytest.fixture
async def proxy(chrome: Browser, simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    """The proxy with the web interface, which is below `/comfy/` too."""
    interface = web_interface.installed()
    async with running_proxy(
        simulator, tmp_path / "data", interface=interface, base_path="/comfy/"
    ) as running:
        yield running
