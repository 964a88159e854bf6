"""The rules by which a ComfyUI names and finds files, without a disk; which entries of outputs are
files, and under which keys ComfyUI has them; media types by name.

A file is at a *place*: one of the three folders (`input`, `output`, `temp`) and a path in it.
Names that clients send are hostile and never become paths of a real disk; they are resolved here,
by their letters alone, as ComfyUI 0.3.64 on Linux would resolve them. A backslash counts as a
slash when files are compared, so that what a Windows client writes is found.

Media types are the same on every machine: Python's own table with what Debian's `/etc/mime.types`
adds and changes, as a ComfyUI 0.3.64 there answers (`mkv` is `video/matroska`, `wav` is
`audio/x-wav`, and ComfyUI itself sets `js`).
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import string
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: The folders of a ComfyUI that hold files.
TYPES = ("input", "output", "temp")

#: Longest file name and longest path that Linux takes, in bytes.
NAME_MAX = 255
PATH_MAX = 4096

_COUNTED = re.compile(r"(?P<stem>.*)_\d{5,}+(?P<tail>_?(?:[^_0-9].*)?)", re.DOTALL)

#: A content hash, by which the cloud names files.
_HASH_ADDRESS = re.compile(r"blake3:([0-9a-f]{64})")
_HASH_NAME = re.compile(r"(?:blake3:)?[0-9a-f]{64}(?:\.\w+)?(?: \[\w+\])?")


class Place(NamedTuple):
    """Where a file is: a folder, and the path in it with `/` between its parts."""

    type: str
    path: str

    @property
    def subfolder(self) -> str:
        """The path without its last part."""
        return posixpath.dirname(self.path)


def is_hash_name(name: str) -> bool:
    """Return whether a name, with or without a trailing ` [output]`, is one of the cloud's."""
    return _HASH_NAME.fullmatch(name) is not None


def split_annotated(name: str) -> tuple[str, str | None]:
    """Split `"a.png [input]"` into `("a.png", "input")`; the type is `None` where none is written.

    As ComfyUI does, the letter before the bracket is cut whatever it is.
    """
    for type_ in TYPES:
        if name.endswith(f"[{type_}]"):
            return name[: -len(type_) - 3], type_
    return name, None


def hash_address(name: str) -> str | None:
    """Return the hexadecimal digits of a name `blake3:…`, with or without a trailing `
    [output]`."""
    match = _HASH_ADDRESS.fullmatch(split_annotated(name)[0].strip().lower())
    return None if match is None else match[1]


def annotate(name: str, type_: str) -> str:
    """Return the name as loaders read it: plain for `input`, else followed by its folder."""
    return name if type_ == "input" else f"{name} [{type_}]"


def resolve(type_: str, *parts: str) -> str | None:
    """Return the path in the folder `type_` that the parts lead to, `None` if they lead out of it.

    `../input` from `input` leads back in, as on a disk; anything absolute leads out.
    """
    stack = [type_]
    for part in parts:
        folded = part.replace("\\", "/")
        if folded.startswith("/"):
            return None
        for step in folded.split("/"):
            if step == "..":
                if not stack:
                    return None
                stack.pop()
            elif step not in ("", "."):
                stack.append(step)
    return "/".join(stack[1:]) if stack[:1] == [type_] else None


def view_place(filename: str | None, subfolder: str | None, type_: str | None) -> Place | int:
    """Return where `GET /view` looks, or the status of its refusal (400, 403 or 404, body empty).

    `None` stands for a query name that is absent. A folder in `filename` is dropped, and an
    annotation wins over `type`.
    """
    if filename is None:
        return 404
    name, annotated = split_annotated(filename)
    if not name or name.startswith("/") or ".." in name:
        return 400
    folder = annotated or ("output" if type_ is None else type_)
    if folder not in TYPES:
        return 400
    inside = resolve(folder, subfolder or "")
    if inside is None:
        return 403
    path = resolve(folder, inside, posixpath.basename(name))
    return Place(folder, path) if path and path != inside else 404


def upload_place(filename: str, subfolder: str, type_: str) -> Place | None:
    """Return where an upload of this name goes, `None` if that is outside of the folder `type_`."""
    path = resolve(type_, posixpath.normpath(subfolder), filename)
    return None if path is None else Place(type_, path)


def upload_refusal(filename: str | None, subfolder: str, type_: str) -> int | None:
    """Return 400 if a local ComfyUI refuses the upload with an empty body, else `None`.

    An unknown `type_` is not among these: ComfyUI fails on it, so it gets an error in words.
    """
    if not filename:
        return 400
    if type_ not in TYPES:
        return None
    return 400 if upload_place(filename, subfolder, type_) is None else None


