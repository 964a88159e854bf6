"""What a client asks of the assets API: filters, pages, cursors and bodies, checked as by ComfyUI.

`AssetError` is a refusal in the API's own nested form. The models of the requests are imported with
the first of them: pydantic takes 8 MiB.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from proxy.translate import codec
from proxy.translate.errors import Kind, LocalError

if TYPE_CHECKING:
    from multidict import MultiMapping

    from proxy.translate.asset_models import ExportRequest, NewAsset, TagQuery

    #: The query of a request: names may come more than once.
    Query: TypeAlias = MultiMapping[str]

#: Tags in one filter, letters of a cursor, those of a name and of a tag, and bytes of
#: `user_metadata`.
MOST_TAGS, MOST_CURSOR, MOST_NAME, MOST_TAG, MOST_METADATA = 100, 8192, 512, 256, 64 * 1024

#: Jobs and assets of one export, and names of one filter.
MOST_IDS = 500

STRATEGIES = ("group_by_job_time", "group_by_job_id", "preserve", "asset_id")

Sort = Literal["created_at", "updated_at", "name", "size", "last_access_time"]
Order = Literal["desc", "asc"]

#: The tag of a record whose content is gone; only the server gives and takes it.
MISSING = "missing"

_HASH = re.compile(r"blake3:([0-9a-f]{64})")
_EXPORT_NAME = re.compile(r"[A-Za-z0-9_-]+\.zip")


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


def read_list(query: Query) -> AssetQuery:
    """The query of `GET /api/assets`. Raises `AssetError`."""
    if "metadata_filter" in query:
        raise AssetError(
            "UNSUPPORTED_PARAM",
            "metadata_filter is not supported by this server.",
            parameter="metadata_filter",
        )
    from proxy.translate import asset_models as models

    read = models.checked_query(models.ListQuery, query)
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
    from proxy.translate import asset_models as models

    read = models.checked_query(models.RefineQuery, query)
    return _filter(query, read.name_contains, None), read.limit


def read_tags(query: Query) -> TagQuery:
    """The query of `GET /api/tags`. Raises `AssetError`."""
    from proxy.translate import asset_models as models

    return models.checked_query(models.TagQuery, query)


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
    return AssetFilter(
        **sides,
        name_contains=name_contains or "",
        hash=None if hash_ is None else hash_.strip().lower().removeprefix("blake3:"),
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
    value: Any = read.get("v")
    id_ = read.get("id")
    is_value = type(value) is str if sort == "name" else type(value) is int and abs(value) < 2**62
    if not is_value or not isinstance(id_, str):
        raise refused
    return Cursor(value, id_)


# --- bodies --------------------------------------------------------------------------------------


def read_changes(body: object) -> dict[str, Any]:
    """Columns of a record and their new values. Raises `AssetError`."""
    from proxy.translate import asset_models as models

    changes = models.checked(models.Changes, body, "INVALID_BODY")
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
    """The tags that a client adds or removes, each once. Raises `AssetError`."""
    from proxy.translate import asset_models as models

    tags = list(dict.fromkeys(models.checked(models.Tags, body, "INVALID_BODY").tags))
    _refuse_system_tags(tags)
    return tags


def read_roots(body: object) -> list[str]:
    """What `POST /api/assets/seed` looks through. Raises `AssetError`."""
    from proxy.translate import asset_models as models

    return list(models.checked(models.Roots, body, "INVALID_BODY").roots)


def read_new(body: object) -> NewAsset:
    """The body of `POST /api/assets/from-hash`. Raises `AssetError`."""
    from proxy.translate import asset_models as models

    new = models.checked(models.NewAsset, body, "INVALID_BODY")
    if not new.hash:
        raise AssetError("INVALID_BODY", "Send the hash of the content.")
    packed(new.user_metadata)
    _refuse_system_tags(new.tags)
    return new


def read_upload(fields: Mapping[str, str], tags: Iterable[str]) -> NewAsset:
    """The fields of a multipart upload beside its file. Raises `AssetError`.

    `tags` are the values of all its parts: each a JSON list, values with commas, or one tag.
    """
    from proxy.translate import asset_models as models

    if "id" in fields:
        raise AssetError("UNSUPPORTED_FIELD", "The server gives ids; leave id out.", field="id")
    known = {"name", "mime_type", "preview_id", "hash"}
    value: dict[str, Any] = {name: fields[name] for name in known if fields.get(name)}
    if fields.get("user_metadata"):
        value["user_metadata"] = _parsed(fields["user_metadata"], "user_metadata")
    value["tags"] = [tag for text in tags for tag in _form_tags(text)]
    if "name" in value:
        value["name"] = posixpath.basename(value["name"].replace("\\", "/")) or "upload"
    new = models.checked(models.NewAsset, value, "INVALID_BODY")
    packed(new.user_metadata)
    _refuse_system_tags(new.tags)
    return new


def destination(tags: Sequence[str]) -> str:
    """The folder that the tags of an upload name. Raises `AssetError` (400)."""
    roots = sorted({tag for tag in tags if tag in ("input", "models", "output")})
    if len(roots) != 1:
        raise AssetError("INVALID_BODY", "Tags must name exactly one of input, models, output.")
    if roots[0] == "models":
        types = [tag for tag in tags if tag.startswith("model_type:")]
        if len(types) != 1:
            raise AssetError("INVALID_BODY", "Tags of a model must name exactly one model_type:….")
        raise AssetError(
            "INVALID_BODY", "Comfy Cloud takes no models from here; import them at cloud.comfy.org."
        )
    return roots[0]


def _refuse_system_tags(tags: Iterable[str]) -> None:
    """Raises `AssetError` for a tag that only the server gives and takes."""
    if MISSING in tags:
        raise AssetError(
            "SYSTEM_TAG_FORBIDDEN", "Only the server adds and removes this tag.", tag=MISSING
        )


def packed(user_metadata: Mapping[str, Any]) -> bytes:
    """A client's object as it is stored. Raises `AssetError` beyond the bound."""
    data = codec.dump_bytes(user_metadata)
    if len(data) > MOST_METADATA:
        raise AssetError(
            "INVALID_BODY", f"user_metadata has more than {MOST_METADATA} bytes.", max=MOST_METADATA
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


def read_export(body: object) -> ExportRequest:
    """The request of an export. Raises `AssetError` (400)."""
    from proxy.translate import asset_models as models

    request = models.checked(models.ExportRequest, body, "INVALID_REQUEST")
    if request.naming_strategy not in STRATEGIES:
        raise AssetError(
            "INVALID_NAMING_STRATEGY",
            f"naming_strategy must be one of {', '.join(STRATEGIES)}.",
            naming_strategy=request.naming_strategy,
        )
    if not request.job_ids and not request.asset_ids:
        raise AssetError("INVALID_REQUEST", "Send job_ids or asset_ids.")
    return request


def read_name(name: str) -> str:
    """The name of an archive. Raises `AssetError` (400)."""
    if _EXPORT_NAME.fullmatch(name) is None:
        raise AssetError("INVALID_EXPORT_NAME", "That is not the name of an export.")
    return name
