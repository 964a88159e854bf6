"""Calls are counted by route, with no id or name in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from yarl import URL

from proxy.cloud.calls import ROUTES, route_of
from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudRefused, CloudUnreachable
from proxy.cloud.waits import Patience
from proxy.metrics import PREFIX, Metrics
from proxy.simulator import Simulator


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_is_found_whatever_its_names_are(route: str) -> None:
    path = "/api/" + route.replace("{path}", "a/b.png")
    for name in ("{id}", "{folder}", "{file}", "{dest}"):
        path = path.replace(name, "9f%2Fcancel")
    assert route_of(path) == f"/api/{route}"


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/jobs/1/2", "/other", "/api/prompt/x"])
def test_what_is_no_route_of_ours_is_other(path: str) -> None:
    assert route_of(path) == "other"


def counted(metrics: Metrics, name: str, *labels: str) -> float:
    names = ("account", "method", "route", "status")
    found = dict(zip(names, ("main", *labels), strict=False))
    return metrics.registry.get_sample_value(PREFIX + name, found) or 0


async def test_answers_refusals_and_silence_are_counted(simulator: Simulator) -> None:
    metrics = Metrics()
    cloud = CloudClient(simulator.base_url, simulator.key, calls=metrics.calls("main"))
    await cloud.start()
    await cloud.user()
    assert await cloud.job("7d4ab5a8-9d8c-4bb4-9e4b-1f2a6a3c1c55") is None
    cloud.use_key("comfyui-wrong")
    with pytest.raises(CloudRefused):
        await cloud.user()
    await cloud.close()
    for method, route, status in (
        ("GET", "/api/user", "200"),
        ("GET", "/api/jobs/{id}", "404"),
        ("GET", "/api/user", "401"),
    ):
        assert counted(metrics, "cloud_calls_total", method, route, status) == 1
    assert counted(metrics, "cloud_call_seconds_count", "GET", "/api/user") == 2


async def test_bytes_of_files_are_counted(simulator: Simulator, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.effect_noise((64, 64), 50).save(path)
    size = path.stat().st_size
    metrics = Metrics()
    cloud = CloudClient(simulator.base_url, simulator.key, calls=metrics.calls("main"))
    await cloud.start()
    name = await cloud.upload(path, filename="picture.png", content_type="image/png")
    async with cloud.download(name, type="input", offset=100) as download:
        received = [chunk async for chunk in download.chunks()]
    await cloud.close()
    assert counted(metrics, "cloud_bytes_uploaded_total") == size
    assert counted(metrics, "cloud_bytes_downloaded_total") == sum(map(len, received))


async def test_a_call_without_an_answer_is_counted_as_none(unused_tcp_port: int) -> None:
    metrics = Metrics()
    cloud = CloudClient(
        URL(f"http://127.0.0.1:{unused_tcp_port}"),
        "key",
        patience=Patience(budget=0.01),
        calls=metrics.calls("main"),
    )
    await cloud.start()
    with pytest.raises(CloudUnreachable):
        await cloud.user()
    await cloud.close()
    assert counted(metrics, "cloud_calls_total", "GET", "/api/user", "none") >= 1