def is_storable(path: str) -> bool:
    """Return whether Linux can store a file at this path: its length, no NUL, Unicode."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return False
    longest = max(len(part) for part in encoded.split(b"/"))
    return b"\0" not in encoded and longest <= NAME_MAX and len(encoded) <= PATH_MAX


def numbered(filename: str, number: int) -> str:
    """Return the name that an upload gets when `filename` is taken: `cat (1).png`, `a.tar
    (1).gz`."""
    stem, extension = posixpath.splitext(filename)
    return f"{stem} ({number}){extension}"


def written_place(value: str, input_folder: str = "") -> Place | None:
    """Return the place that a graph's string names, if it can be a file's name.

    Forms: `cat.png`, `sub/cat.png`, `sub\\cat.png`, each with or without ` [input]`, ` [output]`
    or ` [temp]`. A name without annotation is in `input`. So is a path below `input_folder`, the
    path of this folder on the disk if it is there.
    """
    name, annotated = split_annotated(value)
    type_ = annotated or "input"
    if input_folder and type_ == "input":
        name = name.removeprefix(f"{input_folder}/")
    path = resolve(type_, name)
    return Place(type_, path) if path else None


def expand(prefix: str, now: time.struct_time, *, width: int = 0, height: int = 0) -> str:
    """Return a `filename_prefix` with ComfyUI's tokens filled in.

    `%width%`, `%height%` (pixels), `%year%`, `%month%`, `%day%`, `%hour%`, `%minute%`, `%second%`
    of the server's local time. `%date:…%` and `%Node.input%` are the web frontend's and are gone
    before a graph is submitted.
    """
    if "%" not in prefix:
        return prefix
    parts = zip(("month", "day", "hour", "minute", "second"), now[1:6], strict=True)
    values = {"width": width, "height": height, "year": now.tm_year}
    for token, value in {**values, **{name: f"{part:02}" for name, part in parts}}.items():
        prefix = prefix.replace(f"%{token}%", str(value))
    return prefix


def needs_size(prefix: str) -> bool:
    """Return whether the prefix contains the picture's size."""
    return "%width%" in prefix or "%height%" in prefix


def split_prefix(prefix: str) -> tuple[str, str]:
    """Split a prefix into subfolder and stem: `video/clip` to `("video", "clip")`.

    A prefix that leads out of the folder is an error in ComfyUI, so a job cannot have saved under
    it; its last part is taken.
    """
    subfolder, stem = posixpath.split(posixpath.normpath(prefix))
    return resolve("output", subfolder) or "", stem


def counted(stem: str, counter: int, tail: str) -> str:
    """Return an output's name: `counted("ComfyUI", 7, "_.png")` is `ComfyUI_00007_.png`."""
    return f"{stem}_{counter:05}{tail}"


def counters(filename: str) -> Iterator[tuple[str, int]]:
    """Yield each stem for which the name counts, and the number that it uses.

    ComfyUI reads a counter between the stem's underscore and the next one; `a_b_00003_.png` uses
    up number 3 of the stem `a_b`. A name that no disk takes counts for nothing.
    """
    if len(filename) > PATH_MAX:
        return
    start = 0
    for part in filename.split("_"):
        if start and part.isdecimal():
            yield filename[: start - 1], int(part)
        start += len(part) + 1


def split_counted(filename: str) -> tuple[str, str] | None:
    """Split an output's name into stem and tail; `None` if it has no counter.

    `ComfyUI_00042_.png` gives `("ComfyUI", "_.png")`, `clip_00001-audio.mp4` gives
    `("clip", "-audio.mp4")`.
    """
    folder, slash, name = filename.rpartition("/")
    match = _COUNTED.fullmatch(name)
    if match is None or not (stem := folder + slash + match["stem"]):
        return None
    return stem, match["tail"]


def temp_stem(*seed: str) -> str:
    """Return the stem of a preview's name, `ComfyUI_temp_` and five letters; the same for the same
    seed."""
    digest = hashlib.blake2b("\0".join(seed).encode("utf-8", "surrogatepass"), digest_size=5)
    letters = (string.ascii_lowercase[byte % 26] for byte in digest.digest())
    return "ComfyUI_temp_" + "".join(letters)


# --- outputs of nodes ----------------------------------------------------------------------

#: What only the cloud says of a file.
_CLOUD_KEYS = frozenset(
    {
        *("asset", "asset_hash", "asset_id", "created_at", "display_name", "hash", "id"),
        *("mime_type", "preview_id", "preview_url", "short_url", "size", "tags", "url"),
    }
)

#: Nodes that write to the `temp` folder.
_TEMPORARY = frozenset({"PreviewImage", "PreviewAudio", "PreviewVideo", "MaskPreview"})


def is_file(item: object) -> bool:
    """Return whether an entry of an output's list is a file."""
    return isinstance(item, Mapping) and isinstance(item.get("filename"), str)


