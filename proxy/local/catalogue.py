"""`/object_info`, `/models` and `/embeddings`: what there is to build workflows of."""

from __future__ import annotations

from aiohttp import web

from proxy.local import answers
from proxy.local.services import member_of, of


async def get_object_info(request: web.Request) -> web.Response:
    """All node classes, with the member's files where a class lists the input folder."""
    return answers.ready(await of(request).catalogue.object_info_json(_files(request)))


async def get_node_class(request: web.Request) -> web.Response:
    """One node class, or `{}`."""
    name = request.match_info["node_class"]
    return answers.ready(await of(request).catalogue.node_class_json(name, _files(request)))


async def get_model_folders(request: web.Request) -> web.Response:
    """The names of the model folders."""
    return answers.json(await of(request).catalogue.model_folders())


async def get_models(request: web.Request) -> web.Response:
    """The names of a folder's models; 404 without a body for an unknown folder."""
    models = await of(request).catalogue.models(request.match_info["folder"])
    return answers.empty(404) if models is None else answers.json(models)


async def get_model_folders_in_detail(request: web.Request) -> web.Response:
    """The model folders with their places."""
    return answers.json(await of(request).catalogue.model_folders_in_detail())


async def get_models_in_detail(request: web.Request) -> web.Response:
    """A folder's models with what is known of them; 404 without a body for an unknown folder."""
    models = await of(request).catalogue.models_in_detail(request.match_info["folder"])
    return answers.empty(404) if models is None else answers.json(models)


async def get_embeddings(request: web.Request) -> web.Response:
    """The names of the embeddings."""
    return answers.json(await of(request).catalogue.embeddings())


def _files(request: web.Request) -> list[str]:
    return of(request).files.listing(member_of(request), "input")
