"""The files of API v2: how a graph names one, and what the proxy calls it.

A file is an asset, which has an id. Graphs refer to it by an object in the place of the file's
name; the proxy's name of it is the id with an extension, so that its kind shows.
"""

from __future__ import annotations

import mimetypes
import posixpath
import re
from typing import Any

from proxy.translate.file_inputs import ASSET
from proxy.translate.media_types import essence

#: An extension that is kept; what has none or an odd one gets that of its media type, or this one.
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,16}")
_NO_EXTENSION = ".bin"

#: Characters of the name that an upload keeps, beside its hash.
_MAX_STEM = 64


def cloud_name(asset_id: str, filename: str, content_type: str = "") -> str:
    """Return the proxy's name of an asset."""
    written = posixpath.splitext(filename)[1].lower()
    if not _EXTENSION.fullmatch(written):
        written = mimetypes.guess_extension(essence(content_type)) or _NO_EXTENSION
    return f"{asset_id}{written}"


def asset_id(cloud_name: str) -> str:
    """Return the id in the proxy's name of an asset; an id may have dots itself."""
    return cloud_name.rpartition(".")[0]


def reference(cloud_name: str) -> dict[str, Any]:
    """Return what a graph has in the place of the name of a file (`core/ASSET`)."""
    return {"__type": ASSET, "info": {"id": asset_id(cloud_name)}}


def file_path(filename: str, hash_: str) -> str:
    """Return where an upload is placed: the last part of its name as far as it is safe, and a part
    of its hash, since two contents with one name would be one file."""
    stem, extension = posixpath.splitext(posixpath.basename(filename.replace("\\", "/")))
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:_MAX_STEM].strip("_")
    kept = extension.lower() if _EXTENSION.fullmatch(extension) else ""
    return f"{safe or 'file'}-{hash_[:12]}{kept}"
