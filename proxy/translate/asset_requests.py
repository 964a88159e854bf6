"""What a client asks of the assets API: queries and bodies, checked as by ComfyUI.

pydantic checks them, whose list of errors is what ComfyUI puts into `details`. It takes 8 MiB:
this module is loaded with the first request. `AssetError` is raised for what is refused.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from proxy.translate import codec
from proxy.translate.assets import (
    MAX_NAME,
    MISSING,
    AssetError,
    AssetFilter,
    AssetQuery,
    Order,
    Sort,
    read_cursor,
)

if TYPE_CHECKING:
    from multidict import MultiMapping

    #: The query of a request: names may come more than once.
    Query: TypeAlias = MultiMapping[str]

#: Tags in one filter, letters of a tag, and bytes of `user_metadata`.
MAX_TAGS, MAX_TAG, MAX_METADATA = 100, 256, 64 * 1024

#: Jobs and assets of one export, and names of one filter; and names of all its filters.
MAX_IDS = 500
MAX_NAMES = 5000

STRATEGIES = ("group_by_job_time", "group_by_job_id", "preserve", "asset_id")

_EXPORT_NAME = re.compile(r"[A-Za-z0-9_-]+\.zip")

_UUID = r"^(?i:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$"
_EXPORTED_UUID = r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"

M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], value: object, code: str = "INVALID_BODY") -> M:
    """Return a value as a model. Raises `AssetError` with pydantic's list of errors."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise AssetError(code, "Validation failed.", errors=errors) from None


def checked_query(model: type[M], query: Query) -> M:
    """Return the query as a model; of several values of a name the last one counts.

    No database keeps a NUL in a text. Raises `AssetError`.
    """
    for name, value in query.items():
        if "\0" in value:
            raise AssetError(
                "INVALID_QUERY", f"{name} has a NUL character; remove it.", parameter=name
            )
    return checked(model, dict(query.items()), "INVALID_QUERY")


# --- queries -------------------------------------------------------------------------------------


class TagQuery(BaseModel):
    """What `GET /api/tags` asks for."""

    prefix: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=2**53)] = 0
    order: Literal["count_desc", "name_asc"] = "count_desc"
    include_zero: bool = True


class ListQuery(BaseModel):
    """What `GET /api/assets` asks for beside its tags."""

    name_contains: str | None = None
    hash: str | None = None
    include_public: bool = True
    limit: Annotated[int, Field(ge=1, le=500)] = 20
    offset: Annotated[int, Field(ge=0, le=2**53)] = 0
    sort: Sort = "created_at"
    order: Order = "desc"
    after: str | None = None


class RefineQuery(BaseModel):
    """What `GET /api/assets/tags/refine` asks for beside its tags."""

    name_contains: str | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


def read_list(query: Query) -> AssetQuery:
    """Read the query of `GET /api/assets`. Raises `AssetError`."""
    if "metadata_filter" in query:
        raise AssetError(
            "UNSUPPORTED_PARAM",
            "metadata_filter is not supported by this server.",
            parameter="metadata_filter",
        )
    read = checked_query(ListQuery, query)
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
    """Read the query of `GET /api/assets/tags/refine`, and its limit. Raises `AssetError`."""
    read = checked_query(RefineQuery, query)
    return _filter(query, read.name_contains, None), read.limit


