"""What people write for a setting, as the value that the setting has."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator, SecretStr, StringConstraints
from yarl import URL

from proxy.settings.fields import ConfigError, ValueForm
from proxy.translate.reading import url_of


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def to_address(value: object) -> tuple[str, int]:
    """Return host and port from `HOST:PORT`; an IPv6 address is in brackets."""
    host, colon, port = _as_text(value).rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address without brackets")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("no address")
    return host, int(port)


def to_url(value: object) -> URL:
    """Return the address of a cloud: http or https, perhaps with a path, and nothing else."""
    url = url_of(str(value))
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("not a web address")
    if url.user is not None or url.query_string or url.fragment:
        raise ValueError("more than a web address")
    return url.with_path(url.path.rstrip("/") or "/")


def to_database(value: object) -> SecretStr | None:
    """Return the address of a PostgreSQL database, as it is or from a file; `None` for SQLite."""
    return _address(value, "sqlite", ("postgresql://", "postgres://"))


def _address(value: object, none: str, beginnings: tuple[str, ...]) -> SecretStr | None:
    """Return an address that may hold a password. `file:PATH` names a file that holds it.

    Raises `ConfigError` for a file that cannot be read.
    """
    text = str(value).strip()
    if text.startswith("file:"):
        path = Path(text.removeprefix("file:")).expanduser()
        try:
            text = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"The file {path} with an address cannot be read ({error.strerror}): correct the "
                "path after `file:` or the permissions."
            ) from None
    if text == none:
        return None
    if not text.startswith(beginnings) or any(letter.isspace() for letter in text):
        raise ValueError("no address")
    return SecretStr(text)


def to_blobs(value: object) -> str:
    """Return `s3://BUCKET/PREFIX`, or the path of a folder, the home folder's `~` expanded."""
    place = _as_text(value)
    scheme, colon, rest = place.partition("://")
    if not colon and place:
        return str(Path(place).expanduser().absolute())
    if scheme != "s3" or not rest.partition("/")[0]:
        raise ValueError("no place for blobs")
    return place.rstrip("/")


def to_path(value: object) -> Path:
    """Return a path, the home folder's `~` expanded."""
    if not value or not isinstance(value, str | Path):
        raise ValueError("no path")
    return Path(value).expanduser()


_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)


def to_base_path(value: object) -> str:
    """Return `/comfy` from `/comfy/`, `comfy` and the like; `""` from `/` and nothing."""
    path = _as_text(value).strip("/")
    segments = path.split("/") if path else []
    if segments and segments[0] == "t":
        raise ValueError("that path is for tokens")
    if not all(_SEGMENT.fullmatch(segment) and segment.strip(".") for segment in segments):
        raise ValueError("not plain")
    return "".join(f"/{segment}" for segment in segments)


def to_list(value: object) -> list[str]:
    """Return what a list has, or a text with commas; nothing empty."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("not a list")
    return [text for part in parts if (text := str(part).strip())]


def to_origins(value: object) -> tuple[str, ...]:
    """Return origins of web pages from a list of them, or from a text with commas."""
    origins = [origin for part in to_list(value) if (origin := part.rstrip("/"))]
    if any(origin != "*" and url_of(origin) != url_of(origin).origin() for origin in origins):
        raise ValueError("not an origin")
    return tuple(origins)


def to_issuer(value: object) -> str:
    """Return the address of an issuer, which has TLS or is on this machine."""
    address = _as_text(value)
    if not is_secure(address) or not url_of(address).host:
        raise ValueError("not an issuer")
    return address


def is_secure(address: str) -> bool:
    """Return whether an address has TLS, or is on this machine."""
    try:
        url = url_of(address)
    except ValueError:
        return False
    local = url.host in ("localhost", "127.0.0.1", "::1")
    return url.scheme == "https" or (url.scheme == "http" and local)


_Host: TypeAlias = Annotated[
    str, StringConstraints(to_lower=True, pattern=r"^(?i:(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*)$")
]

HomePath: TypeAlias = Annotated[
    Path, PlainValidator(to_path), ValueForm("FILE", "the path of a file that can be read")
]
WebAddress: TypeAlias = Annotated[
    URL,
    PlainValidator(to_url),
    ValueForm("URL", "an address such as https://cloud.comfy.org, without user, query or fragment"),
]
BasePath: TypeAlias = Annotated[
    str,
    BeforeValidator(to_base_path),
    ValueForm("PATH", "a path such as /comfy/ of plain letters, and not below /t/"),
]
HostAndPort: TypeAlias = Annotated[
    tuple[str, int],
    BeforeValidator(to_address),
    ValueForm("HOST:PORT", "an address such as 127.0.0.1:9188 or [::1]:9188"),
]
DatabaseAddress: TypeAlias = Annotated[SecretStr | None, BeforeValidator(to_database)]
BlobPlace: TypeAlias = Annotated[
    str,
    BeforeValidator(to_blobs),
    ValueForm("PLACE", "the path of a folder, or s3://BUCKET/PREFIX"),
]
ApiKey: TypeAlias = Annotated[
    SecretStr, ValueForm("KEY", "one line of printable characters without spaces")
]
Networks: TypeAlias = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    BeforeValidator(to_list),
    ValueForm("NETWORKS", "a list of addresses or networks such as 10.0.0.0/8"),
]
Origins: TypeAlias = Annotated[
    tuple[str, ...],
    BeforeValidator(to_origins),
    ValueForm("ORIGINS", "a list of origins such as https://app.example"),
]
Hosts: TypeAlias = Annotated[tuple[_Host, ...], BeforeValidator(to_list), ValueForm("HOSTS")]
Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(to_list), ValueForm("NAMES")]
Header: TypeAlias = Annotated[
    str,
    StringConstraints(strip_whitespace=True, pattern=r"^\s*[A-Za-z0-9-]{1,100}\s*$"),
    ValueForm("HEADER"),
]
Issuer: TypeAlias = Annotated[
    str,
    BeforeValidator(to_issuer),
    ValueForm("URL", "an https address, exactly as the provider names itself"),
]
Seconds: TypeAlias = Annotated[float, ValueForm("SECONDS", "a number of seconds")]
Mebibytes: TypeAlias = Annotated[float, ValueForm("MIB")]
#: An amount of credits. As a budget it is exact up to 1e9.
Credits: TypeAlias = Annotated[
    float, Field(ge=0, le=1e9), ValueForm("CREDITS", "a number of credits from 0")
]
