"""`/upload/image` and `/upload/mask`: a client's files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from aiohttp import web
from multidict import MultiDict

from proxy.api import answers, bodies
from proxy.api.bodies import Field, Form
from proxy.api.connections import member_of, of
from proxy.files.namespace import Named
from proxy.translate import codec
from proxy.translate.assets import of_upload
from proxy.translate.errors import LocalError
from proxy.translate.names import TYPES, upload_refusal

#: Bytes passed on at once.
CHUNK = 256 * 1024
#: Bytes of a form beside its files, about.
FORM_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A checked upload; `file` lies on disk unless it is small."""

    file: IO[bytes]
    filename: str
    subfolder: str
    type: str
    overwrite: bool


async def post_image(request: web.Request) -> web.Response:
    """Take a file of any kind into the member's folder."""
    async with form(request) as fields:
        upload = read_form(fields)
        if upload is None:
            return answers.empty(400)
        return await _store(request, upload, of(request).files.upload)


async def post_mask(request: web.Request) -> web.Response:
    """Put the alpha of an upload on an earlier picture, and take the result."""
    async with form(request) as fields:
        upload = read_form(fields)
        if upload is None:
            return answers.empty(400)
        original = original_ref(fields.get("original_ref"))
        masked = partial(of(request).files.upload_mask, original=original)
        return await _store(request, upload, masked)


async def _store(
    request: web.Request, upload: Upload, store: Callable[..., Awaitable[Named]]
) -> web.Response:
    services, member = of(request), member_of(request)
    async with services.accounting.uploading(member, size(upload.file)):
        named = await store(
            member,
            chunks(upload.file),
            filename=upload.filename,
            subfolder=upload.subfolder,
            type=upload.type,
            overwrite=upload.overwrite,
        )
    body: dict[str, Any] = {"name": named.name, "subfolder": named.subfolder, "type": named.type}
    if services.assets is not None and named.asset is not None:
        body["asset"] = of_upload(named.asset)
    return answers.json(body)


def read_form(form: Form) -> Upload | None:
    """Check the fields of an upload; `None` is ComfyUI's 400 without a body.

    That is: no file, or a name that leads out of the folder. Raises `LocalError` (400) where
    ComfyUI answers 500. Only `true` and `1` overwrite; a file part in that place does not.
    """
    type_ = form.get("type", "input")
    if not isinstance(type_, str) or type_ not in TYPES:
        raise LocalError("invalid_type", "type must be input, output or temp.")
    if "image" not in form:
        return None
    image = form["image"]
    if not isinstance(image, web.FileField):
        raise LocalError("invalid_image", "The field image must be a file with a filename.")
    subfolder = form.get("subfolder", "")
    if not isinstance(subfolder, str):
        raise LocalError("invalid_subfolder", "subfolder must be text.")
    if upload_refusal(image.filename, subfolder, type_) is not None:
        return None
    return Upload(
        file=image.file,
        filename=image.filename,
        subfolder=subfolder,
        type=type_,
        overwrite=form.get("overwrite") in ("true", "1"),
    )


def original_ref(value: object) -> dict[str, Any]:
    """The picture that a mask belongs to. Raises `LocalError` (400)."""
    try:
        original = codec.loads(value) if isinstance(value, str) else None
    except ValueError:
        original = None
    if not isinstance(original, dict) or not isinstance(original.get("filename"), str):
        raise LocalError(
            "invalid_original_ref",
            "original_ref must be JSON that names the picture: "
            '{"filename": …, "subfolder": …, "type": …}.',
        )
    return original


@asynccontextmanager
async def form(request: web.Request) -> AsyncIterator[MultiDict[Field]]:
    """The fields in any order, files spooled to disk; what is no form is an empty one.

    Reading stops where the member may upload no more today. Raises `LocalError` (429).
    """
    room = await of(request).accounting.limiter.upload_room(member_of(request))
    narrow = room is not None and room + FORM_BYTES < request.client_max_size
    if room is not None and narrow:
        request = request.clone(client_max_size=room + FORM_BYTES)
    async with AsyncExitStack() as stack:
        try:
            if request.content_type == "multipart/form-data":
                bodies.check_length(request)
            fields = await stack.enter_async_context(bodies.read_form(request))
        except web.HTTPRequestEntityTooLarge:
            if narrow:
                raise of(request).accounting.limiter.upload_refusal(member_of(request)) from None
            raise
        except bodies.BROKEN_FORM as error:
            raise LocalError(
                "invalid_form",
                "The request body is not complete multipart/form-data; send the whole form again.",
                details=str(error)[:200],
            ) from None
        yield fields


def size(file: IO[bytes]) -> int:
    """Bytes of a file, which is at its beginning then."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    return length


async def chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """The bytes of a file, read in threads."""
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk
