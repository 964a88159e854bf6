"""Takes the pictures of the documents: `make screenshots`."""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path

from browser import sketch
from browser.frontend import SAVE, WORKFLOW, Frontend, chromium, headless
from PIL import Image
from stack import running_proxy

from proxy.local import web_packages
from proxy.simulator import Simulator

PICTURE = Path(__file__).parents[2] / "docs/images/web-interface.png"


async def web_interface(path: str) -> bytes:
    """A finished run in the web interface, as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        interface = web_packages.installed()
        async with (
            Simulator() as simulator,
            running_proxy(simulator, Path(folder), interface=interface) as proxy,
            headless(path) as browser,
            Frontend.opened(browser, proxy.url, Path(folder) / "failure.png") as frontend,
        ):
            page = frontend.page
            await page.set_viewport_size({"width": 1360, "height": 680})
            await page.get_by_test_id("close-minimap-button").click()
            await frontend.open_file(WORKFLOW)
            await frontend.upload(sketch.upload())
            await frontend.run()
            await frontend.until_picture(SAVE, "lighthouse_00001_.png")
            await page.get_by_text("Job completed").wait_for()
            await page.get_by_text("Job completed").wait_for(state="hidden")
            return await page.screenshot()


def main() -> None:
    """Write the picture, packed as small as PNG can be."""
    taken = asyncio.run(web_interface(chromium() or sys.exit("Chromium is missing.")))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(taken)) as picture:
        picture.convert("RGB").save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
