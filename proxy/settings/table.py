"""What a row of a table of settings is, and how values become what a row wants."""

from __future__ import annotations

import ast
import base64
import inspect
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace
from yarl import URL


class ConfigError(Exception):
    """Raised when the settings cannot be used. The text is one sentence that says what to do."""


class InvalidValueError(Exception):
    """Raised when a value is not one of the setting `name`, or there is no such setting."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that its `repr` does not show."""

    text: str = field(repr=False)


#: How the variables begin, and those of the cloud: an unknown one of either kind is a mistake.
PREFIX = "COMFY_PROXY_"
CLOUD_PREFIX = "COMFY_CLOUD_"
#: What an API key looks like, for `Setting.expects`.
KEY_FORM = "one line of printable characters without spaces"
#: What an amount of credits looks like, for the same.
AMOUNT_FORM = "a number of credits from 0"


class Setting(msgspec.Struct, frozen=True):
    """A row of a table of settings: what an annotation says, and below what its field does.

    `expects` ends the sentence "it must be …"; where the type says it, it is left out. `shown`
    stands for a default that differs between machines, `example` for one that is none. A secret has
    no option. What is `for_once`, for one start, is an option of `serve` alone. `read` makes the
    value of what people write, where the type does not say how, and raises `ValueError`.
    """

    group: str
    metavar: str = ""
    expects: str = ""
    prefix: str = PREFIX
    in_file: bool = True
    for_once: bool = False
    secret: bool = False
    shown: str | None = None
    example: object = None
    read: Callable[[object], object] | None = None

    name: str = ""
    model: type[Struct] = Struct
    default: object = None
    is_flag: bool = False

    @property
    def help(self) -> str:
        """Return the docstring of the field."""
        return _docstrings(self.model)[self.name]

    @property
    def option(self) -> str | None:
        """Return the option; a secret has none."""
        return None if self.secret else "--" + self.name.replace("_", "-")

    @property
    def declaration(self) -> str:
        """The option as the parser of commands declares it: a flag is `--on/--no-on`. Empty for a
        secret."""
        option = self.option or ""
        return f"{option}/--no-{option[2:]}" if self.is_flag and not self.for_once else option

    @property
    def environment(self) -> str:
        """Return the name of the variable."""
        return self.prefix + self.name.upper()

    @property
    def key(self) -> str | None:
        """Return the key of the TOML file; some settings have none."""
        return self.name if self.in_file else None

    def in_environment(self, variables: Mapping[str, str]) -> str | None:
        """Return the value of its variable, `None` if that is empty or not set."""
        return variables.get(self.environment) or None


def rows_of(model: type[Struct]) -> list[Setting]:
    """Return the rows of a table of settings, in the order of the model's fields."""
    rows = []
    for column in msgspec.structs.fields(model):
        kinds, notes = _parts_of(column.type)
        rows += [
            replace(
                row,
                name=column.name,
                model=model,
                default=None if row.shown else column.default,
                is_flag=kinds == [bool],
                metavar=row.metavar or _metavar(kinds),
                expects=row.expects or _expected(kinds, notes, row),
            )
            for row in notes
            if isinstance(row, Setting)
        ]
    return rows


