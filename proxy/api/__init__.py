"""The local ComfyUI API: aiohttp handlers, one module for each resource, and a table of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import WSCloseCode
from msgspec import Struct

if TYPE_CHECKING:
    from proxy.api.header_sign_in import HeaderSignIn
    from proxy.edge.addressing import Network


class ApiOptions(Struct, frozen=True, kw_only=True):
    """The settings of the API.

    `max_upload_bytes` limits every request body and is reported to clients;
    the default is ComfyUI's own (`--max-upload-size 100`). Pages of `cors_origins` may
    use the API (`*`: all pages); others pass the origin check. Websockets are closed with
    `close_code` when the server stops. With `pays_partner_nodes` jobs get the account's key for
    partner nodes. `base_path` (`""` or like `/comfy`) is a prefix of links and redirects; the
    headers of `trusted_proxies` name the client, and with `header_sign_in` its person.
    `allowed_hosts` are allowed in `Host` on loopback. With `admin_apart` another listener serves
    the routes of admins. `simulated` is whether the cloud is simulated.
    """

    base_path: str = ""
    trusted_proxies: tuple[Network, ...] = ()
    header_sign_in: HeaderSignIn | None = None
    allowed_hosts: tuple[str, ...] = ()
    max_upload_bytes: int = 100 * 1024 * 1024
    cors_origins: tuple[str, ...] = ()
    close_code: int = WSCloseCode.GOING_AWAY
    pays_partner_nodes: bool = True
    admin_apart: bool = False
    simulated: bool = False
