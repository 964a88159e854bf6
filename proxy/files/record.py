"""Records of files as they are made, and the answer to an upload."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from proxy.storage.files import FileRecord
from proxy.translate.names import Place, media_type

#: The account of files from before there could be several.
DEFAULT_ACCOUNT = "default"


def make_record(
    member: str,
    place: Place,
    *,
    cloud_name: str,
    cloud_type: str,
    modified: float,
    account: str = DEFAULT_ACCOUNT,
    content: tuple[str, int] | None = None,
    job: str | None = None,
) -> FileRecord:
    """A record for a place; `content` is hash and size where they are known, `job` who made it."""
    hash_, size = content or (None, None)
    return FileRecord(
        member=member,
        type=place.type,
        path=place.path,
        cloud_name=cloud_name,
        cloud_type=cloud_type,
        hash=hash_,
        size=size,
        media_type=media_type(posixpath.basename(place.path)),
        modified=modified,
        account=account,
        job=job,
    )


@dataclass(frozen=True, slots=True)
class Named:
    """The answer to an upload: the name that the file has got, and the subfolder as it was sent."""

    name: str
    subfolder: str
    type: str
