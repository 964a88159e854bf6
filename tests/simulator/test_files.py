"""Uploads, outputs and where they are fetched."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from typing import Any

import aiohttp
import pytest
from blake3 import blake3
from graphs import inverted, plain, png
from PIL import Image
from simulator.visitor import Answer, Visitor
from yarl import URL

from proxy.simulator import Simulator

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" + bytes(24)


def picture(form: str, mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 1 if mode == "L" else None).save(out, form)
    return out.getvalue()


def huge(width: int, height: int) -> bytes:
    """A PNG that says it is so large; its pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def opened(answer: Answer) -> Image.Image:
    return Image.open(io.BytesIO(answer.body))


async def test_an_upload_is_named_by_the_hash_of_its_bytes(visitor: Visitor) -> None:
    data = png()
    first = await visitor.upload(data, "cat.png", overwrite="true", subfolder="a/b", type="input")
    second = await visitor.upload(data, "dog.png")
    name = blake3(data).hexdigest() + ".png"
    assert first.json == {"name": name, "subfolder": "a/b", "type": "input"}
    assert second.json == {"name": name, "subfolder": "", "type": "output"}


@pytest.mark.parametrize(("form", "ending"), [("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif")])
async def test_the_extension_follows_the_bytes(visitor: Visitor, form: str, ending: str) -> None:
    answer = await visitor.upload(picture(form), "cat.png")
    assert answer.json["name"].endswith(f".{ending}")


@pytest.mark.parametrize("size", [(16385, 1), (16384, 16384), (8192, 8193)])
async def test_too_many_pixels_are_400(visitor: Visitor, size: tuple[int, int]) -> None:
    answer = await visitor.upload(huge(*size))
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_too_many_bytes_are_400(visitor: Visitor) -> None:
    answer = await visitor.upload(png() + bytes(50 * 1024 * 1024))
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_as_many_as_are_allowed_pass(visitor: Visitor) -> None:
    data = png()
    data += bytes(50 * 1024 * 1024 - len(data))
    assert (await visitor.upload(data)).status == 200
    assert (await visitor.upload(huge(8192, 8192))).status == 200


