"""What a client asks about the server itself; nothing here waits for the cloud."""

from __future__ import annotations

import os
import sys
from typing import Any

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.services import of
from proxy.files.uploads import MAX_BYTES
from proxy.translate.errors import LocalError

#: The release whose behaviour is followed.
COMFYUI_VERSION = "0.26.0"
FRONTEND_VERSION = "1.27.10"
TEMPLATES_VERSION = "0.1.95"
PYTORCH_VERSION = "2.9.0+cu129"

GIBIBYTE = 1024**3
#: Memory of the cloud's GPUs, by Comfy Cloud's own description.
VRAM_BYTES = 96 * GIBIBYTE


def features(max_upload_bytes: int) -> dict[str, Any]:
    """The server's feature flags, ours and never the cloud's.

    `supports_progress_text_metadata` is absent: with it the web client would expect the long form
    of text frames. `max_upload_size` is in bytes: Comfy Cloud's own limit for a file, or that of a
    request body where it is lower.
    """
    return {
        "supports_preview_metadata": True,
        "supports_model_type_tags": False,
        "max_upload_size": min(max_upload_bytes, MAX_BYTES),
        "extension": {"manager": {"supports_v4": True}},
        "node_replacements": True,
        "assets": False,
    }


async def get_features(request: web.Request) -> web.Response:
    """The feature flags."""
    return answers.json(features(of(request).max_upload_bytes))


async def get_system_stats(request: web.Request) -> web.Response:
    """This machine's memory and a GPU that stands for the cloud's."""
    total, free = memory()
    interface = of(request).interface
    templates = interface.templates_version or TEMPLATES_VERSION
    return answers.json(
        {
            "system": {
                "os": sys.platform,
                "ram_total": total,
                "ram_free": free,
                "comfyui_version": COMFYUI_VERSION,
                "required_frontend_version": interface.frontend_version or FRONTEND_VERSION,
                "installed_templates_version": templates,
                "required_templates_version": templates,
                "comfy_package_versions": [],
                "python_version": sys.version,
                "pytorch_version": PYTORCH_VERSION,
                "embedded_python": False,
                "deploy_environment": "local-git",
                "argv": ["main.py"],
            },
            "devices": [
                {
                    "name": "cuda:0 Comfy Cloud : native",
                    "type": "cuda",
                    "index": 0,
                    "vram_total": VRAM_BYTES,
                    "vram_free": VRAM_BYTES,
                    "torch_vram_total": 0,
                    "torch_vram_free": 0,
                }
            ],
        }
    )


def memory() -> tuple[int, int]:
    """This machine's memory and how much of it is free, in bytes; 0 where it is not known."""
    values = []
    for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"):
        try:
            values.append(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):
            values.append(0)
    return values[0], values[1]


async def post_free(request: web.Request) -> web.Response:
    """Nothing to free here: the cloud minds its own memory."""
    body = await bodies.read_json(request)
    if not isinstance(body, dict):
        raise LocalError(
            400,
            "invalid_body",
            f"The request body must be a JSON object, not {bodies.kind(body)}.",
        )
    return answers.empty()


async def get_users(_: web.Request) -> web.Response:
    """There is one user, as without `--multi-user`."""
    return answers.json({"storage": "server", "migrated": True})


async def get_empty_object(_: web.Request) -> web.Response:
    """A map of what a ComfyUI without custom nodes does not have."""
    return answers.json({})


async def get_nothing(_: web.Request) -> web.Response:
    """404 without a body, ComfyUI's answer where no metadata is found."""
    return answers.empty(404)


async def assets_disabled(_: web.Request) -> web.Response:
    """The asset routes of a ComfyUI whose assets are off, in their own nested error form."""
    error = {
        "code": "SERVICE_DISABLED",
        "message": "Assets are not available on this server.",
        "details": {},
    }
    return answers.json({"error": error}, 503)
