"""Uploads, outputs and where they are fetched."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import aiohttp
import pytest
from blake3 import blake3
from graphs import inverted, plain, png
from PIL import Image
from simulator.visitor import Answer, Visitor
from yarl import URL

from proxy.simulator import Simulator


def picture(form: str, mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 1 if mode == "L" else None).save(out, form)
    return out.getvalue()


def opened(answer: Answer) -> Image.Image:
    return Image.open(io.BytesIO(answer.body))


async def test_other_things_are_taken_only_by_switch(sim: Simulator, visitor: Visitor) -> None:
    assert (await visitor.upload(b"hello", "x.txt")).status == 400
    assert (await visitor.upload(b"hello", "x.png")).status == 400
    sim.switches.upload_kinds = "any"
    assert (await visitor.upload(b"hello", "x.txt")).json["name"].endswith(".txt")


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ("bare", "{}"),
        ("prefixed", "blake3:{}.png"),
        ("upper", "{}.PNG"),
    ],
)
async def test_names_may_have_other_forms_and_work_all_the_same(
    sim: Simulator, visitor: Visitor, form: str, shape: str
) -> None:
    sim.switches.update({"upload_names": form})
    name = (await visitor.upload(png())).json["name"]
    digest = blake3(png()).hexdigest()
    assert name == shape.format(digest.upper() if form == "upper" else digest)
    await visitor.run(inverted(name))
    redirect = await visitor.get("/api/view", filename=name)
    assert (await visitor.fetch(redirect.headers["Location"])).body == png()


async def test_annotations_may_not_be_understood(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.annotated_names = False
    name = (await visitor.upload(png())).json["name"]
    answer = await visitor.post("/api/prompt", {"prompt": inverted(f"{name} [input]")})
    assert answer.status == 400


async def mask(visitor: Visitor, reference: str | None, data: bytes) -> Answer:
    form = aiohttp.FormData({"type": "input", "subfolder": "clipspace"})
    form.add_field("image", data, filename="mask.png")
    if reference is not None:
        form.add_field("original_ref", reference)
    return await visitor.ask("POST", "/api/upload/mask", data=form)


async def test_a_mask_becomes_the_alpha_of_its_original(visitor: Visitor) -> None:
    original = (await visitor.upload(png((1, 2, 3)))).json["name"]
    reference = json.dumps({"filename": original, "type": "input"})
    answer = await mask(visitor, reference, picture("PNG", "RGBA"))
    assert answer.json["subfolder"] == "clipspace"
    assert answer.json["metadata"]["original_hash"] == original
    redirect = await visitor.get("/api/view", filename=answer.json["name"])
    masked = opened(await visitor.fetch(redirect.headers["Location"]))
    assert masked.getpixel((0, 0)) == (1, 2, 3, 0)
    layers = (await visitor.get("/api/files/mask-layers", filename=answer.json["name"])).json
    assert layers["painted_masked"] == answer.json["name"]
    assert (await visitor.get("/api/files/mask-layers", filename=original)).status == 404


async def test_a_failed_direct_upload_burns_its_url(visitor: Visitor) -> None:
    url = (await visitor.post("/api/inputs/upload-url", {"content_type": "image/png"})).json
    answer = await visitor.ask("PUT", url["upload_path"], keyed=False, data=b"no picture")
    assert answer.status == 422
    assert (await visitor.ask("PUT", url["upload_path"], data=png())).status == 404
    bad = await visitor.post("/api/inputs/upload-url", {"content_type": "text/plain"})
    assert bad.status == 400


async def test_display_names_may_be_absent_or_more_than_names(
    sim: Simulator, visitor: Visitor
) -> None:
    detail = await visitor.run(plain(prefix="a/cat"))

    async def item() -> dict[str, Any]:
        answer = await visitor.get(f"/api/jobs/{detail['id']}")
        return answer.json["outputs"]["2"]["images"][0]

    sim.switches.output_subfolder = "display_name"
    assert (await item())["display_name"] == "a/cat_00001_.png"
    assert (await item())["subfolder"] == ""
    sim.switches.update({"display_name": False, "output_ids": True})
    assert "display_name" not in await item()
    assert (await item())["hash"].startswith("blake3:")


@pytest.fixture
def video() -> dict[str, Any]:
    return {
        **plain(),
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
        "4": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["3", 0],
                "filename_prefix": "video/x",
                "format": "auto",
                "codec": "auto",
            },
        },
    }


async def test_videos_stand_under_video_and_by_switch_elsewhere_too(
    sim: Simulator, visitor: Visitor, video: dict[str, Any]
) -> None:
    detail = await visitor.run(video)
    assert set(detail["outputs"]["4"]) == {"video"}
    assert detail["outputs"]["4"]["video"][0]["display_name"] == "x_00001_.mp4"
    jobs = (await visitor.get("/api/jobs", output_type="video")).json["jobs"]
    assert [job["id"] for job in jobs] == [detail["id"]]
    sim.switches.video_keys = "both"
    both = (await visitor.get(f"/api/jobs/{detail['id']}")).json["outputs"]["4"]
    assert both["video"] == both["videos"]
    sim.switches.video_keys = "images"
    local = (await visitor.get(f"/api/jobs/{detail['id']}")).json["outputs"]["4"]
    assert local["animated"] == [True]


async def uploaded(visitor: Visitor, data: bytes) -> str:
    return str((await visitor.upload(data)).json["name"])


async def test_view_redirects_to_the_storage_on_another_origin(visitor: Visitor) -> None:
    name = await uploaded(visitor, png())
    answer = await visitor.get("/api/view", filename=name, subfolder="x", type="temp", rand=1)
    url = URL(answer.headers["Location"])
    assert answer.status == 302
    assert url.origin() == visitor.sim.storage.url != visitor.sim.base_url
    assert answer.headers["Cache-Control"].startswith("private")
    assert "X-API-Key" in answer.headers["Vary"]
    content = await visitor.fetch(answer.headers["Location"])
    assert (content.status, content.body) == (200, png())
    assert content.headers["Content-Type"] == "image/png"


async def signed(visitor: Visitor, data: bytes = bytes(range(100))) -> str:
    visitor.sim.switches.upload_kinds = "any"
    name = (await visitor.upload(data, "x.bin")).json["name"]
    return str((await visitor.get("/api/view", filename=name)).headers["Location"])


async def test_a_signature_expires(visitor: Visitor) -> None:
    visitor.sim.switches.signed_url_life = 0.0
    url = await signed(visitor)
    await asyncio.sleep(0.001)
    answer = await visitor.fetch(url)
    assert (answer.status, answer.headers["Content-Type"]) == (
        403,
        "application/xml; charset=utf-8",
    )
    assert b"<Code>ExpiredToken</Code>" in answer.body
    visitor.sim.switches.expired_status = 400
    assert (await visitor.fetch(url)).status == 400


@pytest.mark.parametrize(
    "change",
    [
        ("X-Goog-Expires=3600", "X-Goog-Expires=9999"),
        ("X-Goog-Signature=", "X-Goog-Signature=0"),
        ("X-Goog-Signature=", "X-Other="),
        (".bin", ".png"),
    ],
)
async def test_a_wrong_signature_is_refused(visitor: Visitor, change: tuple[str, str]) -> None:
    url = await signed(visitor)
    assert change[0] in url
    answer = await visitor.fetch(url.replace(*change))
    assert answer.status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in answer.body


async def test_only_get_is_signed(visitor: Visitor) -> None:
    url = URL(await signed(visitor), encoded=True)
    async with visitor.session.head(url) as answer:
        assert answer.status == 403


async def test_the_storage_serves_ranges(visitor: Visitor) -> None:
    url = await signed(visitor)
    whole = bytes(range(100))
    part = await visitor.fetch(url, Range="bytes=10-19")
    assert (part.status, part.body) == (206, whole[10:20])
    assert part.headers["Content-Range"] == "bytes 10-19/100"
    assert (await visitor.fetch(url, Range="bytes=90-")).body == whole[90:]
    assert (await visitor.fetch(url, Range="bytes=-5")).body == whole[-5:]
    beyond = await visitor.fetch(url, Range="bytes=100-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */100")
    assert (await visitor.fetch(url, Range="nonsense")).status == 200
    tag = part.headers["ETag"]
    assert (await visitor.fetch(url, **{"If-None-Match": tag})).status == 304
    assert (await visitor.fetch(url, Range="bytes=1-2", **{"If-Range": '"x"'})).status == 200
    visitor.sim.switches.storage_range = False
    assert (await visitor.fetch(url, Range="bytes=1-2")).status == 200


async def test_a_credential_at_the_storage_is_a_leak(visitor: Visitor) -> None:
    url = await signed(visitor)
    await visitor.fetch(url)
    assert not visitor.sim.leaks
    await visitor.fetch(url, **{"X-API-Key": visitor.key})
    await visitor.fetch(url, Referer=f"http://x/?k={visitor.key}")
    await visitor.fetch(f"{url}&token=x", Cookie="session=1")
    assert [leak.credentials for leak in visitor.sim.leaks] == [
        ("X-API-Key",),
        ("key",),
        ("Cookie", "token"),
    ]
    assert len(visitor.sim.storage.requests) == 4
    assert visitor.key not in repr([leak.headers.get("X-API-Key") for leak in visitor.sim.leaks])