async def test_sounds_are_taken_unless_a_switch_says_no(sim: Simulator, visitor: Visitor) -> None:
    assert (await visitor.upload(WAV, "x.mp3")).json["name"].endswith(".wav")
    sim.switches.upload_kinds = "images"
    assert (await visitor.upload(WAV, "x.wav")).status == 400


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


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--\r\n"],
)
@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data; boundary=x", "multipart/form-data"]
)
async def test_strange_forms_are_400(visitor: Visitor, body: bytes, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    answer = await visitor.ask("POST", "/api/upload/image", data=body, headers=headers)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_an_upload_is_used_by_its_name_annotated_or_not(visitor: Visitor) -> None:
    name = (await visitor.upload(png((10, 20, 30)))).json["name"]
    detail = await visitor.run(inverted(f"{name} [input]"))
    shown = detail["preview_output"]["filename"]
    redirect = await visitor.get("/api/view", filename=shown)
    inverse = opened(await visitor.fetch(redirect.headers["Location"])).convert("RGB")
    assert inverse.getpixel((0, 0)) == (245, 235, 225)


async def test_annotations_may_not_be_understood(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.annotated_names = False
    name = (await visitor.upload(png())).json["name"]
    answer = await visitor.post("/api/prompt", {"prompt": inverted(f"{name} [input]")})
    assert answer.status == 400


async def test_a_folder_before_the_name_is_not_understood(visitor: Visitor) -> None:
    name = (await visitor.upload(png(), subfolder="a")).json["name"]
    answer = await visitor.post("/api/prompt", {"prompt": inverted(f"a/{name}")})
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


@pytest.mark.parametrize("reference", [None, "x", "[]", "{}", '{"filename": "nowhere.png"}'])
async def test_a_mask_without_an_original_is_400(visitor: Visitor, reference: str | None) -> None:
    assert (await mask(visitor, reference, png())).status == 400


async def test_a_direct_upload_needs_no_key_and_works_once(visitor: Visitor) -> None:
    url = (await visitor.post("/api/inputs/upload-url", {"content_type": "image/png"})).json
    answer = await visitor.ask("PUT", url["upload_path"], keyed=False, data=png())
    name = blake3(png()).hexdigest() + ".png"
    assert answer.json == {"name": name, "subfolder": "", "type": "input"}
    again = await visitor.ask("PUT", url["upload_path"], keyed=False, data=png())
    assert again.status == 404
    await visitor.run(inverted(name))


async def test_a_failed_direct_upload_burns_its_url(visitor: Visitor) -> None:
    url = (await visitor.post("/api/inputs/upload-url", {"content_type": "image/png"})).json
    answer = await visitor.ask("PUT", url["upload_path"], keyed=False, data=b"no picture")
    assert answer.status == 422
    assert (await visitor.ask("PUT", url["upload_path"], data=png())).status == 404
    bad = await visitor.post("/api/inputs/upload-url", {"content_type": "text/plain"})
    assert bad.status == 400


async def test_equal_pictures_have_one_name_and_two_display_names(visitor: Visitor) -> None:
    first = await visitor.run(plain(prefix="a/cat"))
    visitor.sim.switches.cache_nodes = False
    second = await visitor.run(plain(prefix="a/cat"))
    items = [detail["preview_output"] for detail in (first, second)]
    assert len({item["filename"] for item in items}) == 1
    assert [item["display_name"] for item in items] == ["cat_00001_.png", "cat_00002_.png"]
    assert items[0]["subfolder"] == "a"


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


@pytest.mark.parametrize(("filename", "status"), [("", 400), ("nowhere.png", 404), ("../x", 404)])
async def test_view_of_nothing(visitor: Visitor, filename: str, status: int) -> None:
    answer = await visitor.get("/api/view", filename=filename)
    assert answer.status == status
    assert set(answer.json) == {"code", "message"}


async def test_channels_and_sizes_are_answered_directly(visitor: Visitor) -> None:
    out = io.BytesIO()
    Image.new("RGBA", (512, 256), (9, 8, 7, 6)).save(out, "PNG")
    name = await uploaded(visitor, out.getvalue())
    rgb = opened(await visitor.get("/api/view", filename=name, channel="rgb"))
    assert rgb.getpixel((0, 0)) == (9, 8, 7, 255)
    alpha = opened(await visitor.get("/api/view", filename=name, channel="a"))
    assert (alpha.mode, alpha.getpixel((0, 0))) == ("L", 6)
    small = await visitor.get("/api/view", filename=name, res=64)
    assert (small.headers["Content-Type"], opened(small).size) == ("image/jpeg", (64, 32))
    for query in ({"channel": "x"}, {"res": "63"}, {"res": "1025"}):
        assert (await visitor.get("/api/view", filename=name, **query)).status == 400


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


async def test_assets_are_listed_and_found(visitor: Visitor) -> None:
    name = await uploaded(visitor, png())
    await visitor.run(plain())
    listed = (await visitor.get("/api/assets", include_tags="output", name_contains="comfy")).json
    (asset,) = listed["assets"]
    assert asset["name"] == "ComfyUI_00001_.png"
    assert (await visitor.get(f"/api/assets/{asset['id']}")).json == asset
    content = await visitor.get(f"/api/assets/{asset['id']}/content", disposition="attachment")
    fetched = await visitor.fetch(content.headers["Location"])
    assert fetched.headers["Content-Disposition"] == 'attachment; filename="ComfyUI_00001_.png"'
    digest = name.partition(".")[0]
    assert (await visitor.ask("HEAD", f"/api/assets/hash/blake3:{digest}")).status == 200
    assert (await visitor.ask("HEAD", f"/api/assets/hash/blake3:{'0' * 64}")).status == 404
    assert (await visitor.ask("DELETE", f"/api/assets/{asset['id']}")).status == 204
    assert (await visitor.get(f"/api/assets/{asset['id']}")).status == 404
    assert (await visitor.get("/api/tags")).json["tags"] == [{"name": "output", "count": 1}]
