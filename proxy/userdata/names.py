"""Names of user data as clients send them: hostile, and never more than a place in one folder."""

from __future__ import annotations

import hashlib
import os
import re
from urllib.parse import unquote

#: What a file that is being written is called; such names are nobody's.
DRAFT = ".comfy-cloud-proxy-"
#: Folders within folders.
MOST_STEPS = 100

_PLAIN_MEMBER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NOT_ON_WINDOWS = re.compile(
    r"[<>:\"|?*\x00-\x1f]|[. ]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE
)
_WINDOWS = os.name == "nt"


class LeadsOutError(Exception):
    """The name leads out of the member's folder."""


class BadNameError(Exception):
    """No file can have this name, or not there: it is too long, or a folder is in its place."""


def parts_of(name: str, *, windows: bool = _WINDOWS) -> tuple[str, ...]:
    """The steps from the member's folder to what `name` means; none for the folder itself.

    As in ComfyUI the name is unescaped once more than the URL was. A backslash counts as a slash,
    so that the name means the same on every system. Raises `LeadsOutError` and `BadNameError`.
    """
    if "%" in name:
        name = unquote(name)
    folded = name.replace("\\", "/")
    if folded.startswith("/"):
        raise LeadsOutError(name)
    steps: list[str] = []
    for step in folded.split("/"):
        if step == "..":
            if not steps:
                raise LeadsOutError(name)
            steps.pop()
        elif step not in ("", "."):
            _check(step, windows=windows)
            steps.append(step)
    if len(steps) > MOST_STEPS:
        raise BadNameError(name)
    return tuple(steps)


def _check(step: str, *, windows: bool) -> None:
    if "\0" in step or step.startswith(DRAFT) or (windows and _NOT_ON_WINDOWS.search(step)):
        raise BadNameError(step)


def member_folder(member: str) -> str:
    """The name of a member's folder: two members never share one, on no file system."""
    if _PLAIN_MEMBER.fullmatch(member) and not _NOT_ON_WINDOWS.search(member):
        return member
    return "_" + hashlib.sha256(member.encode(errors="surrogatepass")).hexdigest()[:32]
