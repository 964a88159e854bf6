"""Uploads, masks and conversions of a real ComfyUI, made again here."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from files.helpers import (
    body,
    bytes_of,
    pixels,
    png,
    record_of,
    recorded,
    recorded_bytes,
    recorded_form,
    upload,
)

from proxy.files.conversions import conversion
from proxy.files.service import Files
from proxy.storage.file_tables import FileRecord
from proxy.translate.errors import LocalError
from proxy.translate.names import view_place

#: The pictures that the recorded server had in its input folder.
PICTURES = ("rgb.png", "rgba.png", "gray.png", "photo.jpg", "anim.gif")


def recorded_picture(name: str) -> bytes:
    """The bytes of one of its pictures, from an answer that did not convert it."""
    for request, response, _ in recorded("view_channel"):
        query = parse_qs(urlsplit(request["path"]).query)
        if query["filename"] == [name] and query["channel"] == ["rgba"]:
            return recorded_bytes(response)
    raise KeyError(name)


async def repeat(files: Files, request: dict[str, Any]) -> dict[str, str]:
    """Do a recorded upload here."""
    form = recorded_form(request)
    text = {name: value.decode() for name, (filename, value) in form.items() if filename is None}
    filename, data = form["image"]
    options = {
        "filename": filename or "",
        "subfolder": text.get("subfolder", ""),
        "type": text.get("type", "input"),
        "overwrite": text.get("overwrite") in ("true", "1"),
    }
    if request["path"].endswith("/mask"):
        options["original"] = json.loads(text["original_ref"])
    named = await files.upload("local", body(data), **options)
    return {"name": named.name, "subfolder": named.subfolder, "type": named.type}


async def view(files: Files, path: str) -> bytes | None:
    query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
    place = view_place(query.get("filename"), query.get("subfolder"), query.get("type"))
    assert not isinstance(place, int)
    record = await files.find("local", place.type, "", place.path)
    return None if record is None else await bytes_of(files, record)


async def test_uploads_get_the_recorded_names_and_bytes(files: Files) -> None:
    await upload(files, b"no extension\n", "noext")
    for request, response, label in recorded("upload_image"):
        if request["method"] == "POST":
            assert await repeat(files, request) == response["body"]["json"], label
        elif request["path"].startswith("/view"):
            assert await view(files, request["path"]) == recorded_bytes(response), label


async def test_the_newest_uploads_are_the_last_records(files: Files) -> None:
    await upload(files, b"no extension\n", "noext")
    for request, response, _ in recorded("upload_image"):
        if request["method"] == "POST":
            await repeat(files, request)
        elif request["path"] == "/internal/files/input":
            shown = response["body"]["json"]
    names = [
        record.path
        for record in await files.namespace.records("local", "input")
        if not record.subfolder
    ]
    assert names[:0:-1] == shown[: len(names) - 1]


#: What 0.3.64 answers with a name and no file.
REFUSED_BY_THE_NEWEST = (
    "original not there",
    "original with ..",
    "original subfolder outside",
    "original type unknown",
)


async def test_masks_get_the_recorded_names_and_pixels(files: Files) -> None:
    for name in ("rgb.png", "rgba.png", "gray.png"):
        await upload(files, recorded_picture(name), name)
    await upload(files, b"abcdefghijklmnopqrstuvwxyz", "letters.txt")
    for request, response, label in recorded("upload_mask"):
        if request["method"] == "GET":
            seen = await view(files, request["path"])
            if response["status"] == 404:
                assert seen is None, label
            else:
                assert seen is not None
                assert pixels(seen) == pixels(recorded_bytes(response)), label
        elif response["status"] == 200 and label.startswith(REFUSED_BY_THE_NEWEST):
            with pytest.raises(LocalError, match="original_ref"):
                await repeat(files, request)
        elif response["status"] == 200:
            assert await repeat(files, request) == response["body"]["json"], label
        elif response["status"] == 500 and label not in (
            "no original_ref",
            "original_ref malformed",
        ):
            with pytest.raises(LocalError) as refusal:
                await repeat(files, request)
            assert refusal.value.kind == "invalid", label


def conversions() -> list[Any]:
    return [
        pytest.param(request, response, id=request["path"])
        for name in ("view_preview", "view_channel")
        for request, response, _ in recorded(name)
        if parse_qs(urlsplit(request["path"]).query)["filename"][0] in PICTURES
    ]


async def converted(
    files: Files, record: FileRecord, preview: str | None, channel: str | None
) -> bytes:
    wanted = conversion(preview, channel)
    assert wanted is not None
    return await files.convert(record, wanted)


@pytest.mark.parametrize(("request_", "response"), conversions())
async def test_conversions_have_the_recorded_pixels(
    files: Files, request_: dict[str, Any], response: dict[str, Any]
) -> None:
    query = parse_qs(urlsplit(request_["path"]).query, keep_blank_values=True)
    name = query["filename"][0]
    preview, channel = (query.get(key, [None])[0] for key in ("preview", "channel"))
    await upload(files, recorded_picture(name), name)
    record = await record_of(files, name)
    if response["status"] == 500:
        with pytest.raises(LocalError) as refusal:
            await converted(files, record, preview, channel)
        assert refusal.value.kind == "invalid"
        return
    wanted = conversion(preview, channel)
    if wanted is not None:
        data, media_type = await files.convert(record, wanted), wanted.media_type
        assert "Etag" not in dict(response["headers"])
    else:
        data, media_type = await bytes_of(files, record), record.media_type
        assert "Etag" in dict(response["headers"])
    assert media_type == dict(response["headers"])["Content-Type"]
    assert pixels(data) == pixels(recorded_bytes(response))


@pytest.mark.parametrize(
    "data", [b"text\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", png()[:40]]
)
async def test_what_is_no_picture_is_not_converted(files: Files, data: bytes) -> None:
    await upload(files, data, "broken.png")
    record = await record_of(files, "broken.png")
    for preview, channel in (("webp", None), (None, "rgb"), (None, "a")):
        with pytest.raises(LocalError, match=r"broken.png cannot be used as a picture") as refusal:
            await converted(files, record, preview, channel)
        assert refusal.value.kind == "invalid"
