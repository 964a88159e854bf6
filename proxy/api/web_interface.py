"""ComfyUI's web interface at `/`, or a page of our own, and its feature flags.

The packages of the web interface (the extra `ui`) are served as they are, where they are installed:
`comfyui-frontend-package` at `/`, `comfyui-workflow-templates…` below `/templates/`,
`comfyui-embedded-docs` below `/docs/`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from aiohttp import web

from proxy.api import bodies
from proxy.api.middleware import of

if TYPE_CHECKING:
    from proxy.api.server import Services


_FRONTEND = "comfyui_frontend_package"
_DOCS = "comfyui_embedded_docs"
_TEMPLATES = "comfyui_workflow_templates_core"


@dataclass(frozen=True, slots=True)
class WebInterface:
    """What of the web interface is installed; without a `frontend` `/` is a page of our own.

    `frontend` and `docs` are folders, `templates` has the path of each file by its name, `pictures`
    the names of those of templates whose package is not installed. The versions are those of the
    packages.
    """

    frontend: Path | None = None
    docs: Path | None = None
    templates: Mapping[str, Path] = field(default_factory=dict)
    pictures: frozenset[str] = frozenset()
    frontend_version: str | None = None
    templates_version: str | None = None

    def file(self, name: str) -> Path | None:
        """The file of the frontend at a path below `/`. Raises 403 for a folder."""
        return _within(self.frontend, name)

    def page_of_docs(self, name: str) -> Path | None:
        """The file of the documentation at a path below `/docs/`. Raises 403 for a folder."""
        return _within(self.docs, name)

    def extensions(self) -> list[str]:
        """The paths of the frontend's own extensions."""
        if self.frontend is None:
            return []
        found = (self.frontend / "extensions").rglob("*.js")
        return sorted(f"/{path.relative_to(self.frontend).as_posix()}" for path in found)


def installed() -> WebInterface:
    """The packages of this environment."""
    templates, pictures = _templates()
    return WebInterface(
        frontend=_folder(_FRONTEND, "static"),
        docs=_folder(_DOCS, "docs"),
        templates=templates,
        pictures=pictures,
        frontend_version=_version(_FRONTEND),
        templates_version=_version("comfyui_workflow_templates") or _version(_TEMPLATES),
    )


def _within(folder: Path | None, name: str) -> Path | None:
    """The file of this name, which may have slashes, if it lies in the folder."""
    if folder is None:
        return None
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder):
        return None
    try:
        if path.is_dir():
            raise web.HTTPForbidden
        return path if path.is_file() else None
    except OSError:  # a name that is too long
        return None


def _folder(package: str, name: str) -> Path | None:
    try:
        folder = Path(str(resources.files(package) / name))
    except ModuleNotFoundError:
        return None
    return folder if folder.is_dir() else None


def _templates() -> tuple[dict[str, Path], frozenset[str]]:
    """By the packages' own list: the files, and the names of those that are not installed."""
    try:
        core = importlib.import_module(_TEMPLATES)
    except ModuleNotFoundError:
        return {}, frozenset()
    found, missing = {}, set()
    for entry in core.iter_templates():
        for asset in entry.assets:
            try:
                found[asset.filename] = Path(core.get_asset_path(entry.template_id, asset.filename))
            except FileNotFoundError:
                if not asset.filename.endswith(".json"):
                    missing.add(asset.filename)
    return found, frozenset(missing)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_PAGE_HEADERS = {
    "Cache-Control": "no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
}

#: What Python's table lacks, or a system's own has wrong so that a browser refuses to run it.
_TYPES = {
    ".js": "application/javascript",
    ".mjs": "application/javascript",
    ".css": "text/css",
    ".webp": "image/webp",
}

_SOUNDS = (".mp3", ".wav", ".flac")

_TILE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="400">'
    '<linearGradient id="g" x2="1" y2="1"><stop stop-color="hsl({},40%,32%)"/>'
    '<stop offset="1" stop-color="hsl({},45%,18%)"/></linearGradient>'
    '<rect width="400" height="400" fill="url(#g)"/></svg>'
)

_OWN_PAGE = (resources.files("proxy.api") / "welcome.html").read_bytes()


async def get_root(request: web.Request) -> web.StreamResponse:
    """The web interface, or a page that says what this is."""
    page = of(request).interface.file("index.html")
    if page is None:
        return web.Response(body=_OWN_PAGE, content_type="text/html", headers=_PAGE_HEADERS)
    return web.FileResponse(page, headers=_PAGE_HEADERS)


async def get_extensions(request: web.Request) -> web.Response:
    """The scripts that belong to the web interface; there are no custom nodes with more."""
    return bodies.json(of(request).interface.extensions())


async def get_template(request: web.Request) -> web.StreamResponse:
    """A workflow template, its pictures, or the list of all."""
    services, name = of(request), request.match_info["path"]
    if name not in services.interface.pictures:
        return _answer(services.interface.templates.get(name))
    picture = await services.catalog.template_picture(name)
    if picture is not None:
        body, type_ = picture
        return web.Response(body=body, headers={"Content-Type": type_})
    if name.endswith(_SOUNDS):
        return web.StreamResponse(status=404)
    headers = {"Content-Type": "image/svg+xml", "Cache-Control": "no-cache"}
    return web.Response(body=_tile(name), headers=headers)


