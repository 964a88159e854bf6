"""Settings of what clients may do, and of their connections."""

from __future__ import annotations

from typing import Literal

from proxy.settings.fields import SettingsTable, setting
from proxy.settings.values import Hosts, Mebibytes, Origins


class ClientSettings(SettingsTable):
    """The settings under the heading Clients."""

    group = "Clients"

    client_parallelism: Literal["auto", "one", "many"] = setting(
        "auto",
        "How many jobs of one client_id run at once. auto: one, as on a local ComfyUI, unless the "
        "client has announced support for several, or polls without a websocket. Members can "
        "override it.",
        expects="auto, one or many",
    )
    cors_origins: Origins = setting(
        (),
        "Origins of web pages that may call the API from a browser, such as "
        "`https://app.example`, separated by commas; `*` allows all. Others are refused, as by a "
        "local ComfyUI.",
    )
    allowed_hosts: Hosts = setting(
        (),
        "Names by which clients may call a proxy without members on a loopback address, separated "
        "by commas; `*.comfy.example` allows all subdomains. Loopback names, IP addresses and "
        "names that nobody can register are always allowed.",
        expects="a list of hosts such as comfy.example or *.comfy.example",
    )
    max_upload_mb: Mebibytes = setting(
        100,
        "The maximum size of a request body in MiB. Larger bodies get a 413.",
        expects="a number greater than 0",
        gt=0,
        le=1_000_000,
    )
    memory_mb: Mebibytes = setting(
        256,
        "The memory in MiB that the proxy may hold for clients: bodies, unread answers, "
        "unfinished messages. A client that needs more than its share gets a 429.",
        ge=64,
        le=1_000_000,
    )
    max_connections: int = setting(
        20_000,
        "The maximum number of connections; a client with more than its share gets a 503. The "
        "system's limit of open files can be lower.",
        metavar="COUNT",
        ge=1,
        le=1_000_000,
    )
    url_hosts: Hosts = setting(
        (),
        "Hosts that nodes may load pictures from, separated by commas; `*.images.example` allows "
        "all subdomains. The proxy downloads the pictures, never from private addresses.",
        expects="a list of hosts such as images.example or *.images.example",
    )

    @property
    def memory_bytes(self) -> int:
        """`memory_mb` in bytes."""
        return round(self.memory_mb * 1024 * 1024)

    @property
    def max_upload_bytes(self) -> int:
        """`max_upload_mb` in bytes, rounded as ComfyUI rounds it."""
        return round(self.max_upload_mb * 1024 * 1024)
