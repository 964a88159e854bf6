"""The models of what a client asks of the assets API.

pydantic checks them, whose list of errors is what ComfyUI puts into `details`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from proxy.translate import codec
from proxy.translate.asset_requests import (
    MOST_IDS,
    MOST_NAME,
    MOST_TAG,
    MOST_TAGS,
    STRATEGIES,
    AssetError,
    Order,
    Sort,
    packed,
)

if TYPE_CHECKING:
    from proxy.translate.asset_requests import Query

_UUID = r"^(?i:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$"
_EXPORTED_UUID = r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"

M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], value: object, code: str) -> M:
    """A value as a model. Raises `AssetError` with pydantic's list of what is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise AssetError(code, "Validation failed.", errors=errors) from None


def checked_query(model: type[M], query: Query) -> M:
    """Of several values of a name the last one counts."""
    return checked(model, dict(query.items()), "INVALID_QUERY")


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


_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_NAME)]
_Id = Annotated[str, StringConstraints(to_lower=True, pattern=_UUID, max_length=36)]
_Tag = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_TAG, strict=True)
]
_MediaType = Annotated[str, StringConstraints(max_length=256, pattern=r"^[\w.+-]+/[\w.+-]+")]


class Changes(BaseModel):
    """What `PUT /api/assets/{id}` changes."""

    name: _Name | None = None
    user_metadata: dict[str, Any] | None = None
    preview_id: _Id | None = None


class NewAsset(BaseModel):
    """What a client says of a content for which it wants a record."""

    name: _Name | None = None
    tags: Annotated[list[_Tag], Field(max_length=MOST_TAGS)] = []
    user_metadata: dict[str, Any] = {}
    mime_type: _MediaType | None = None
    preview_id: _Id | None = None
    hash: str | None = None

    @property
    def metadata(self) -> bytes:
        """`user_metadata` as it is stored."""
        return packed(self.user_metadata)

    @property
    def distinct_tags(self) -> tuple[str, ...]:
        """The tags, each once."""
        return tuple(dict.fromkeys(self.tags))


class Tags(BaseModel):
    """The tags that a client adds or removes."""

    tags: Annotated[list[_Tag], Field(min_length=1, max_length=MOST_TAGS)]


class Roots(BaseModel):
    """What `POST /api/assets/seed` looks through; none means all."""

    roots: Annotated[
        list[Literal["models", "input", "output"]], Field(min_length=1, max_length=10)
    ] = ["models", "input", "output"]


_ExportedId = Annotated[
    str, StringConstraints(to_lower=True, pattern=_EXPORTED_UUID, max_length=36)
]
_Ids = Annotated[list[_ExportedId], Field(max_length=MOST_IDS)]
_Text = Annotated[str, StringConstraints(max_length=4096)]


class ExportRequest(BaseModel):
    """The body of `POST /api/assets/export`."""

    job_ids: _Ids = []
    asset_ids: _Ids = []
    naming_strategy: str = STRATEGIES[0]
    job_asset_name_filters: Annotated[
        dict[_ExportedId, Annotated[list[_Text], Field(max_length=MOST_IDS)]],
        Field(max_length=MOST_IDS),
    ] = {}
    include_previews: bool = False

    @property
    def key(self) -> str:
        """The same for equal requests."""
        return hashlib.sha256(codec.dump_bytes(self.model_dump())).hexdigest()
