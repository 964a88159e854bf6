"""A day at ComfyUI's web interface, in a real browser, with the proxy behind it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from browser import sketch
from browser.frontend import LOAD, NODES, SAMPLER, SAVE, WORKFLOW, Frontend
from PIL import Image
from stack import Client, Proxy

from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser

#: Seconds of a step of the sampler: long enough to be seen when the machine is busy.
PACE = 0.25


async def test_a_day_at_the_web_interface(
    chrome: Browser, simulator: Simulator, proxy: Proxy, client: Client, tmp_path: Path
) -> None:
    simulator.switches.pace = PACE
    async with Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend:
        await runs_a_workflow_and_sees_the_picture(frontend)
        await finds_the_job_in_queue_and_history_and_runs_it_again(frontend)
        await interrupts_a_long_run(frontend, client)
        await saves_the_workflow_and_finds_it_again(frontend)
        await masks_a_part_of_the_picture(frontend, client)
        await looks_into_the_libraries(frontend)
        assert frontend.watch.unexpected() == []


async def test_it_is_the_same_below_a_base_path(
    chrome: Browser, simulator: Simulator, proxy: Proxy, tmp_path: Path
) -> None:
    simulator.switches.pace = PACE
    below = proxy.url / "comfy/"
    async with Frontend.opened(chrome, below, tmp_path / "failure.png") as frontend:
        await runs_a_workflow_and_sees_the_picture(frontend)
        await saves_the_workflow_and_finds_it_again(frontend)
        await looks_into_the_libraries(frontend)
        assert frontend.watch.unexpected() == []


async def runs_a_workflow_and_sees_the_picture(frontend: Frontend) -> None:
    await frontend.open_file(WORKFLOW)
    await frontend.upload(sketch.upload())
    await frontend.run()
    await frontend.until_sampling()
    await frontend.until_preview()
    await frontend.until_picture(SAVE, "lighthouse_00001_.png")
    await frontend.until_idle()


async def finds_the_job_in_queue_and_history_and_runs_it_again(frontend: Frontend) -> None:
    page = frontend.page
    await page.get_by_test_id("queue-overlay-toggle").click()
    await page.get_by_role("button", name="Completed", exact=True).click()
    job = page.get_by_text("lighthouse_00001_.png", exact=True)
    await job.wait_for()
    await frontend.sidebar("assets")
    await page.get_by_role("button", name="lighthouse_00001_.png - image asset").wait_for()
    await frontend.close_sidebar()

    await page.get_by_role("button", name="Create a new blank workflow").click()
    await frontend.until_nodes(0)
    await job.click(button="right")
    await page.get_by_role("menuitem", name="Open as workflow in new tab").click()
    await frontend.until_nodes(NODES)
    await frontend.run()
    await frontend.until_picture(SAVE, "lighthouse_00002_.png")
    await page.get_by_text("lighthouse_00002_.png", exact=True).wait_for()
    await frontend.until_idle()


async def interrupts_a_long_run(frontend: Frontend, client: Client) -> None:
    await frontend.set_widget(SAMPLER, "steps", 10_000)
    job = await frontend.run()
    await frontend.until_sampling()
    await frontend.page.get_by_role("button", name="Cancel current run").click()
    await frontend.until_idle()
    await client.ended(job)
    _, listed = await client.get("api/jobs", limit="1")
    assert [(found["id"], found["status"]) for found in listed["jobs"]] == [(job, "cancelled")]
    await frontend.set_widget(SAMPLER, "steps", 2)


async def saves_the_workflow_and_finds_it_again(frontend: Frontend) -> None:
    page = frontend.page
    await frontend.save_as("my lighthouse")
    await page.reload()
    await frontend.until_ready()
    await frontend.until_nodes(NODES)
    await page.get_by_role("button", name="Create a new blank workflow").click()
    await frontend.until_nodes(0)
    await frontend.sidebar("workflows")
    await page.get_by_text("my lighthouse", exact=True).last.click()
    await frontend.until_nodes(NODES)
    await frontend.close_sidebar()
    await frontend.until_picture(LOAD, "sketch.png")


async def masks_a_part_of_the_picture(frontend: Frontend, client: Client) -> None:
    await frontend.paint_mask()
    await frontend.until_picture(LOAD, "clipspace-painted-masked")
    name = await frontend.evaluate("(id) => app.graph.getNodeById(id).widgets[0].value", LOAD)
    masked = {"filename": str(name).removesuffix(" [input]"), "type": "input"}
    with Image.open(io.BytesIO(await client.view(masked))) as picture:
        assert picture.size == (sketch.SIZE, sketch.SIZE)
        lowest, highest = picture.getchannel("A").getextrema()
    assert (lowest < 255, highest) == (True, 255)
    await frontend.run()
    await frontend.until_picture(SAVE, "lighthouse_00003_.png")


async def looks_into_the_libraries(frontend: Frontend) -> None:
    page = frontend.page
    await frontend.sidebar("node-library")
    await page.get_by_placeholder("Search Nodes").fill("KSampler")
    await page.get_by_text("KSampler (Advanced)").first.wait_for()
    await page.get_by_placeholder("Search Nodes").fill("Invert Picture")
    await page.get_by_text("Invert Picture (simulator)").first.wait_for()
    await frontend.sidebar("model-library")
    await page.get_by_text("checkpoints", exact=True).click()
    await page.get_by_text("v1-5-pruned-emaonly-fp16").last.wait_for()
    await frontend.close_sidebar()
