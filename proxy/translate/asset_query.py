"""What a client asks of the assets API: filters, pages and cursors, checked as ComfyUI checks them.

`AssetError` is a refusal in the API's own nested form. Queries are read by pydantic, whose list of
errors is what ComfyUI puts into `details`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError

from proxy.translate import codec
from proxy.translate.errors import Kind, LocalError

#: Tags in one filter, letters of a cursor, and those of a name.
MOST_TAGS, MOST_CURSOR, MOST_NAME = 100, 8192, 512

Sort = Literal["created_at", "updated_at", "name", "size", "last_access_time"]
Order = Literal["desc", "asc"]

#: The tag of a record whose content is gone; only the server gives and takes it.
MISSING = "missing"

_HASH = re.compile(r"blake3:([0-9a-f]{64})")

M = TypeVar("M", bound=BaseModel)


class AssetError(LocalError):
    """A refusal of the assets API: `{"error": {"code", "message", "details"}}`."""

    def __init__(
        self, code: str, message: str, *, kind: Kind = "invalid", **details: object
    ) -> None:
        super().__init__(code, message, kind=kind, extra_info=details)

    @classmethod
    def of(cls, error: LocalError) -> AssetError:
        """An error of the rooms below in this form."""
        if isinstance(error, AssetError):
            return error
        made = cls(error.type.upper(), error.message, kind=error.kind, **error.extra_info)
        made.retry_after = error.retry_after
        return made

    def body(self) -> dict[str, Any]:
        """The nested form."""
        return {
            "error": {"code": self.type, "message": self.message, "details": self.extra_info},
        }


class Cursor(NamedTuple):
    """The last record of a page: its value in the order (times in µs since 1970), and its id."""

    value: str | int
    id: str


@dataclass(frozen=True, slots=True)
class AssetFilter:
    """Which records are meant; `hash` is hexadecimal, `""` where no record can have it."""

    all: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    name_contains: str = ""
    hash: str | None = None

    @property
    def may_be_models(self) -> bool:
        """Whether models can be among the records, by the tags that a file of a client has."""
        files = {"input", "output", "temp"}
        return not files & set(self.all) and not (self.any and set(self.any) <= files)


@dataclass(frozen=True, slots=True)
class AssetQuery:
    """A page of records. `offset` does not count with a cursor."""

    filter: AssetFilter = AssetFilter()
    limit: int = 20
    offset: int = 0
    sort: Sort = "created_at"
    order: Order = "desc"
    after: Cursor | None = None


class TagQuery(BaseModel):
    """What `GET /api/tags` asks for."""

    prefix: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=2**53)] = 0
    order: Literal["count_desc", "name_asc"] = "count_desc"
    include_zero: bool = True


class _ListQuery(BaseModel):
    name_contains: str | None = None
    hash: str | None = None
    include_public: bool = True
    limit: Annotated[int, Field(ge=1, le=500)] = 20
    offset: Annotated[int, Field(ge=0, le=2**53)] = 0
    sort: Sort = "created_at"
    order: Order = "desc"
    after: str | None = None


class _RefineQuery(BaseModel):
    name_contains: str | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Query(Protocol):
    """The query of a request: names may come more than once."""

    def getall(self, name: str, default: Sequence[str]) -> Sequence[str]: ...
    def items(self) -> Any: ...
    def __contains__(self, name: object) -> bool: ...


def read_list(query: Query) -> AssetQuery:
    """The query of `GET /api/assets`. Raises `AssetError`."""
    if "metadata_filter" in query:
        raise AssetError(
            "UNSUPPORTED_PARAM",
            "metadata_filter is not supported by this server.",
            parameter="metadata_filter",
        )
    read = checked(_ListQuery, _singles(query), "INVALID_QUERY")
    after = None if read.after is None else read_cursor(read.after, read.sort, read.order)
    return AssetQuery(
        _filter(query, read.name_contains, read.hash),
        read.limit,
        0 if after is not None else read.offset,
        read.sort,
        read.order,
        after,
    )


def read_refine(query: Query) -> tuple[AssetFilter, int]:
    """The query of `GET /api/assets/tags/refine`, and its limit. Raises `AssetError`."""
    read = checked(_RefineQuery, _singles(query), "INVALID_QUERY")
    return _filter(query, read.name_contains, None), read.limit


def read_tags(query: Query) -> TagQuery:
    """The query of `GET /api/tags`. Raises `AssetError`."""
    return checked(TagQuery, _singles(query), "INVALID_QUERY")


def checked(model: type[M], value: object, code: str) -> M:
    """A value as a model. Raises `AssetError` with pydantic's list of what is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise AssetError(code, "Validation failed.", errors=errors) from None