def _tile(name: str) -> bytes:
    """What stands for a template's picture, in a colour of its own."""
    turn = crc32(name.partition("-")[0].encode()) % 360
    return _TILE.format(turn, (turn + 50) % 360).encode()


async def get_docs(request: web.Request) -> web.StreamResponse:
    """A page of the nodes' documentation."""
    return _answer(of(request).interface.page_of_docs(request.match_info["path"]))


async def get_file(request: web.Request) -> web.StreamResponse:
    """A file of the web interface, or 404: every GET that no other route takes comes here."""
    return _answer(of(request).interface.file(request.match_info["path"]))


def _answer(path: Path | None) -> web.StreamResponse:
    if path is None:
        return web.StreamResponse(status=404)
    type_ = _TYPES.get(path.suffix)
    return web.FileResponse(path, headers={"Content-Type": type_} if type_ else None)


# --- feature flags --------------------------------------------------------------------------------


# `GET /features` and the websocket announce the same, ours and never the cloud's: a flag of the
# cloud can change how a local client reads what we send.


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that the web interface reads. A dot in its name leads into an object.

    `value` gives what is announced; a flag without one is left out, and the web interface then
    continues as with a ComfyUI that does not know the flag. `shown` and `why` are for the
    documents.
    """

    name: str
    why: str
    value: Callable[[Services], Any] | None = None
    shown: str = "left out"


#: Flags that are not announced, and why.
_LEFT_OUT = {
    "With it texts of nodes would be read in a form that ComfyUI does not send.": (
        "supports_progress_text_metadata"
    ),
    "Deleting an asset leaves its file, as in ComfyUI; the page says so without this flag.": (
        "asset_deletion_enabled"
    ),
    "ComfyUI-Manager is not there.": "extension.manager.supports_csrf_post",
    "No telemetry is sent for the proxy.": "enable_telemetry",
    "The assistant is a program beside your own ComfyUI.": "agent agent-in-app-experience",
    "The workflow runs on the cloud already.": "deploy_to_cloud",
    "As in ComfyUI: the page offers its app mode.": "linear_toggle_enabled",
    "As in ComfyUI: the list of all nodes comes first.": "node_library_essentials_enabled",
    "As in ComfyUI: no tour.": "onboarding_tour_enabled",
    "The cloud takes no models from here.": "model_upload_button_enabled private_models_enabled",
    "Signing in is not needed: the account's key is the proxy's.": (
        "show_signin_button local_web_sso sso_enabled unified_cloud_auth unified_web_session"
    ),
    "Only who signs in at comfy.org has such a token.": "partner_node_token",
    "Keys of model sites are kept at comfy.org.": "user_secrets_enabled",
    "The page signs in where ComfyUI's page does.": (
        "firebase_config firebase_env comfy_api_base_url comfy_cloud_base_url "
        "comfy_platform_base_url"
    ),
    "What members may run is the proxy's to say.": "partner_node_governance_enabled",
    "A part of Comfy Cloud's own pages, which needs their routes.": (
        "comfyhub_upload_enabled comfyhub_profile_gate_enabled onboarding_survey "
        "onboarding_survey_enabled cancellation_survey_id manager_survey_url signup_turnstile"
    ),
    "Plans and payments are managed at comfy.org: the account is not the browser's.": (
        "hosted_billing_destination billing_web_url embedded_checked_enabled "
        "stripe_publishable_key billing_control_enabled legacy_billing_migration_enabled "
        "billing_sdk_topup_enabled billing_sdk_subscription_enabled v1_payment_recovery "
        "unified_billing_settings auto_top_up_enabled member_credit_limits_enabled "
        "free_tier_job_allowance_enabled free_tier_balance free_tier_credits free_tier_offer "
        "new_free_tier_subscriptions"
    ),
}

#: Every flag that the web interface reads, of either source.
FLAGS: tuple[Flag, ...] = (
    Flag(
        "supports_preview_metadata",
        "Previews name their node and job for clients that announce the same.",
        lambda _: True,
        "true",
    ),
    Flag(
        "supports_model_type_tags",
        "Models are assets with a tag `model_type:<folder>`.",
        lambda _: True,
        "true",
    ),
    Flag(
        "max_upload_size",
        "Bytes of a file: the lower of `max_upload_mb` and of what the accounts take.",
        lambda services: services.most_upload_bytes,
        "bytes",
    ),
    Flag(
        "extension.manager.supports_v4",
        "As in ComfyUI. ComfyUI-Manager stays hidden, because the arguments do not enable it.",
        lambda _: True,
        "true",
    ),
    Flag(
        "node_replacements",
        "`GET /node_replacements` answers with the cloud's.",
        lambda _: True,
        "true",
    ),
    Flag(
        "assets",
        "The panels for pictures and models read `/api/assets`, unless `assets` is off.",
        lambda services: services.assets is not None,
        "true with `assets`",
    ),
    Flag(
        "partner_run_gate_enabled",
        "With `send_partner_key` the account pays for partner nodes, so that they run without "
        "signing in; otherwise the button asks to sign in.",
        lambda services: not services.pays_partner_nodes,
        "false with `send_partner_key`",
    ),
    *(Flag(name, why) for why, names in _LEFT_OUT.items() for name in names.split()),
)


def features(services: Services) -> dict[str, Any]:
    """The flags that are announced."""
    announced: dict[str, Any] = {}
    for flag in FLAGS:
        if flag.value is not None:
            *folders, name = flag.name.split(".")
            place = announced
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = flag.value(services)
    return announced
