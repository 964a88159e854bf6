"""ComfyUI's web interface as a person uses it: a page, its canvas, panels and menus.

Everything waits for what a person would wait for; nothing waits for a time to pass.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from browser.watch import Watch
from yarl import URL

if TYPE_CHECKING:
    from playwright.async_api import Browser, FilePayload, Page, Response

#: Nothing that a person waits for takes longer, in milliseconds.
TIMEOUT = 120_000

#: Of the example: image to image.
WORKFLOW = Path(__file__).parent / "workflow.json"
LOAD, SAMPLER, SAVE = 4, 6, 8
NODES = 8

#: A point on the page at these shares of a node's width and these pixels below its title, once the
#: canvas stands still.
_POINT = """
([id, share, down]) => new Promise((resolve) => {
  let last = "", still = 0;
  const look = () => {
    const node = app.graph.getNodeById(id), place = app.canvas.canvas.getBoundingClientRect();
    const [x, y] = app.canvas.ds.convertOffsetToCanvas(
      [node.pos[0] + share * node.size[0], node.pos[1] + down]);
    const now = [x + place.left, y + place.top];
    still = `${now}` === last ? still + 1 : 0;
    last = `${now}`;
    if (still > 10) resolve(now); else requestAnimationFrame(look);
  };
  look();
})
"""

_PICTURE = """
([id, name]) => {
  const picture = app.graph.getNodeById(id)?.imgs?.[0];
  return picture?.naturalWidth > 0 && picture.src.includes(name);
}
"""

#: Whether something is painted on the layer of the mask editor above the picture.
_PAINTED = """
() => [...document.querySelectorAll("[role=dialog] canvas")].slice(1).some((canvas) => {
  const pixels = canvas.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels?.some((value, index) => index % 4 === 3 && value > 0);
})
"""


def _is_submission(answer: Response) -> bool:
    return answer.request.method == "POST" and URL(answer.url).path.endswith("/prompt")


def chromium() -> str | None:
    """The path of a Chromium on this machine; `CHROMIUM` names one that is not on the way."""
    named = os.environ.get("CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser")


@asynccontextmanager
async def headless(path: str) -> AsyncIterator[Browser]:
    """That Chromium, without a window, and with no way to other machines.

    `http://gateway.test` is this machine under a name that is no secure context for a browser.
    """
    from playwright.async_api import async_playwright

    rules = "MAP gateway.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    options = [f"--host-resolver-rules={rules}", "--force-color-profile=srgb"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened_page(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A page in a context of its own; it and the pages that it opens wait for `TIMEOUT`."""
    context = await browser.new_context(**options)
    context.set_default_timeout(TIMEOUT)
    try:
        yield await context.new_page()
    finally:
        await context.close()


