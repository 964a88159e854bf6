"""The web interface's panels of pictures and models, which are built on the assets API."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from browser import sketch
from browser.expectations import expect
from browser.frontend import LOAD, SAMPLER, SAVE, WORKFLOW, Frontend
from stack import Client, Proxy

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator

_BROWSE_MODELS = "() => app.extensionManager.command.execute('Comfy.BrowseModelAssets')"


CASTLE = "castle_00001_.png"


def output(number: int) -> str:
    return f"lighthouse_{number:05}_.png"


class Panel:
    """The panel of pictures."""

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend
        self.page = frontend.page

    def picture(self, name: str) -> Locator:
        return self.page.get_by_role("img", name=name, exact=True)

    async def shows(self, *names: str) -> None:
        """Wait until there are these cards and no others, with their pictures."""
        cards = self.page.get_by_role("button", name="image asset")
        for name in names:
            await expect(self.picture(name)).not_to_have_js_property("naturalWidth", 0)
        await expect(cards).to_have_count(len(names))

    async def choose(self, name: str, *words: str) -> None:
        """Choose in the menu of a card."""
        await self.picture(name).click(button="right")
        for word in words:
            await self.page.get_by_role("menuitem", name=word, exact=True).click()

    async def drag(self, name: str, id_: int) -> None:
        """Drag a card's picture onto a node, which is moved out from below the panel."""
        frontend = self.frontend
        await frontend.evaluate(
            "() => { app.canvas.ds.offset[0] += 400; app.canvas.setDirty(true, true) }"
        )
        x, y = await frontend.point(id_, 60)
        canvas = self.page.locator("#graph-canvas")
        await self.picture(name).drag_to(canvas, target_position={"x": x, "y": y}, force=True)


async def makes_three_pictures(frontend: Frontend) -> None:
    await frontend.open_file(WORKFLOW)
    await frontend.upload(sketch.upload())
    prefixes = {output(1): "lighthouse", output(2): "lighthouse", CASTLE: "castle"}
    for seed, (name, prefix) in enumerate(prefixes.items()):
        await frontend.set_widget(SAMPLER, "seed", seed)
        await frontend.set_widget(SAVE, "filename_prefix", prefix)
        await frontend.run()
        await frontend.until_picture(SAVE, name)
        await frontend.until_idle()


async def test_pictures_are_shown_found_used_deleted_and_exported(
    chrome: Browser, proxy: Proxy, client: Client, tmp_path: Path
) -> None:
    async with Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend:
        await makes_three_pictures(frontend)
        panel, page = Panel(frontend), frontend.page
        await frontend.sidebar("assets")
        await panel.shows(CASTLE, output(2), output(1))
        await page.get_by_text("Imported", exact=True).click()
        await panel.shows("sketch.png")
        await page.get_by_text("Generated", exact=True).click()

        await page.get_by_placeholder("Search Assets").fill("castle")
        await panel.shows(CASTLE)
        await page.get_by_placeholder("Search Assets").fill("")
        await panel.shows(CASTLE, output(2), output(1))

        await panel.drag(output(2), LOAD)
        await frontend.until_picture(LOAD, output(2))
        job = await frontend.run()
        await frontend.until_picture(SAVE, "castle_00002_.png")
        await frontend.until_idle()
        entry = await client.ended(job)
        assert entry["prompt"][2][str(LOAD)]["inputs"]["image"] == f"{output(2)} [output]"

        await panel.choose("castle_00002_.png", "Delete")
        dialog = page.get_by_role("dialog")
        await dialog.get_by_text("will remain on disk").wait_for()
        await dialog.get_by_role("button", name="Delete").click()
        await panel.shows(CASTLE, output(2), output(1))
        await page.reload()
        await frontend.until_ready()
        await frontend.sidebar("assets")
        await panel.shows(CASTLE, output(2), output(1))

        await panel.picture(CASTLE).click()
        await panel.picture(output(2)).click(modifiers=["Control"])
        async with page.expect_download() as download:
            await page.get_by_role("button", name="Download", exact=True).last.click()
        with zipfile.ZipFile(await (await download.value).path()) as packed:
            assert sorted(Path(name).name for name in packed.namelist()) == [CASTLE, output(2)]
        assert frontend.watch.unexpected() == []


async def test_models_are_found_by_their_tags_and_names(
    chrome: Browser, proxy: Proxy, tmp_path: Path
) -> None:
    async with Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend:
        await frontend.evaluate(_BROWSE_MODELS)
        library = frontend.page.get_by_test_id("asset-browser-modal")
        named = library.get_by_role("heading", name="safetensors")
        await library.get_by_text("Loras", exact=True).click()
        await library.get_by_role("heading", name="loras/add_detail.safetensors").wait_for()
        await expect(named.filter(has_not_text=re.compile("^loras/"))).to_have_count(0)
        await library.get_by_text("All Models", exact=True).click()
        await library.get_by_placeholder("Search").fill("RealESRGAN_x4plus")
        name = "upscale_models/RealESRGAN_x4plus.safetensors"
        await library.get_by_role("heading", name=name, exact=True).wait_for()
        await expect(named.filter(has_text="checkpoints/")).to_have_count(0)
        assert frontend.watch.unexpected() == []
