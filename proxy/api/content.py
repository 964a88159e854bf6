"""The headers of content: bytes that a member or the cloud chose, sent from the proxy's own origin.

A browser must never run such bytes. They have a type from a fixed list or are downloaded, no
browser guesses another type, and a page that is shown all the same has no origin and loads nothing
(Content Security Policy Level 3, `sandbox`).
"""

from __future__ import annotations

from proxy.translate.names import UNKNOWN, is_active, is_shown

#: On every answer with content but sounds and videos.
SAFETY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}

#: What a browser needs to play a sound or a video that is a page of its own. There are no scripts.
_PLAYED = "sandbox allow-same-origin; default-src 'none'; media-src 'self'"


def content_headers(
    type_: str, destination: str | None = None, *, disposition: str = "", name: str = ""
) -> dict[str, str]:
    """Return type, disposition and safety headers for content of the type that somebody stated.

    `disposition` is `inline`, `attachment` or empty, `name` the parameter behind it. Content that
    is not on the list of types is an attachment whatever they say. `destination` is
    `Sec-Fetch-Dest`: where the browser says that an SVG is for an `<img>`, it is a picture.
    """
    essence = type_.partition(";")[0].strip().lower()
    headers = {"Content-Type": essence, **SAFETY_HEADERS}
    if is_active(essence):
        headers |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
    if is_shown(essence) and essence.startswith(("audio/", "video/")):
        headers["Content-Security-Policy"] = _PLAYED
    picture = essence == "image/svg+xml" and destination == "image"
    if not picture and not is_shown(essence):
        headers["Content-Type"] = UNKNOWN
        disposition = "attachment"
    value = "; ".join(part for part in (disposition, name) if part)
    return {**headers, "Content-Disposition": value} if value else headers


def filename_parameter(filename: str) -> str:
    """Return `filename="…"` in UTF-8; quotes escaped, and what a header cannot hold replaced."""
    name = filename.replace("\\", "\\\\").replace('"', '\\"').encode(errors="replace").decode()
    shown = "".join(letter if letter.isprintable() else "_" for letter in name)
    return f'filename="{shown}"'
