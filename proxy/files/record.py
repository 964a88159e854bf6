"""What is known of one file of a member."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from proxy.translate.names import Place, media_type

#: The account of files from before there could be several.
DEFAULT_ACCOUNT = "default"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A local name and the content behind it.

    `account` has it: it is that of the job that made it, or the first that it was sent to.
    `cloud_name` is opaque and used verbatim; `cloud_type` is the folder under which the cloud has
    it (uploads are always `input` there). `hash` is the content's BLAKE3 in hexadecimal and `size`
    its length in bytes, both `None` until the content was seen. `modified` is in seconds since
    1970.
    """

    member: str
    type: str
    subfolder: str
    filename: str
    cloud_name: str
    cloud_type: str
    hash: str | None
    size: int | None
    media_type: str
    modified: float
    account: str = DEFAULT_ACCOUNT

    @property
    def path(self) -> str:
        """Subfolder and name with `/` between them."""
        return posixpath.join(self.subfolder, self.filename)

    @property
    def place(self) -> Place:
        """Where the member finds the file."""
        return Place(self.type, self.path)


def make_record(
    member: str,
    place: Place,
    *,
    cloud_name: str,
    cloud_type: str,
    modified: float,
    account: str = DEFAULT_ACCOUNT,
    content: tuple[str, int] | None = None,
) -> FileRecord:
    """A record for a place; `content` is hash and size where they are known."""
    hash_, size = content or (None, None)
    subfolder, filename = posixpath.split(place.path)
    return FileRecord(
        member=member,
        type=place.type,
        subfolder=subfolder,
        filename=filename,
        cloud_name=cloud_name,
        cloud_type=cloud_type,
        hash=hash_,
        size=size,
        media_type=media_type(filename),
        modified=modified,
        account=account,
    )


@dataclass(frozen=True, slots=True)
class Named:
    """The answer to an upload: the name that the file has got, and the subfolder as it was sent."""

    name: str
    subfolder: str
    type: str