def read_tags(query: Query) -> TagQuery:
    """Read the query of `GET /api/tags`. Raises `AssetError`."""
    return checked_query(TagQuery, query)


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
            if len(tags) > MAX_TAGS:
                raise AssetError(
                    "INVALID_TAG_FILTER",
                    f"{name} has more than {MAX_TAGS} tags.",
                    parameter=name,
                    count=len(tags),
                    max=MAX_TAGS,
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
    return AssetFilter(
        **sides,
        name_contains=name_contains or "",
        hash=None if hash_ is None else hash_.strip().lower().removeprefix("blake3:"),
    )


def split_tags(values: Sequence[str]) -> tuple[str, ...]:
    """Return the tags of values with commas: trimmed, without empty and equal ones, in their
    order."""
    tags = (tag.strip() for value in values for tag in value.split(","))
    return tuple(dict.fromkeys(tag for tag in tags if tag))


# --- bodies --------------------------------------------------------------------------------------


_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME)]
_Id = Annotated[str, StringConstraints(to_lower=True, pattern=_UUID, max_length=36)]
_Tag = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TAG, strict=True)
]
#: `type/subtype`, with parameters or without (RFC 9110, 8.3.1).
_MEDIA_TYPE = (
    r"^[A-Za-z0-9_.+-]+/[A-Za-z0-9_.+-]+"
    r"( *; *[A-Za-z0-9_.+-]+=([A-Za-z0-9_.+-]+|\"[^\"\x00-\x1f]*\"))*$"
)
_MediaType = Annotated[str, StringConstraints(max_length=256, pattern=_MEDIA_TYPE)]


class Changes(BaseModel):
    """What `PUT /api/assets/{id}` changes."""

    name: _Name | None = None
    user_metadata: dict[str, Any] | None = None
    preview_id: _Id | None = None


class NewAsset(BaseModel):
    """What a client says of a content for which it wants a record."""

    name: _Name | None = None
    tags: Annotated[list[_Tag], Field(max_length=MAX_TAGS)] = []
    user_metadata: dict[str, Any] = {}
    mime_type: _MediaType | None = None
    preview_id: _Id | None = None
    hash: str | None = None

    @property
    def metadata(self) -> bytes:
        """`user_metadata` as it is stored."""
        return packed(self.user_metadata)

    def label(self, filename: str) -> str:
        """Return the record's name: as it was given, else of the file, else `upload`."""
        name = self.name or posixpath.basename(filename.replace("\\", "/")) or "upload"
        return name[:MAX_NAME]

    @property
    def distinct_tags(self) -> tuple[str, ...]:
        """The tags, each once."""
        return tuple(dict.fromkeys(self.tags))


class Tags(BaseModel):
    """The tags that a client adds or removes."""

    tags: Annotated[list[_Tag], Field(min_length=1, max_length=MAX_TAGS)]


class Roots(BaseModel):
    """What `POST /api/assets/seed` looks through; none means all."""

    roots: Annotated[
        list[Literal["models", "input", "output"]], Field(min_length=1, max_length=10)
    ] = ["models", "input", "output"]


def read_changes(body: object) -> dict[str, Any]:
    """Read the columns of a record to change, with their new values. Raises `AssetError`."""
    changes = checked(Changes, body)
    values = {
        "name": changes.name,
        "user_metadata": None if changes.user_metadata is None else packed(changes.user_metadata),
        "preview": changes.preview_id,
    }
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        raise AssetError("INVALID_BODY", "Send at least one of name, user_metadata, preview_id.")
    return given


def read_tags_body(body: object) -> list[str]:
    """Read the tags that a client adds or removes, each once. Raises `AssetError`."""
    tags = list(dict.fromkeys(checked(Tags, body).tags))
    _refuse_system_tags(tags)
    return tags


def read_roots(body: object) -> list[str]:
    """Read which folders `POST /api/assets/seed` searches. Raises `AssetError`."""
    return list(checked(Roots, body).roots)


def read_new(body: object) -> NewAsset:
    """Read the body of `POST /api/assets/from-hash`. Raises `AssetError`."""
    new = checked(NewAsset, body)
    if not new.hash:
        raise AssetError("INVALID_BODY", "Send the hash of the content.")
    packed(new.user_metadata)
    _refuse_system_tags(new.tags)
    return new


