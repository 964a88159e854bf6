"""What a row of a table of settings is, and how values become what a row wants."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr
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


class ConfigError(Exception):
    """The settings cannot be used. The text is one sentence that says what to do."""


#: How the variables begin, and those of the cloud: an unknown one of either kind is a mistake.
PREFIX = "COMFY_PROXY_"
CLOUD_PREFIX = "COMFY_CLOUD_"


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of a table of settings: what an annotation says, and below what its field does.

    `expects` ends the sentence "it must be …"; where the type says it, it is left out. `shown`
    stands for a default that differs between machines, `example` for one that is none. `former` is
    the name in an earlier release, which is accepted in all three forms. A secret has no option.
    `help` is the docstring.
    """

    group: str
    metavar: str = ""
    expects: str = ""
    prefix: str = PREFIX
    in_file: bool = True
    secret: bool = False
    shown: str | None = None
    example: object = None
    former: str | None = None

    name: str = ""
    help: str = ""
    default: object = None
    is_flag: bool = False

    @property
    def option(self) -> str | None:
        """The option, where there is one."""
        return None if self.secret else "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        """The variable."""
        return self.prefix + self.name.upper()

    @property
    def key(self) -> str | None:
        """The key of the TOML file, where there is one."""
        return self.name if self.in_file else None

    @property
    def environments(self) -> tuple[str, ...]:
        """The variables that set it; the first that is set counts."""
        return (self.environment, *([PREFIX + self.former.upper()] if self.former else []))

    def in_environment(self, variables: Mapping[str, str]) -> tuple[str, str] | None:
        """The variable that sets it, and its value; an empty one counts as not set."""
        return next(
            ((name, variables[name]) for name in self.environments if variables.get(name)), None
        )


def rows_of(model: type[BaseModel]) -> list[Setting]:
    """The rows of a table of settings, in the order of the model's fields."""
    return [
        replace(
            row,
            name=name,
            help=" ".join((field.description or "").split()),
            default=None if row.shown else field.default,
            is_flag=field.annotation is bool,
            metavar=row.metavar or _metavar(_kinds(field)),
            expects=row.expects or _expected(field, row),
        )
        for name, field in model.model_fields.items()
        for row in field.metadata
        if isinstance(row, Setting)
    ]


def _kinds(field: FieldInfo) -> list[Any]:
    """The types of a field, or the words of its Literal; without `None`."""
    union = get_args(field.annotation) or (field.annotation,)
    return [one for kind in union if kind is not NoneType for one in get_args(kind) or (kind,)]


def _metavar(kinds: list[Any]) -> str:
    return "FILE" if Path in kinds else "URL" if URL in kinds else "TEXT"


def _expected(field: FieldInfo, row: Setting) -> str:
    """What a value must be, as its type and its bounds say."""
    kinds = _kinds(field)
    if all(isinstance(kind, str) for kind in kinds):  # of a Literal
        return " or ".join(kinds) if len(kinds) == 2 else f"one of {', '.join(kinds)}"
    bounds = {type(one).__name__: one for one in field.metadata}
    above, least, most = bounds.get("Gt"), bounds.get("Ge"), bounds.get("Le")
    span = f" greater than {above.gt}," if above else f" from {least.ge}" if least else ""
    span += f" {'at most' if above else 'to'} {most.le}" if most else ""
    if bool in kinds:
        return "true or false"
    if URL in kinds:
        return "an address such as https://cloud.comfy.org, without user, query or fragment"
    if Path in kinds:
        return "the path of a file that can be read"
    if int in kinds:
        return f"a whole number{span}"
    return f"a number{' of seconds' if row.metavar == 'SECONDS' else ''}{span}"


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


def to_lower(value: object) -> object:
    """Words in small letters."""
    return value.lower() if isinstance(value, str) else value


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


def _parts(value: object) -> list[str]:
    """What a list has, or a text with commas; nothing empty."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("not a list")
    return [text for part in parts if (text := str(part).strip())]


def to_networks(value: object) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Networks from a list of them and of addresses, or from a text with commas."""
    return tuple(map(ipaddress.ip_network, _parts(value)))


def to_origins(value: object) -> object:
    """Origins of web pages from a list of them, or from a text with commas."""
    origins = [origin for part in _parts(value) if (origin := part.rstrip("/"))]
    if any(origin != "*" and URL(origin) != URL(origin).origin() for origin in origins):
        raise ValueError("not an origin")
    return tuple(origins)


_HOST = re.compile(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*")


def to_hosts(value: object) -> object:
    """Names of hosts from a list of them, or from a text with commas."""
    hosts = tuple(part.lower() for part in _parts(value))
    if not all(map(_HOST.fullmatch, hosts)):
        raise ValueError("not a host")
    return hosts


def to_encryption_key(value: object) -> object:
    """32 bytes in URL-safe base64 from either kind of base64."""
    if not isinstance(value, str):
        return value
    text = value.strip().translate(str.maketrans("+/", "-_"))
    if len(base64.b64decode(text, altchars=b"-_", validate=True)) != 32:
        raise ValueError("not 32 bytes")
    return text


T = TypeVar("T")
Lower = Annotated[T, BeforeValidator(to_lower)]
OptionalPath: TypeAlias = Annotated[Path | None, BeforeValidator(to_path)]
OptionalUrl: TypeAlias = Annotated[URL | None, BeforeValidator(to_url)]
