"""Exceptions as ComfyUI tells them, without the paths of the machine."""

from __future__ import annotations

import re
import traceback

_PATH = re.compile(r'File "[^"]*?(proxy/simulator/[^"]+|[^"/\\]+)"')


def type_name(error: BaseException) -> str:
    """The class of an exception, with its module where it is not built in."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def frames(error: BaseException) -> list[str]:
    """The traceback, a string for each frame."""
    return [_PATH.sub(r'File "\1"', frame) for frame in traceback.format_tb(error.__traceback__)]
