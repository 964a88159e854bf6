"""Media types by name.

They are the same on every machine: Python's own table with what Debian's `/etc/mime.types` adds
and changes, as a ComfyUI 0.3.64 there answers (`mkv` is `video/matroska`, `wav` is
`audio/x-wav`, and ComfyUI itself sets `js`).
"""

from __future__ import annotations

import posixpath

#: What a name without a known extension is.
UNKNOWN = "application/octet-stream"
#: Extensions by the first half of their types, whose second half they are.
_LIKE_NAMED = {
    "image": "apng avif bmp gif heic heif jp2 jpeg jxl png tiff webp",
    "video": "mp4 mpeg webm",
    "audio": "aac flac midi ogg",
    "model": "obj stl",
    "application": "json pdf xml yaml zip",
    "text": "css csv html vtt",
}
#: The other extensions of each type.
_EXTENSIONS_OF = {
    "image/jpeg": "jfif jpe jpg",
    "image/svg+xml": "svg",
    "image/tiff": "tif",
    "image/vnd.adobe.photoshop": "psd",
    "image/vnd.microsoft.icon": "ico",
    "image/x-portable-anymap": "pnm",
    "image/x-portable-bitmap": "pbm",
    "image/x-portable-graymap": "pgm",
    "image/x-portable-pixmap": "ppm",
    "video/3gpp": "3gp",
    "video/matroska": "mkv",
    "video/mp2t": "ts",
    "video/mpeg": "mpg",
    "video/ogg": "ogv",
    "video/quicktime": "mov qt",
    "video/x-flv": "flv",
    "video/x-m4v": "m4v",
    "video/x-ms-wmv": "wmv",
    "video/x-msvideo": "avi",
    "audio/midi": "mid",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp2 mp3",
    "audio/ogg": "oga opus",
    "audio/webm": "weba",
    "audio/x-aiff": "aif aiff",
    "audio/x-ms-wma": "wma",
    "audio/x-wav": "wav",
    "model/gltf+json": "gltf",
    "model/gltf-binary": "glb",
    "model/vnd.usdz+zip": "usdz",
    "application/javascript; charset=utf-8": "js",
    "application/x-7z-compressed": "7z",
    "application/x-sh": "sh",
    "application/x-subrip": "srt",
    "application/x-tar": "tar",
    "application/xhtml+xml": "xht xhtml",
    "application/xslt+xml": "xsl",
    "application/yaml": "yml",
    "text/html": "htm",
    "text/javascript": "mjs",
    "text/markdown": "md",
    "text/plain": "log txt",
    "text/tab-separated-values": "tsv",
    "text/x-python": "py",
}
#: Media types by extension.
TYPES = {
    **{name: f"{half}/{name}" for half, names in _LIKE_NAMED.items() for name in names.split()},
    **{name: type_ for type_, names in _EXTENSIONS_OF.items() for name in names.split()},
}
#: Extensions that say how a file is packed; the type is that of the name without them.
_PACKED = frozenset({"br", "bz2", "gz", "xz", "z"})
#: ComfyUI lists these with the pictures and models although their media type does not say so.
_KINDS = {"webp": "image", "fbx": "model"}


def media_type(filename: str) -> str:
    """Return the type by the extension, in upper or lower case; `application/octet-stream` if
    unknown."""
    stem, extension = posixpath.splitext(filename.lower())
    if extension[1:] in _PACKED:
        extension = posixpath.splitext(stem)[1]
    return TYPES.get(extension[1:], UNKNOWN)


def essence(header: str) -> str:
    """Return the type in a `Content-Type` header, in small letters and without parameters.

    The properties of aiohttp's messages take time that grows with the square of the header.
    """
    return header.partition(";")[0].strip().lower()


def charset(header: str) -> str | None:
    """Return the charset in a `Content-Type` header, `None` if it names none."""
    for parameter in header.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'")
    return None


def kind(filename: str) -> str:
    """Return the first half of the media type (`image`, `audio`, `video`, `model`, …).

    By it ComfyUI chooses which files of a folder a loader lists.
    """
    extension = posixpath.splitext(filename)[1][1:].lower()
    return _KINDS.get(extension) or media_type(filename).partition("/")[0]
