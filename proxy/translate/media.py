"""Media types by file name, the same on every machine.

Python's own table with what Debian's `/etc/mime.types` adds and changes, as a ComfyUI 0.3.64
there answers (`mkv` is `video/matroska`, `wav` is `audio/x-wav`, and ComfyUI itself sets `js`).
"""

from __future__ import annotations

import posixpath

#: What a name without a known extension is.
UNKNOWN = "application/octet-stream"

_IMAGES = {
    "apng": "image/apng",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "ico": "image/vnd.microsoft.icon",
    "jfif": "image/jpeg",
    "jp2": "image/jp2",
    "jpe": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "jxl": "image/jxl",
    "pbm": "image/x-portable-bitmap",
    "pgm": "image/x-portable-graymap",
    "png": "image/png",
    "pnm": "image/x-portable-anymap",
    "ppm": "image/x-portable-pixmap",
    "psd": "image/vnd.adobe.photoshop",
    "svg": "image/svg+xml",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webp": "image/webp",
}
_VIDEOS = {
    "3gp": "video/3gpp",
    "avi": "video/x-msvideo",
    "flv": "video/x-flv",
    "m4v": "video/x-m4v",
    "mkv": "video/matroska",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "ogv": "video/ogg",
    "qt": "video/quicktime",
    "ts": "video/mp2t",
    "webm": "video/webm",
    "wmv": "video/x-ms-wmv",
}
_SOUNDS = {
    "aac": "audio/aac",
    "aif": "audio/x-aiff",
    "aiff": "audio/x-aiff",
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "mid": "audio/midi",
    "midi": "audio/midi",
    "mp2": "audio/mpeg",
    "mp3": "audio/mpeg",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "wav": "audio/x-wav",
    "weba": "audio/webm",
    "wma": "audio/x-ms-wma",
}
_MODELS = {
    "glb": "model/gltf-binary",
    "gltf": "model/gltf+json",
    "obj": "model/obj",
    "stl": "model/stl",
    "usdz": "model/vnd.usdz+zip",
}
_DOCUMENTS = {
    "7z": "application/x-7z-compressed",
    "css": "text/css",
    "csv": "text/csv",
    "htm": "text/html",
    "html": "text/html",
    "js": "application/javascript; charset=utf-8",
    "json": "application/json",
    "log": "text/plain",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "pdf": "application/pdf",
    "py": "text/x-python",
    "sh": "application/x-sh",
    "srt": "application/x-subrip",
    "tar": "application/x-tar",
    "tsv": "text/tab-separated-values",
    "txt": "text/plain",
    "vtt": "text/vtt",
    "xht": "application/xhtml+xml",
    "xhtml": "application/xhtml+xml",
    "xml": "application/xml",
    "xsl": "application/xslt+xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
}
_TYPES = _IMAGES | _VIDEOS | _SOUNDS | _MODELS | _DOCUMENTS

#: Extensions that say how a file is packed; the type is that of the name without them.
_PACKED = frozenset({"br", "bz2", "gz", "xz", "z"})

#: Types that a browser would run, beside everything that ends in `+xml`.
_ACTIVE = frozenset(
    {
        "application/ecmascript",
        "application/javascript",
        "application/xml",
        "text/css",
        "text/ecmascript",
        "text/html",
        "text/javascript",
        "text/xml",
        "text/xsl",
    }
)

#: ComfyUI lists these with the pictures and models although their media type does not say so.
_KINDS = {"webp": "image", "fbx": "model"}


def media_type(filename: str) -> str:
    """The type by the extension, in any case of letters; `application/octet-stream` if unknown."""
    stem, extension = _split(filename)
    if extension in _PACKED:
        extension = _split(stem)[1]
    return _TYPES.get(extension, UNKNOWN)


def kind(filename: str) -> str:
    """The first half of the media type (`image`, `audio`, `video`, `model`, …).

    By it ComfyUI chooses which files of a folder a loader lists.
    """
    known = _KINDS.get(_split(filename)[1])
    return known or media_type(filename).partition("/")[0]


def is_active(type_: str) -> bool:
    """Whether a browser that shows the type runs what is in it; SVG pictures are among them."""
    essence = type_.partition(";")[0].strip().lower()
    return essence in _ACTIVE or essence.endswith("+xml")


def _split(filename: str) -> tuple[str, str]:
    stem, extension = posixpath.splitext(filename)
    return stem, extension[1:].lower()
