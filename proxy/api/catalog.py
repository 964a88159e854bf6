"""`/object_info`, `/models` and their kin: what there is to build workflows of."""

from __future__ import annotations

from typing import cast

from aiohttp import web

from proxy.api import bodies
from proxy.api.connections import member_of, of
from proxy.api.middleware import prepare
from proxy.api.system import is_krita
from proxy.catalog.node_classes import Body, Coding, Listing
from proxy.translate.errors import PlainError

#: Ways to compress `object_info`, the best first.
_CODINGS: tuple[Coding, ...] = ("zstd", "gzip")


async def get_object_info(request: web.Request) -> web.StreamResponse:
    """All node classes, with the member's files where a class lists the input folder.

    Compressed only for who asks for it. The entity tag is that of the bytes as they are sent.
    """
    if is_krita(request):
        services = of(request)
        classes = await services.catalog.classes()
        objection = services.krita.objection(member_of(request), classes)
        if objection is not None:
            raise PlainError(objection, kind="unavailable")
    coding = cast(Coding, bodies.coding(request.headers.getall("Accept-Encoding", ()), _CODINGS))
    body = await of(request).catalog.object_info(await _files(request), coding)
    headers = {"Etag": f'"{body.etag}"', "Vary": "Accept-Encoding"}
    if any(tag.value in ("*", body.etag) for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = bodies.JSON_TYPE
    if coding != bodies.IDENTITY:
        headers["Content-Encoding"] = coding
    return await _send(request, body, headers)


async def get_node_class(request: web.Request) -> web.Response:
    """One node class, or `{}`."""
    name = request.match_info["node_class"]
    return bodies.ready(await of(request).catalog.node_class_json(name, await _files(request)))


async def get_model_folders(request: web.Request) -> web.Response:
    """The names of the model folders."""
    return bodies.json(await of(request).catalog.model_folders())


async def get_models(request: web.Request) -> web.Response:
    """The names of a folder's models; 404 without a body for an unknown folder."""
    models = await of(request).catalog.models(request.match_info["folder"])
    return bodies.empty(404) if models is None else bodies.json(models)


async def get_model_folders_in_detail(request: web.Request) -> web.Response:
    """The model folders with their places."""
    return bodies.json(await of(request).catalog.model_folders_in_detail())


async def get_models_in_detail(request: web.Request) -> web.Response:
    """A folder's models with what is known of them; 404 without a body for an unknown folder."""
    models = await of(request).catalog.models_in_detail(request.match_info["folder"])
    return bodies.empty(404) if models is None else bodies.json(models)


async def get_embeddings(request: web.Request) -> web.Response:
    """The names of the embeddings."""
    return bodies.json(await of(request).catalog.embeddings())


async def get_model_preview(request: web.Request) -> web.Response:
    """The picture of a model; 404 without a body where there is none."""
    match = request.match_info
    try:
        index = int(match["path_index"])
    except ValueError:
        return bodies.empty(400)
    catalog, folder, name = of(request).catalog, match["folder"], match["filename"]
    models = await catalog.models(folder) or []
    if name not in models and name.removesuffix(".webp") not in models:
        return bodies.empty(404)
    picture = await catalog.preview(folder, index, name) if index >= 0 else None
    if picture is None:
        return bodies.empty(404)
    body, type_ = picture
    return web.Response(body=body, headers={"Content-Type": type_})


async def get_subgraphs(request: web.Request) -> web.Response:
    """The subgraphs that everybody has, without their contents."""
    return bodies.json(await of(request).catalog.subgraphs())


async def get_subgraph(request: web.Request) -> web.Response:
    """One of them with its content as `data`, JSON as text; `null` for an unknown one."""
    return bodies.json(await of(request).catalog.subgraph(request.match_info["id"]))


async def get_node_replacements(request: web.Request) -> web.Response:
    """The node classes that replace old ones."""
    return bodies.json(await of(request).catalog.node_replacements())


async def _send(request: web.Request, body: Body, headers: dict[str, str]) -> web.StreamResponse:
    """Piece by piece, so that nothing is copied; a client that leaves ends it quietly."""
    response = web.StreamResponse(headers={**headers, "Content-Length": str(body.length)})
    try:
        await prepare(request, response)
        if request.method != "HEAD":
            for piece in body.pieces:
                await response.write(piece)
        await response.write_eof()
    except ConnectionError:
        if request.transport is not None:
            request.transport.abort()
    return response


async def _files(request: web.Request) -> Listing:
    return await of(request).files.listing(member_of(request), "input")
