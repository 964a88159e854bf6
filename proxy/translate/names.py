"""The rules by which a ComfyUI names and finds files, without a disk.

A file is at a *place*: one of the three folders (`input`, `output`, `temp`) and a path in it.
Names that clients send are hostile and never become paths of a real disk; they are resolved here,
by their letters alone, as ComfyUI 0.3.64 on Linux would resolve them. A backslash counts as a
slash when files are compared, so that what a Windows client writes is found.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import string
import time
from collections.abc import Iterator
from typing import NamedTuple

#: The folders of a ComfyUI that hold files.
TYPES = ("input", "output", "temp")

#: Longest file name and longest path that Linux takes, in bytes.
NAME_MAX = 255
PATH_MAX = 4096

#: Highest number of a name that counts: with the next ones it is far from what a database takes.
MAX_COUNTER = 10**12

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


#: Folders that outputs may be in, one in another: Python's own walk ends at about a thousand.
MAX_FOLDERS = 32


def folders_of(path: str) -> int:
    """Return how many folders a file is in, one in another, at a path with `/` between them."""
    return path.count("/")


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
    up number 3 of the stem `a_b`. A name that no disk takes counts for nothing, and so does a
    number above `MAX_COUNTER`.
    """
    if len(filename) > PATH_MAX:
        return
    start = 0
    for part in filename.split("_"):
        if start and part.isdecimal() and (number := int(part)) <= MAX_COUNTER:
            yield filename[: start - 1], number
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