def read_upload(fields: Mapping[str, str], tags: Iterable[str]) -> NewAsset:
    """Read the fields of a multipart upload beside its file. Raises `AssetError`.

    `tags` are the values of all its parts: each a JSON list, values with commas, or one tag.
    """
    if "id" in fields:
        raise AssetError("UNSUPPORTED_FIELD", "The server assigns ids; leave id out.", field="id")
    known = {"name", "mime_type", "preview_id", "hash"}
    value: dict[str, Any] = {name: fields[name] for name in known if fields.get(name)}
    if fields.get("user_metadata"):
        value["user_metadata"] = _parsed(fields["user_metadata"], "user_metadata")
    value["tags"] = [tag for text in tags for tag in _form_tags(text)]
    if "name" in value:
        value["name"] = posixpath.basename(value["name"].replace("\\", "/")) or "upload"
    new = checked(NewAsset, value)
    packed(new.user_metadata)
    _refuse_system_tags(new.tags)
    return new


def _refuse_system_tags(tags: Iterable[str]) -> None:
    """Raise `AssetError` for a tag that only the server adds and removes."""
    if MISSING in tags:
        raise AssetError(
            "SYSTEM_TAG_FORBIDDEN", "Only the server adds and removes this tag.", tag=MISSING
        )


def packed(user_metadata: Mapping[str, Any]) -> bytes:
    """Return a client's object as it is stored. Raises `AssetError` beyond the limit."""
    data = codec.dump_bytes(user_metadata)
    if len(data) > MAX_METADATA:
        raise AssetError(
            "INVALID_BODY", f"user_metadata has more than {MAX_METADATA} bytes.", max=MAX_METADATA
        )
    return data


def _form_tags(text: str) -> Sequence[str]:
    text = text.strip()
    if text.startswith("["):
        listed = _parsed(text, "tags")
        return [tag.strip() if isinstance(tag, str) else tag for tag in listed]
    return split_tags([text])


def _parsed(text: str, name: str) -> Any:
    try:
        return codec.loads(text)
    except ValueError:
        raise AssetError("INVALID_BODY", f"{name} must be JSON.", field=name) from None


# --- exports -------------------------------------------------------------------------------------


_ExportedId = Annotated[
    str, StringConstraints(to_lower=True, pattern=_EXPORTED_UUID, max_length=36)
]
_Ids = Annotated[list[_ExportedId], Field(max_length=MAX_IDS)]
_Text = Annotated[str, StringConstraints(max_length=4096)]


class ExportRequest(BaseModel):
    """The body of `POST /api/assets/export`."""

    job_ids: _Ids = []
    asset_ids: _Ids = []
    naming_strategy: str = STRATEGIES[0]
    job_asset_name_filters: Annotated[
        dict[_ExportedId, Annotated[list[_Text], Field(max_length=MAX_IDS)]],
        Field(max_length=MAX_IDS),
    ] = {}
    include_previews: bool = False

    @property
    def key(self) -> str:
        """The same for equal requests."""
        return hashlib.sha256(codec.dump_bytes(self.model_dump())).hexdigest()


def read_export(body: object) -> ExportRequest:
    """Read the request of an export. Raises `AssetError` (400)."""
    request = checked(ExportRequest, body, "INVALID_REQUEST")
    if request.naming_strategy not in STRATEGIES:
        raise AssetError(
            "INVALID_NAMING_STRATEGY",
            f"naming_strategy must be one of {', '.join(STRATEGIES)}.",
            naming_strategy=request.naming_strategy,
        )
    names = sum(map(len, request.job_asset_name_filters.values()))
    if names > MAX_NAMES:
        raise AssetError(
            "INVALID_REQUEST", f"The filters have more than {MAX_NAMES} names.", count=names
        )
    if not request.job_ids and not request.asset_ids:
        raise AssetError("INVALID_REQUEST", "Send job_ids or asset_ids.")
    return request


def read_name(name: str) -> str:
    """Read the name of an archive. Raises `AssetError` (400)."""
    if _EXPORT_NAME.fullmatch(name) is None:
        raise AssetError(
            "INVALID_EXPORT_NAME",
            "The name of an export has letters, digits, - and _, and ends with .zip.",
        )
    return name
