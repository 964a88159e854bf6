"""Takes the pictures of the documents: `make screenshots`."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import tempfile
from pathlib import Path

from browser import sketch
from browser.frontend import SAVE, WORKFLOW, Frontend, chromium, headless
from browser.gallery import busy_gateway
from PIL import Image
from process import before, command, serving
from rich.console import Console
from stack import running_proxy

from proxy.api import web_interface as packages
from proxy.simulator import Simulator

PICTURES = Path(__file__).parents[2] / "docs/images"


async def web_interface(path: str) -> bytes:
    """A finished run in the web interface, as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        interface = packages.installed()
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


async def dashboard(path: str) -> bytes:
    """The dashboard while several members work, as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        async with busy_gateway(Path(folder)) as (url, token), headless(path) as browser:
            page = await browser.new_page(viewport={"width": 1280, "height": 1150})
            await page.goto(str(url / "proxy/"))
            await page.get_by_label("Your token").fill(token)
            await page.keyboard.press("Enter")
            await page.locator("#waiting tbody tr").nth(6).wait_for()
            await page.locator("#tokens tbody tr").nth(4).wait_for(state="attached")
            return await page.screenshot()


async def terminal() -> str:
    """The commands of a first try and what they print, as SVG."""
    console = Console(record=True, width=80, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Simulator() as simulator,
            serving(Path(folder) / "data", environment=before(simulator)) as proxy,
        ):
            words = ("run", "examples/text-to-image.json", "--set", "5.seed=42")
            output = ("--output", f"{folder}/pictures")
            _, out, _ = await command(*words, "--server", str(proxy.url), *output)
    console.print("[bold green]$[/] comfy-cloud-proxy --simulate", highlight=False)
    console.print("listening on http://127.0.0.1:8188 (Comfy Cloud simulator)", highlight=False)
    console.print(f"[bold green]$[/] comfy-cloud-proxy {' '.join(words)}", highlight=False)
    shown = out.replace(f"{folder}/pictures", "output")
    console.print(shown, markup=False, highlight=False, end="")
    picture = console.export_svg(title="comfy-cloud-proxy", unique_id="terminal")
    return re.sub(r"(?s)@font-face \{.*?\}\s*", "", picture)  # it would be fetched from elsewhere


def main() -> None:
    """Write the pictures, packed as small as PNG can be."""
    path = chromium() or sys.exit("Chromium is missing.")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, take in (("web-interface", web_interface), ("dashboard", dashboard)):
        with Image.open(io.BytesIO(asyncio.run(take(path)))) as picture:
            picture.convert("RGB").save(PICTURES / f"{name}.png", optimize=True)
    (PICTURES / "terminal.svg").write_text(asyncio.run(terminal()), encoding="utf-8")


if __name__ == "__main__":
    main()
