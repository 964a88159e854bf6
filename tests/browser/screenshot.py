"""Takes the pictures of the documents: `make screenshots`."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Literal

from browser import sketch
from browser.frontend import SAVE, WORKFLOW, Frontend, chromium, headless
from browser.gallery import busy_gateway
from PIL import Image
from process import command
from rich.console import Console
from rich.text import Text
from stack import running_proxy
from terminal import at_terminal

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


#: The pictures of the dashboard: member, view, dark or light, width and height.
DASHBOARD: dict[str, tuple[str, str, Literal["light", "dark"], int, int]] = {
    "dashboard": ("anna", "", "light", 1280, 1430),
    "dashboard-dark": ("anna", "", "dark", 1280, 1430),
    "dashboard-phone": ("anna", "", "dark", 390, 844),
    "dashboard-jobs": ("anna", "#/jobs", "light", 1280, 780),
    "dashboard-job": ("anna", "#/jobs?status=completed", "dark", 1280, 800),
    "dashboard-member": ("anna", "#/member/chiara", "light", 1280, 1180),
    "dashboard-accounts": ("anna", "#/accounts", "light", 1280, 480),
    "dashboard-usage": ("anna", "#/usage", "light", 1280, 560),
}

#: Whether no picture of the page is still to come.
_PICTURES_ARE_THERE = """
() => [...document.images].every((one) => one.loading === "eager" || one.naturalWidth > 0
  || one.getBoundingClientRect().top > innerHeight)
"""


async def dashboard(path: str) -> dict[str, bytes]:
    """The dashboard while several members work, as PNG."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        async with busy_gateway(Path(folder)) as (url, tokens), headless(path) as browser:
            for name, (member, view, scheme, width, height) in DASHBOARD.items():
                context = await browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page = await context.new_page()
                await page.goto(str(url / "proxy/"))
                await page.get_by_label("Your token").fill(tokens[member])
                await page.keyboard.press("Enter")
                await page.locator("#waiting details").first.wait_for()
                if view:
                    await page.goto(f"{url / 'proxy/'}{view}")
                if name == "dashboard-job":
                    await page.locator(".gallery a").first.click()
                    await page.locator("#nodes tbody tr").first.wait_for()
                elif name == "dashboard-accounts":
                    await page.locator(".now").first.wait_for()
                elif name == "dashboard-usage":
                    await page.locator("#usage-costs tbody tr").first.wait_for()
                else:
                    await page.locator(".gallery a").first.wait_for()
                await page.mouse.move(0, 0)
                await page.wait_for_function(_PICTURES_ARE_THERE)
                found[name] = await page.screenshot()
                await context.close()
    return found


async def terminal() -> str:
    """The commands of a first try and what they print, as SVG."""
    console = Console(record=True, width=80, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        serve = ("serve", "--simulate", "--port", "0", "--data-dir", f"{folder}/data")
        async with at_terminal(*serve) as server:
            banner = await server.shows("Press Ctrl-C to stop.")
            url = re.findall(r"http://127\.0\.0\.1:\d+", banner)[0]
            words = ("run", "examples/text-to-image.json", "--set", "5.seed=42")
            _, out, _ = await command(*words, "--server", url, "--output", f"{folder}/pictures")
    banner = banner.partition("Press")[0].rstrip().replace(url, "http://127.0.0.1:8188")
    console.print("[bold green]$[/] comfy-cloud-proxy --simulate", highlight=False)
    console.print(Text.from_ansi(banner))
    console.print(f"\n[bold green]$[/] comfy-cloud-proxy {' '.join(words)}", highlight=False)
    shown = out.replace(f"{folder}/pictures", "output")
    console.print(shown, markup=False, highlight=False, end="")
    picture = console.export_svg(title="comfy-cloud-proxy", unique_id="terminal")
    return re.sub(r"(?s)@font-face \{.*?\}\s*", "", picture)  # it would be fetched from elsewhere


def main() -> None:
    """Write the pictures, packed as small as PNG can be."""
    path = chromium() or sys.exit("Chromium is missing.")
    PICTURES.mkdir(parents=True, exist_ok=True)
    pictures = {"web-interface": asyncio.run(web_interface(path)), **asyncio.run(dashboard(path))}
    for name, data in pictures.items():
        with Image.open(io.BytesIO(data)) as picture:
            picture.convert("RGB").save(PICTURES / f"{name}.png", optimize=True)
    (PICTURES / "terminal.svg").write_text(asyncio.run(terminal()), encoding="utf-8")


if __name__ == "__main__":
    main()