@cache
def _docstrings(model: type[Struct]) -> dict[str, str]:
    """Return the docstring below each field."""
    found = {}
    definition = cast(ast.ClassDef, ast.parse(inspect.getsource(model)).body[0])
    for pair in pairwise(definition.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                found[name] = " ".join(text.split())
    return found


def _parts_of(hint: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """Return the types of a field, or the words of its Literal, without `None`; and its notes."""
    notes = getattr(hint, "__metadata__", ())
    kind = hint.__origin__ if notes else hint
    kinds = [part for part in get_args(kind) or (kind,) if part is not NoneType]
    return [word for part in kinds for word in get_args(part) or (part,)], notes


@cache
def _fields(model: type[Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a model: each call would evaluate all their types again, in 5 ms."""
    return msgspec.structs.fields(model)


def checked(model: type[Struct], values: Mapping[str, object]) -> dict[str, Any]:
    """Return the values of a model's fields from what people write.

    Raises `InvalidValueError`, and `ConfigError` as the readers of the fields.
    """
    found = {}
    for column in _fields(model):
        if column.name in values:
            try:
                found[column.name] = _converted(values[column.name], column.type)
            except (ValueError, LookupError, msgspec.ValidationError):
                raise InvalidValueError(column.name) from None
    for name in values:
        if name not in found:
            raise InvalidValueError(name)
    return found


#: The largest amount of credits.
MAX_AMOUNT = 1e9

#: Words for true and false.
_FLAGS = {"1": True, "true": True, "t": True, "yes": True, "y": True, "on": True}
_FLAGS |= {"0": False, "false": False, "f": False, "no": False, "n": False, "off": False}

_WHOLE = re.compile(r"\s*[+-]?[\d_]+\s*")
#: Floats beyond this do not tell whole numbers apart.
_EXACT = 2.0**53


def _converted(value: object, hint: Any) -> object:
    kinds, notes = _parts_of(hint)
    read = next((note.read for note in notes if isinstance(note, Setting)), None)
    if (read := read or _READERS.get(kinds[0])) is not None:
        return read(value)
    if kinds == [bool]:
        return _FLAGS[str(value).lower()]
    if isinstance(value, str) and kinds in ([int], [float]):
        if not value.isascii():
            raise ValueError("no number")
        value = int(value) if kinds == [int] and _WHOLE.fullmatch(value) else float(value)
    elif isinstance(value, str) and kinds != [str]:
        value = value.lower()
    if isinstance(value, float):
        if not abs(value) < _EXACT:
            raise ValueError("no number")
        value = int(value) if value.is_integer() else value
    return msgspec.convert(value, hint)


def _metavar(kinds: list[Any]) -> str:
    return "FILE" if Path in kinds else "URL" if URL in kinds else "TEXT"


def _expected(kinds: list[Any], notes: tuple[Any, ...], row: Setting) -> str:
    """Return what a value must be, as its type and its bounds say."""
    if all(isinstance(kind, str) for kind in kinds):  # of a Literal
        return " or ".join(kinds) if len(kinds) == 2 else f"one of {', '.join(kinds)}"
    bounds = next((note for note in notes if isinstance(note, Meta)), Meta())
    above, low, high = bounds.gt, bounds.ge, bounds.le
    span = f" from {low}" if low is not None else ""
    span = f" greater than {above}," if above is not None else span
    span += f" {'to' if above is None else 'at most'} {high}" if high is not None else ""
    if bool in kinds:
        return "true or false"
    if URL in kinds:
        return "an address such as https://cloud.comfy.org, without user, query or fragment"
    if Path in kinds:
        return "the path of a file that can be read"
    if str in kinds:
        return "a list of texts" if Ellipsis in kinds else "a text"
    if int in kinds:
        return f"a whole number{span}"
    return f"a number{' of seconds' if row.metavar == 'SECONDS' else ''}{span}"


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def to_secret(value: object) -> Secret:
    """Return a text that is not to be shown."""
    return Secret(_as_text(value))


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


def to_amount(value: object) -> float:
    """Return an amount of credits."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a number")
    amount = float(value)
    if not 0 <= amount <= MAX_AMOUNT:
        raise ValueError("not an amount")
    return amount


def to_url(value: object) -> URL:
    """Return the address of a cloud: http or https, perhaps with a path, and nothing else."""
    url = URL(str(value))
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("not a web address")
    if url.user is not None or url.query_string or url.fragment:
        raise ValueError("more than a web address")
    return url.with_path(url.path.rstrip("/") or "/")


def to_database(value: object) -> Secret | None:
    """Return the address of a PostgreSQL database, as it is or from a file; `None` for SQLite."""
    return _address(value, "sqlite", ("postgresql://", "postgres://"))


def to_bus(value: object) -> Secret | None:
    """Return the address of a Valkey or Redis server, or of a file with it; `None` for memory."""
    return _address(value, "memory", ("redis://", "rediss://"))


def _address(value: object, none: str, beginnings: tuple[str, ...]) -> Secret | None:
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
    return Secret(text)


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


def _list_parts(value: object) -> list[str]:
    """Return what a list has, or a text with commas; nothing empty."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("not a list")
    return [text for part in parts if (text := str(part).strip())]


def to_networks(value: object) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Return networks from a list of them and of addresses, or from a text with commas."""
    return tuple(map(ipaddress.ip_network, _list_parts(value)))


def to_origins(value: object) -> tuple[str, ...]:
    """Return origins of web pages from a list of them, or from a text with commas."""
    origins = [origin for part in _list_parts(value) if (origin := part.rstrip("/"))]
    if any(origin != "*" and URL(origin) != URL(origin).origin() for origin in origins):
        raise ValueError("not an origin")
    return tuple(origins)


_HOST = re.compile(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*")


def to_hosts(value: object) -> tuple[str, ...]:
    """Return names of hosts from a list of them, or from a text with commas."""
    hosts = tuple(part.lower() for part in _list_parts(value))
    if not all(map(_HOST.fullmatch, hosts)):
        raise ValueError("not a host")
    return hosts


_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")


def to_header(value: object) -> str:
    """Return the name of a header."""
    if not isinstance(value, str) or not _HEADER.fullmatch(value.strip()):
        raise ValueError("not a header")
    return value.strip()


def to_names(value: object) -> tuple[str, ...]:
    """Return names from a list of them, or from a text with commas."""
    return tuple(_list_parts(value))


def to_issuer(value: object) -> str:
    """Return the address of an issuer, which has TLS or is on this machine."""
    address = _as_text(value)
    if not is_secure(address) or not URL(address).host:
        raise ValueError("not an issuer")
    return address


def is_secure(address: str) -> bool:
    """Return whether an address has TLS, or is on this machine."""
    try:
        url = URL(address)
    except ValueError:
        return False
    local = url.host in ("localhost", "127.0.0.1", "::1")
    return url.scheme == "https" or (url.scheme == "http" and local)


def to_encryption_key(value: object) -> Secret:
    """Return 32 bytes in URL-safe base64 from either kind of base64."""
    text = _as_text(value).strip().translate(str.maketrans("+/", "-_"))
    if len(base64.b64decode(text, altchars=b"-_", validate=True)) != 32:
        raise ValueError("not 32 bytes")
    return Secret(text)


#: How values of these types are read.
_READERS: dict[Any, Callable[[object], object]] = {Path: to_path, URL: to_url, Secret: to_secret}


def complaint(row: Setting, where: str, value: object) -> str:
    """Return a sentence about a value that the setting, read from `where`, cannot have."""
    text = repr(value)
    short = text if len(text) <= 80 else f"{text[:79]}…"
    return f"{where}{'' if row.secret else f' is {short}, but'} must be {row.expects}."
