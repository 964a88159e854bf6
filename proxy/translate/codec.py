"""JSON as both APIs write it.

ComfyUI sends NaN and Infinity literals and integers beyond 64 bits (seeds); neither may be lost.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

_decoder = msgspec.json.Decoder()


def loads(data: bytes | str) -> Any:
    """Decode JSON. Raises `ValueError` for anything that is not JSON, NaN and Infinity excepted."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _loads_lenient(data)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def _loads_lenient(data: bytes | str) -> Any:
    try:
        return json.loads(data.decode() if isinstance(data, bytes) else data)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def dumps(value: object) -> str:
    """Encode as ComfyUI does: a space behind `,` and `:`, ASCII only, NaN and Infinity literal."""
    return json.dumps(value)


def dump_bytes(value: object) -> bytes:
    """`dumps` as the bytes of a body."""
    return json.dumps(value).encode()