def files(output: Mapping[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield each file with the key of its list and its place in it."""
    for key, value in output.items():
        if isinstance(value, list):
            for index, item in enumerate(value):
                if is_file(item):
                    yield key, index, item


def with_core_keys(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output with videos where core ComfyUI has them: under `images`, with `animated`.

    The cloud's worker puts them under a singular `video`, and the same file again under `videos`
    or a node pack's key. What stands under another key already is not repeated.
    """
    listed = output.get("video")
    if not isinstance(listed, list) or not any(map(is_file, listed)):
        return dict(output)
    others = {key: value for key, value in output.items() if key not in ("video", "videos")}
    videos = [item for item in listed if is_file(item)]
    names = {item["filename"] for item in videos}
    rest = [item for item in _listed(output, "videos") if not _is_named(item, names)]
    elsewhere = {item["filename"] for _, _, item in files(others)}
    moved = [item for item in videos if item["filename"] not in elsewhere]
    if moved:
        others["images"] = [*_listed(others, "images"), *moved]
    if moved or any(_is_named(item, names) for item in _listed(others, "images")):
        others.setdefault("animated", [True])
    if rest:
        others["videos"] = rest
    return others


def _listed(output: Mapping[str, Any], key: str) -> list[Any]:
    value = output.get(key)
    return list(value) if isinstance(value, list) else []


def _is_named(item: Any, names: set[str]) -> bool:
    return is_file(item) and item["filename"] in names


def own_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a node pack adds to a file, beside the three that name it.

    What only the cloud says is left out, and so is every address: it may be signed.
    """
    return {
        key: value
        for key, value in item.items()
        if key not in ("filename", "subfolder", "type")
        and key not in _CLOUD_KEYS
        and not (isinstance(value, str) and value.startswith(("http://", "https://")))
    }


def asset_ids(place: Place, asset: str) -> dict[str, str]:
    """Return what an item says of the record of its file: a picture is its own preview."""
    return {"id": asset, **({"preview_id": asset} if kind(place.path) == "image" else {})}


def output_type(item: Mapping[str, Any], node: Mapping[str, Any] | None) -> str:
    """Return the folder of the file for a client: `temp` for previews, else what the cloud says.

    The cloud keeps outputs and previews in one bucket, so its `type` may be missing or vague.
    """
    class_type = node.get("class_type") if node else None
    stated = item.get("type")
    if stated == "input":
        return "input"
    if class_type in _TEMPORARY:
        return "temp"
    return stated if stated in ("output", "temp") else "output"


#: What core nodes write, where the cloud's name has no extension.
_EXTENSIONS = {"audio": ".flac", "gifs": ".mp4", "3d": ".glb", "latents": ".latent"}


def extension(name: str, key: str, node: Mapping[str, Any] | None) -> str:
    """Return a file's extension, from its name or else from what its node writes under `key`."""
    written = posixpath.splitext(name)[1].lower()
    if written:
        return written
    class_type = str(node.get("class_type", "")) if node else ""
    if key == "images" and "video" in class_type.lower():
        return ".mp4"
    if "webp" in class_type.lower():
        return ".webp"
    return _EXTENSIONS.get(key, ".png")


# --- media types -----------------------------------------------------------------------------

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
_TYPES = {
    **{name: f"{half}/{name}" for half, names in _LIKE_NAMED.items() for name in names.split()},
    **{name: type_ for type_, names in _EXTENSIONS_OF.items() for name in names.split()},
}

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

#: Other names of types that are shown.
_SYNONYMS = (
    *("audio/flac", "audio/mp3", "audio/opus", "audio/vnd.wave", "audio/wav", "audio/wave"),
    *("audio/x-flac", "audio/x-m4a", "image/jpg", "image/x-icon", "image/x-ms-bmp"),
    *("model/x.stl-binary", "video/x-matroska"),
)

#: ComfyUI lists these with the pictures and models although their media type does not say so.
_KINDS = {"webp": "image", "fbx": "model"}


def media_type(filename: str) -> str:
    """Return the type by the extension, in upper or lower case; `application/octet-stream` if
    unknown."""
    stem, extension = _split(filename)
    if extension in _PACKED:
        extension = _split(stem)[1]
    return _TYPES.get(extension, UNKNOWN)


def kind(filename: str) -> str:
    """Return the first half of the media type (`image`, `audio`, `video`, `model`, …).

    By it ComfyUI chooses which files of a folder a loader lists.
    """
    known = _KINDS.get(_split(filename)[1])
    return known or media_type(filename).partition("/")[0]


def is_active(type_: str) -> bool:
    """Return whether a browser that shows the type runs its contents; SVG pictures are included."""
    essence = type_.partition(";")[0].strip().lower()
    return essence in _ACTIVE or essence.endswith("+xml")


def is_shown(essence: str) -> bool:
    """Return whether a media type without parameters, in small letters, is on the list of those
    that a browser shows or plays and never runs."""
    return essence in _SHOWN


#: What `is_shown` allows.
_SHOWN = frozenset(
    type_ for type_ in (*_TYPES.values(), *_SYNONYMS) if not is_active(type_) and ";" not in type_
)


def _split(filename: str) -> tuple[str, str]:
    stem, extension = posixpath.splitext(filename)
    return stem, extension[1:].lower()
