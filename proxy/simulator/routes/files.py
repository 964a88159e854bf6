"""Uploads and `/api/view`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.simulator import media, uploads
from proxy.simulator.assets import Layers, SimulatedAsset
from proxy.simulator.call import Call, RouteAccess, SimulatedRoute, answer
from proxy.simulator.errors import bad_request, flat, not_found, too_large
from proxy.simulator.outputs import known_name
from proxy.translate import codec


@dataclass(slots=True)
class Form:
    """A multipart body; `data` is `None` without the file."""

    data: bytes | None = None
    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict)


class UploadUrl(msgspec.Struct):
    """The body of `POST /api/inputs/upload-url`."""

    content_type: str


class OriginalRef(msgspec.Struct):
    """`original_ref` of a mask."""

    filename: str
    subfolder: str = ""
    type: str = ""


async def read_form(call: Call, file: str = "image") -> Form:
    """Return the fields of a multipart body, `file` among them. Raises `Refusal` (400, 413)."""
    if not call.request.content_type.startswith("multipart/"):
        raise bad_request("the body must be multipart/form-data")
    form = Form()
    try:
        reader = await call.request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):
                raise bad_request("nested multipart bodies are not taken")
            if part.name == file and part.filename is not None:
                form.filename = part.filename
                form.data = await _limited(part)
            elif part.name:
                form.fields[part.name] = (await _limited(part)).decode(errors="replace")
    except (ValueError, HttpProcessingError) as error:
        raise bad_request(f"the multipart body cannot be read: {error}") from None
    return form


async def _limited(part: BodyPartReader) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(1 << 18):
        data += chunk
        if len(data) > media.MAX_BODY:
            raise too_large(f"the body is larger than {media.MAX_BODY} bytes")
    return bytes(data)


async def upload_image(call: Call) -> web.Response:
    """Answer `POST /api/upload/image`; `overwrite` has no effect, `subfolder` is only echoed."""
    form = await read_form(call)
    if form.data is None:
        raise bad_request("the field image with a file is missing")
    asset = _take(call, form)
    return answer(_named(asset, form))


async def upload_mask(call: Call) -> web.Response:
    """Answer `POST /api/upload/mask`: the original with the alpha of the upload."""
    form = await read_form(call)
    if form.data is None:
        raise bad_request("the field image with a file is missing")
    try:
        reference = msgspec.convert(codec.loads(form.fields["original_ref"]), OriginalRef)
    except (KeyError, ValueError):
        raise bad_request("original_ref must be the JSON of an object with filename") from None
    library = call.account.library
    original = known_name(library, reference.filename, call.switches)
    if original is None:
        raise bad_request("original_ref names no file")
    mask = _take(call, form)
    storage = call.world.storage
    try:
        data = await asyncio.to_thread(media.masked, storage.get(original), form.data)
    except OSError as error:
        raise bad_request(f"not a picture: {error}") from None
    asset = uploads.take(call.account, storage, call.switches, data, form.filename)
    layers = Layers(mask=mask.cloud_name, painted_masked=asset.cloud_name)
    library.layers[mask.cloud_name] = library.layers[asset.cloud_name] = layers
    related = {"mask": layers.mask, "paint": layers.paint, "painted": layers.painted}
    metadata = {
        "is_mask": True,
        "original_hash": original,
        "mask_type": "painted_masked",
        "related_files": related,
    }
    return answer({**_named(asset, form), "metadata": metadata})


async def mask_layers(call: Call) -> web.Response:
    """Answer `GET /api/files/mask-layers`."""
    layers = call.account.library.layers.get(call.request.query.get("filename", ""))
    if layers is None:
        raise not_found("file not found or not a mask file")
    return answer(layers.as_dict())


def _take(call: Call, form: Form) -> SimulatedAsset:
    return uploads.take(
        call.account,
        call.world.storage,
        call.switches,
        form.data or b"",
        form.filename,
        tags=(form.fields.get("type") or "output",),
        subfolder=form.fields.get("subfolder", ""),
    )


def _named(asset: SimulatedAsset, form: Form) -> dict[str, str]:
    return {
        "name": asset.cloud_name,
        "subfolder": form.fields.get("subfolder", ""),
        "type": form.fields.get("type") or "output",
    }


async def upload_url(call: Call) -> web.Response:
    """Answer `POST /api/inputs/upload-url`."""
    request = await call.json(UploadUrl)
    if request.content_type not in ("image/png", "image/jpeg", "image/webp", "image/gif"):
        raise bad_request("content_type must be image/png, image/jpeg, image/webp or image/gif")
    ticket = call.world.direct_uploads.issue(call.account, request.content_type)
    return answer(
        {"upload_path": f"/api/uploads/{ticket.id}", "expires_in": uploads.DIRECT_UPLOAD_LIFE}
    )


async def put_upload(call: Call) -> web.Response:
    """Answer `PUT /api/uploads/{id}`: raw bytes, without a credential, once."""
    ticket = call.world.direct_uploads.redeem(call.path("id"))
    if ticket is None:
        raise not_found("no such upload, or it was used already")
    data = await call.body(media.MAX_PICTURE_BYTES)
    try:
        medium = media.identify(data, "")
    except media.TooLargeError as error:
        raise too_large(str(error)) from None
    if medium.family != "image":
        raise flat(422, "UNPROCESSABLE_ENTITY", "the bytes are not a picture")
    asset = uploads.take(ticket.account, call.world.storage, call.switches, data, "upload")
    return answer({"name": asset.cloud_name, "subfolder": "", "type": "input"})


async def view(call: Call) -> web.Response:
    """Answer `GET /api/view`: a redirect to a signed URL, or a converted picture."""
    query = call.request.query
    name = query.get("filename", "")
    if not name:
        raise bad_request("filename is required")
    if call.account.library.newest(name) is None:
        raise not_found("not found or unauthorized")
    if "channel" in query:
        return await _converted(call, name, _channel(query["channel"]), "image/png")
    if "res" in query:
        box = call.number("res", 0, 64, 1024)
        return await _converted(call, name, lambda data: media.fitted(data, box), "image/jpeg")
    return redirect(call, name)


def redirect(call: Call, name: str, filename: str | None = None) -> web.Response:
    """Return the 302 to the storage."""
    life = int(call.switches.signed_url_life)
    headers = {
        "Location": str(call.world.storage.sign(name, filename=filename)),
        "Cache-Control": f"private, max-age={max(life - 60, 0)}",
        "Vary": "Authorization, Cookie, X-API-Key",
    }
    return web.Response(status=302, headers=headers)


def _channel(channel: str) -> Callable[[bytes], bytes]:
    if channel == "rgb":
        return media.opaque
    if channel in ("a", "alpha"):
        return media.alpha
    raise bad_request("channel must be rgb, a or alpha")


async def _converted(
    call: Call, name: str, convert: Callable[[bytes], bytes], media_type: str
) -> web.Response:
    try:
        data = await asyncio.to_thread(convert, call.world.storage.get(name))
    except OSError:
        raise bad_request("the file is not a picture") from None
    return web.Response(body=data, content_type=media_type)


async def query_video(_call: Call) -> web.Response:
    """Answer `GET /api/vhs/queryvideo`: placeholder numbers."""
    source = {"size": [0, 0], "fps": 0, "frames": 0, "duration": 0}
    return answer({"source": source, "loaded": source})


ROUTES = [
    SimulatedRoute("POST", "/api/upload/image", upload_image, RouteAccess.PAID),
    SimulatedRoute("POST", "/api/upload/mask", upload_mask, RouteAccess.PAID),
    SimulatedRoute("GET", "/api/files/mask-layers", mask_layers),
    SimulatedRoute("POST", "/api/inputs/upload-url", upload_url, RouteAccess.PAID),
    SimulatedRoute("PUT", "/api/uploads/{id}", put_upload, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/view", view, RouteAccess.PAID),
    SimulatedRoute("GET", "/view", view, RouteAccess.PAID),
    SimulatedRoute("GET", "/api/viewvideo", view, RouteAccess.PAID),
    SimulatedRoute("GET", "/api/vhs/viewvideo", view, RouteAccess.PAID),
    SimulatedRoute("GET", "/api/vhs/viewaudio", view, RouteAccess.PAID),
    SimulatedRoute("GET", "/api/vhs/queryvideo", query_video),
]
