"""How the settings of a gateway become what they stand for: its base path, its reverse proxies."""

from __future__ import annotations

import ipaddress
import re

_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)


def to_base_path(value: object) -> str:
    """`/comfy` from `/comfy/`, `comfy` and the like; `""` from `/` and nothing."""
    if not isinstance(value, str):
        raise ValueError("not a path")
    segments = value.strip("/").split("/") if value.strip("/") else []
    if segments and segments[0] == "t":
        raise ValueError("that path is for tokens")
    if not all(_SEGMENT.fullmatch(one) and one.strip(".") for one in segments):
        raise ValueError("not plain")
    return "".join(f"/{one}" for one in segments)


def to_networks(value: object) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Networks from a list of them and of addresses, or from a text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("not a list")
    names = [str(part).strip() for part in parts]
    return tuple(ipaddress.ip_network(name) for name in names if name)
