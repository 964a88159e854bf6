"""What a row of a table of settings is, and how values become what a row wants."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import get_args

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic.fields import FieldInfo
from yarl import URL

#: How the tables are checked: no unknown names, no value in any text of an error.
STRICT = ConfigDict(
    extra="forbid",
    frozen=True,
    allow_inf_nan=False,
    arbitrary_types_allowed=True,
    hide_input_in_errors=True,
    use_attribute_docstrings=True,
)


_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)


class ConfigError(Exception):
    """The settings cannot be used. The text is one sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the table says of a setting beside its name, type, default and docstring.

    The docstring is the `help`. `expects` ends the sentence "it must be …"; where the type says it,
    it is left out. `environment` is the variable where it is not `COMFY_PROXY_` and the name.
    `shown` stands for a default that differs between machines, `example` for one that is none.
    `former` is the name in an earlier release, which is accepted in all three forms.
    """

    group: str
    help: str = ""
    expects: str = ""
    environment: str | None = None
    option: bool = True
    in_file: bool = True
    secret: bool = False
    metavar: str = "TEXT"
    shown: str | None = None
    example: object = None
    former: str | None = None


def entries(model: type[BaseModel]) -> list[tuple[str, Entry]]:
    """The fields of a model that are rows of a table, with what the table says of them."""
    return [
        (
            name,
            replace(
                item,
                help=" ".join((field.description or "").split()),
                expects=item.expects or _expected(field, item),
            ),
        )
        for name, field in model.model_fields.items()
        for item in field.metadata
        if isinstance(item, Entry)
    ]


def _expected(field: FieldInfo, entry: Entry) -> str:
    """What a value must be, as its type and its bounds say."""
    union = get_args(field.annotation) or (field.annotation,)
    kinds = [one for kind in union if kind is not NoneType for one in get_args(kind) or (kind,)]
    if all(isinstance(kind, str) for kind in kinds):  # of a Literal
        return " or ".join(kinds) if len(kinds) == 2 else f"one of {', '.join(kinds)}"
    bounds = {type(one).__name__: one for one in field.metadata}
    least, most = bounds.get("Ge"), bounds.get("Le")
    span = f" from {least.ge}" if least else ""
    span += f" to {most.le}" if most else ""
    if bool in kinds:
        return "true or false"
    if URL in kinds:
        return "an address such as https://cloud.comfy.org, without user, query or fragment"
    if Path in kinds:
        return "the path of a file that can be read"
    if int in kinds:
        return f"a whole number{span}"
    return f"a number{' of seconds' if entry.metavar == 'SECONDS' else ''}{span}"


def to_address(value: object) -> object:
    """Host and port from `HOST:PORT`; an IPv6 address is in brackets."""
    if not isinstance(value, str):
        return value
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address without brackets")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("no address")
    return host, int(port)


def to_url(value: object) -> URL | None:
    """The address of a cloud: http or https, perhaps with a path, and nothing else."""
    if value is None:
        return None
    url = URL(str(value))
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("not a web address")
    if url.user is not None or url.query_string or url.fragment:
        raise ValueError("more than a web address")
    return url.with_path(url.path.rstrip("/") or "/")


def to_database(value: object) -> SecretStr | None:
    """The address of a PostgreSQL database, as it is or from a file; `None` for SQLite."""
    return _address(value, "sqlite", ("postgresql://", "postgres://"))


def to_bus(value: object) -> SecretStr | None:
    """The address of a Valkey or Redis server, as it is or from a file; `None` for memory."""
    return _address(value, "memory", ("redis://", "rediss://"))


def _address(value: object, none: str, beginnings: tuple[str, ...]) -> SecretStr | None:
    """An address that may hold a password. `file:PATH` names a file that holds it.

    Raises `ConfigError` for a file that cannot be read.
    """
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    text = "" if value is None else str(value).strip()
    if text.startswith("file:"):
        path = Path(text.removeprefix("file:")).expanduser()
        try:
            text = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"The file {path} with an address cannot be read ({error.strerror}): correct the "
                "path after `file:` or the permissions."
            ) from None
    if value is None or text == none:
        return None
    if not text.startswith(beginnings) or any(letter.isspace() for letter in text):
        raise ValueError("no address")
    return SecretStr(text)


def to_blobs(value: object) -> object:
    """`s3://BUCKET/PREFIX`, or the path of a folder, the home folder's `~` expanded."""
    if not isinstance(value, str):
        return value
    scheme, colon, rest = value.partition("://")
    if not colon and value:
        return str(Path(value).expanduser().absolute())
    if scheme != "s3" or not rest.partition("/")[0]:
        raise ValueError("no place for blobs")
    return value.rstrip("/")


def to_path(value: object) -> object:
    """A path, the home folder's `~` expanded."""
    if value == "":
        raise ValueError("no path")
    return Path(value).expanduser() if isinstance(value, str | Path) else value


_HOST = re.compile(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*")


def to_lower(value: object) -> object:
    """Words in small letters."""
    return value.lower() if isinstance(value, str) else value


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


def to_origins(value: object) -> object:
    """Origins of web pages from a list of them, or from a text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("not a list")
    origins = [str(part).strip().rstrip("/") for part in parts]
    for origin in filter(None, origins):
        if origin != "*" and URL(origin) != URL(origin).origin():
            raise ValueError("not an origin")
    return tuple(filter(None, origins))


def to_hosts(value: object) -> object:
    """Names of hosts from a list of them, or from a text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("not a list")
    hosts = [str(part).strip().lower() for part in parts]
    if not all(_HOST.fullmatch(host) for host in filter(None, hosts)):
        raise ValueError("not a host")
    return tuple(filter(None, hosts))


def to_encryption_key(value: object) -> object:
    """32 bytes in URL-safe base64 from either kind of base64."""
    if not isinstance(value, str):
        return value
    text = value.strip().translate(str.maketrans("+/", "-_"))
    if len(base64.b64decode(text, altchars=b"-_", validate=True)) != 32:
        raise ValueError("not 32 bytes")
    return text