class Frontend:
    """The web interface of the server at `url`, in a page of its own."""

    def __init__(self, page: Page, url: URL) -> None:
        self.page = page
        self.watch = Watch(url)
        self.watch.over(page)
        self._url = url

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, browser: Browser, url: URL, failure: Path, *, greeted: bool = False
    ) -> AsyncIterator[Frontend]:
        """As a new visitor sees it, behind the templates that are offered first, or with them
        where it is `greeted`.

        When the block fails `failure` is what the page looked like.
        """
        async with opened_page(browser, viewport={"width": 1440, "height": 900}) as page:
            frontend = cls(page, url)
            try:
                await frontend._start(greeted)
                yield frontend
            except BaseException:
                await page.screenshot(path=failure)
                raise

    async def _start(self, greeted: bool) -> None:
        page = self.page
        await page.goto(str(self._url))
        await self.until_ready()
        await page.get_by_role("button", name="All Templates", exact=True).wait_for()
        if greeted:
            return
        await page.keyboard.press("Escape")
        await page.get_by_role("dialog").wait_for(state="hidden")

    async def until_ready(self) -> None:
        """Wait until the page has started."""
        await self.page.wait_for_function("window.app?.extensionManager && !!app.graph")
        await self.page.get_by_test_id("queue-button").wait_for()

    async def evaluate(self, script: str, argument: object = None) -> Any:
        """What a script in the page says."""
        return await self.page.evaluate(script, argument)

    async def until(self, script: str, argument: object = None) -> None:
        """Wait until a script in the page says true."""
        await self.page.wait_for_function(script, arg=argument)

    async def menu(self, *names: str) -> None:
        """Choose in the main menu."""
        await self.page.get_by_test_id("comfy-menu-button").click()
        for name in names[:-1]:
            await self.page.get_by_role("menuitem", name=name, exact=True).hover()
        await self.page.get_by_role("menuitem", name=names[-1], exact=True).click()

    async def open_file(self, path: Path) -> None:
        """Load a workflow from this machine, and look at the whole of it."""
        async with self.page.expect_file_chooser() as chooser:
            await self.menu("File", "Open")
        await (await chooser.value).set_files(path)
        await self.until_nodes(NODES)
        await self.fit()

    async def fit(self) -> None:
        """Look at the whole workflow, and wait until the canvas stands still."""
        await self.page.get_by_role("button", name="Fit View").click()
        await self.evaluate(_POINT, [LOAD, 0, 0])

    async def until_nodes(self, count: int) -> None:
        """Wait until the open workflow has so many nodes."""
        await self.until("(count) => app.graph.nodes.length === count", count)

    async def click_node(self, id_: int, *, down: float, button: Any = "left") -> None:
        """Click into the middle of a node, some units of the canvas below its title."""
        x, y = await self.point(id_, down)
        await self.page.mouse.click(x, y, button=button)

    async def point(self, id_: int, down: float) -> tuple[float, float]:
        """The point of the page in the middle of a node, some units below its title."""
        x, y = await self.evaluate(_POINT, [id_, 0.5, down])
        return x, y

    async def upload(self, picture: FilePayload) -> None:
        """Give the example's LoadImage a picture by its button."""
        find = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'upload').y"
        drawn = await self.page.wait_for_function(find, arg=LOAD)
        top = await drawn.json_value()
        async with self.page.expect_file_chooser() as chooser:
            await self.click_node(LOAD, down=top + 10)
        await (await chooser.value).set_files([picture])
        await self.until_picture(LOAD, picture["name"])

    async def until_picture(self, id_: int, name: str) -> None:
        """Wait until a node shows a picture whose name has this in it."""
        await self.until(_PICTURE, [id_, name])

    async def set_widget(self, id_: int, name: str, value: object) -> None:
        """Change the value of a node's widget."""
        await self.evaluate(
            "([id, name, value]) => {"
            " app.graph.getNodeById(id).widgets.find((w) => w.name === name).value = value }",
            [id_, name, value],
        )

    async def run(self) -> str:
        """Queue the open workflow; the id of its job, once the server has taken it."""
        async with self.page.expect_response(_is_submission) as answering:
            await self.page.get_by_test_id("queue-button").click()
        return str((await (await answering.value).json())["prompt_id"])

    async def until_sampling(self) -> None:
        """Wait until the sampler shows how far it is, in the page's title and on the node."""
        await self.until("() => /\\d+%.*KSampler/.test(document.title)")
        await self.until("(id) => app.graph.getNodeById(id).progress > 0", SAMPLER)

    async def until_preview(self) -> None:
        """Wait until the sampler shows what it paints."""
        await self.until_picture(SAMPLER, "blob:")

    async def until_idle(self) -> None:
        """Wait until no job is active, in the list of jobs and in the page's title."""
        await self.page.get_by_test_id("queue-overlay-toggle").get_by_text("0 active").wait_for()
        await self.until("() => !/\\d+%/.test(document.title)")

    async def sidebar(self, name: str) -> None:
        """Open a panel at the side."""
        await self.page.get_by_test_id(f"{name}-tab-button").click()

    async def close_sidebar(self) -> None:
        """Close the panel at the side."""
        await self.page.get_by_role("button", name="Close sidebar").click()

    async def save_as(self, name: str) -> None:
        """Save the open workflow, which has not been saved before."""
        await self.menu("File", "Save")
        dialog = self.page.get_by_role("dialog")
        await dialog.get_by_role("textbox").fill(name)
        await dialog.get_by_role("button", name="Confirm").click()
        await dialog.wait_for(state="hidden")
        await self.until("(title) => document.title === title", f"{name} - ComfyUI")

    async def paint_mask(self) -> None:
        """Open the picture of LoadImage in the mask editor, draw a stroke, and save."""
        page = self.page
        await self.click_node(LOAD, down=-10, button="right")
        await page.get_by_text("Open in MaskEditor").click()
        editor = page.get_by_role("dialog")
        canvas = editor.locator("canvas").nth(1)
        await canvas.wait_for()
        async with asyncio.timeout(TIMEOUT / 1000):
            while not await self.evaluate(_PAINTED):
                box = await canvas.bounding_box()
                if box is None:
                    continue  # it was replaced at this moment
                x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
                await page.mouse.move(x, y)
                await page.mouse.down()
                await page.mouse.move(x + 60, y + 40, steps=8)
                await page.mouse.up()
        await editor.get_by_role("button", name="Save").click()
        await editor.wait_for(state="hidden")