def _singles(query: Query) -> dict[str, str]:
    """Of several values of a name the last one counts."""
    return dict(query.items())


def _filter(query: Query, name_contains: str | None, hash_: str | None) -> AssetFilter:
    sides: dict[str, tuple[str, ...]] = {}
    spelled: dict[str, str] = {}
    for side, names in (
        ("all", ("tags_all", "include_tags")),
        ("any", ("tags_any",)),
        ("none", ("tags_none", "exclude_tags")),
    ):
        given = [name for name in names if name in query]
        if len(given) > 1:
            raise AssetError(
                "INVALID_TAG_FILTER",
                f"Use either {given[0]} or {given[1]}, not both.",
                parameters=given,
            )
        for name in given:
            tags = split_tags(query.getall(name, ()))
            if len(tags) > MOST_TAGS:
                raise AssetError(
                    "INVALID_TAG_FILTER",
                    f"{name} has more than {MOST_TAGS} tags.",
                    parameter=name,
                    count=len(tags),
                    max=MOST_TAGS,
                )
            sides[side], spelled[side] = tags, name
    conflicting = [tag for tag in sides.get("all", ()) if tag in sides.get("none", ())]
    parameters = [spelled[side] for side in ("all", "none") if side in spelled]
    if conflicting and any(name.startswith("tags_") for name in parameters):
        raise AssetError(
            "INVALID_TAG_FILTER",
            "A tag cannot be required and rejected at once.",
            conflicting_tags=conflicting,
            parameters=parameters,
        )
    wanted = None
    if hash_ is not None:
        wanted = hash_.strip().lower().removeprefix("blake3:")
    return AssetFilter(
        sides.get("all", ()),
        sides.get("any", ()),
        sides.get("none", ()),
        name_contains or "",
        wanted,
    )


def split_tags(values: Sequence[str]) -> tuple[str, ...]:
    """Tags from values with commas: trimmed, without empty and equal ones, in their order."""
    tags = (tag.strip() for value in values for tag in value.split(","))
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def read_hash(text: str) -> str:
    """The hexadecimal digits of `blake3:…`. Raises `AssetError` (400)."""
    match = _HASH.fullmatch(text.strip().lower())
    if match is None:
        raise AssetError("INVALID_HASH", "A hash has the form blake3: and 64 hexadecimal digits.")
    return match[1]


def write_cursor(cursor: Cursor, sort: Sort, order: Order) -> str:
    """A cursor as clients get it."""
    packed = codec.dump_bytes({"s": sort, "v": cursor.value, "id": cursor.id, "o": order})
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_cursor(text: str, sort: Sort, order: Order) -> Cursor:
    """The cursor that a client sends back. Raises `AssetError` for one of another list."""
    refused = AssetError("INVALID_CURSOR", "The cursor is not of this list.")
    if sort == "last_access_time" or not 0 < len(text) <= MOST_CURSOR:
        raise refused
    try:
        read = codec.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error):
        raise refused from None
    if not isinstance(read, Mapping) or (read.get("s"), read.get("o")) != (sort, order):
        raise refused
    value, id_ = read.get("v"), read.get("id")
    is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62
    if not (isinstance(value, str) if sort == "name" else is_number) or not isinstance(id_, str):
        raise refused
    return Cursor(cast(str | int, value), id_)
