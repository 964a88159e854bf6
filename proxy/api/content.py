"""The headers of content: bytes that a member or the cloud chose, sent from the proxy's own origin.

A browser must never run such bytes. Their type is from a fixed list, or they are downloaded; the
browser must not guess another type; and a page that is shown nevertheless has no origin and loads
nothing (Content Security Policy Level 3, `sandbox`).
"""

from __future__ import annotations

from proxy.translate import media_types
from proxy.translate.media_types import TYPES, UNKNOWN

#: The headers of every answer with content; sounds and videos have another policy.
SAFETY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}

#: The policy with which a browser plays a sound or a video that is opened as a page.
_PLAYED = "sandbox allow-same-origin; default-src 'none'; media-src 'self'"

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
#: Other names of types that are shown.
_SYNONYMS = (
    *("audio/flac", "audio/mp3", "audio/opus", "audio/vnd.wave", "audio/wav", "audio/wave"),
    *("audio/x-flac", "audio/x-m4a", "image/jpg", "image/x-icon", "image/x-ms-bmp"),
    *("model/x.stl-binary", "video/x-matroska"),
)


def is_active(type_: str) -> bool:
    """Return whether a browser that shows the type runs its contents; SVG pictures are included."""
    essence = media_types.essence(type_)
    return essence in _ACTIVE or essence.endswith("+xml")


#: Types without parameters, in small letters, that a browser shows or plays and never runs.
_SHOWN = frozenset(
    type_ for type_ in (*TYPES.values(), *_SYNONYMS) if not is_active(type_) and ";" not in type_
)


def content_headers(
    type_: str, destination: str | None = None, *, disposition: str = "", name: str = ""
) -> dict[str, str]:
    """Return type, disposition and safety headers for content of the stated type.

    `disposition` is `inline`, `attachment` or empty, `name` is its parameter. Content that is not
    on the list of types is always an attachment. `destination` is `Sec-Fetch-Dest`: an SVG for an
    `<img>` is a picture.
    """
    essence = media_types.essence(type_)
    headers = {"Content-Type": essence, **SAFETY_HEADERS}
    if is_active(essence):
        headers |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
    if essence in _SHOWN and essence.startswith(("audio/", "video/")):
        headers["Content-Security-Policy"] = _PLAYED
    picture = essence == "image/svg+xml" and destination == "image"
    if not picture and essence not in _SHOWN:
        headers["Content-Type"] = UNKNOWN
        disposition = "attachment"
    value = "; ".join(part for part in (disposition, name) if part)
    return {**headers, "Content-Disposition": value} if value else headers


def filename_parameter(filename: str) -> str:
    """Return `filename="…"` in UTF-8, with quotes escaped and unprintable characters replaced."""
    name = filename.replace("\\", "\\\\").replace('"', '\\"').encode(errors="replace").decode()
    if not name.isprintable():
        name = "".join(letter if letter.isprintable() else "_" for letter in name)
    return f'filename="{name}"'
