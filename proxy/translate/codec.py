"""JSON as both APIs write it, and values without what nobody may see.

ComfyUI sends NaN and Infinity literals and integers beyond 64 bits (seeds); neither may be lost.
"""

from __future__ import annotations

import json
import re
from typing import Any, AnyStr, TypeVar

import msgspec

#: Approximate bytes of a parsed value in addition to its text.
VALUE_BYTES = 120

_decoder = msgspec.json.Decoder()
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

#: Halves of surrogate pairs in JSON: as they are, and as escapes that are no pair.
_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPES = re.compile(
    r"(?:\\\\)+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def loads(data: bytes | str) -> Any:
    """Decode JSON. Raises `ValueError` for anything that is not JSON, NaN and Infinity excepted,
    and for an integer of more than `MAX_DIGITS`."""
    _check_integers(data)
    if _has_huge_numbers(data):
        return _decoded_leniently(data)
    try:
        return _decoder.decode(data)
    except _REFUSED:
        return _decoded_leniently(data)


#: The longest integer: Python takes time for the square of its digits.
MAX_DIGITS = 400
#: Bytes that are looked through at once, and the distance of those that are looked at first.
_PIECE, _STEP = 1 << 20, 50
#: Digits become zeros, all else becomes spaces.
_DIGITS = bytes(0x30 if chr(byte) in "0123456789" else 0x20 for byte in range(256))
_LONG = b"0" * (MAX_DIGITS + 1)
#: Strings and numbers.
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[0-9][0-9.eE+-]*+', re.DOTALL)


def _check_integers(data: bytes | str) -> None:
    if len(data) > MAX_DIGITS and _has_long_integer(data):
        raise ValueError(f"an integer has more than {MAX_DIGITS} digits")


def _has_long_integer(data: bytes | str) -> bool:
    whole = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if whole[::_STEP].translate(_DIGITS).find(_LONG[: MAX_DIGITS // _STEP]) < 0:
        return False
    if all(
        whole[start : start + _PIECE + MAX_DIGITS].translate(_DIGITS).find(_LONG) < 0
        for start in range(0, len(whole), _PIECE)
    ):
        return False
    return any(
        len(token[0]) > MAX_DIGITS and token[0].isdigit() for token in _TOKENS.finditer(whole)
    )


#: Numbers with an exponent of three digits, which take msgspec 8 µs each and `json` 0.2.
_HUGE = r"[\[,:\s]-?[0-9.]+[eE]\+?[0-9]{3}"
#: The exponents of such numbers, and of some hexadecimal ones: what begins with one character is
#: looked for 40 times as fast, and most events have neither.
_EXPONENTS = r"e(?<=[0-9.]e)\+?[0-9]{3}", r"E(?<=[0-9.]E)\+?[0-9]{3}"
_HUGE_IN_TEXT = tuple(map(re.compile, (*_EXPONENTS, _HUGE)))
_HUGE_IN_BYTES = tuple(re.compile(pattern.encode()) for pattern in (*_EXPONENTS, _HUGE))


#: Characters of JSON whose numbers together take msgspec 5 ms at most, whatever they are.
_FEW = 4096


def _has_huge_numbers(data: bytes | str) -> bool:
    if len(data) <= _FEW:
        return False
    if isinstance(data, str):
        return _finds(data, *_HUGE_IN_TEXT)
    return _finds(data, *_HUGE_IN_BYTES)


def _finds(
    data: AnyStr, small: re.Pattern[AnyStr], capital: re.Pattern[AnyStr], number: re.Pattern[AnyStr]
) -> bool:
    maybe = small.search(data) or capital.search(data)
    return maybe is not None and number.search(data) is not None


def breadth(data: bytes | str) -> int:
    """Return an upper bound of the number of values in JSON, in less time than decoding takes.

    Commas and brackets inside strings count, too.
    """
    if isinstance(data, bytes):
        return 1 + data.count(b",") + data.count(b"[") + data.count(b"{")
    return 1 + data.count(",") + data.count("[") + data.count("{")


def parsed_size(data: bytes) -> int:
    """Return about how many bytes the value of JSON takes in memory."""
    return len(data) + VALUE_BYTES * breadth(data)


def members_of(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Return the members of a JSON object, not decoded. Raises `ValueError`."""
    try:
        return _members_decoder.decode(data)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def loads_text(data: bytes | str) -> Any:
    """Decode with `loads`, with U+FFFD for every lone surrogate, which neither a file nor a name
    can hold.

    JSON can escape half of a surrogate pair, and Python takes it as it is.
    """
    _check_integers(data)
    if _has_huge_numbers(data):
        return _decoded_leniently(data, storable=True)
    try:
        return _decoder.decode(data)  # refuses them
    except _REFUSED:
        return _decoded_leniently(data, storable=True)


#: What strict decoders raise.
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _decoded_leniently(data: bytes | str, *, storable: bool = False) -> Any:
    """Decode JSON that may have NaN, Infinity or lone surrogates, which are replaced in a value
    that is to be `storable`."""
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(_without_halves(text) if storable else text)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def _without_halves(text: str) -> str:
    """Return JSON with U+FFFD for each half of a surrogate pair."""
    text = _ESCAPES.sub(lambda found: "\\ufffd" if found["half"] else found[0], text)
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _builtins(value: object) -> object:
    if not isinstance(value, msgspec.Struct):
        raise TypeError(f"{type(value).__name__} has no JSON")
    return msgspec.to_builtins(value)


#: Nothing is checked for cycles: JSON has none.
_ENCODER = json.JSONEncoder(check_circular=False, default=_builtins)


def dumps(value: object) -> str:
    """Encode as ComfyUI does: a space after `,` and `:`, ASCII only, NaN and Infinity literal."""
    return _ENCODER.encode(value)


def dump_bytes(value: object) -> bytes:
    """Encode with `dumps`, as the bytes of a body."""
    return dumps(value).encode()


T = TypeVar("T")

REDACTED = "[REDACTED]"

#: Keys of `extra_data` that carry a credential for partner nodes.
CREDENTIAL_KEYS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})


#: A printable character of ASCII as an escape, but for those that HTML needs (`&`, `<`, `>`): no
#: encoder writes these, so something may be hidden.
_ESCAPED_TEXT = r"\\u00(?!26|3[cCeE])[2-7]"
_ESCAPED = re.compile(_ESCAPED_TEXT)
_ESCAPED_BYTES = re.compile(_ESCAPED_TEXT.encode())
#: Characters of ASCII that an encoder may write as escapes.
_ESCAPABLE = frozenset('"\\/')


def may_show(text: bytes | str, secret: str) -> bool:
    """Return whether JSON may hold a secret, in plain characters or in escapes."""
    if not secret:
        return False
    if not secret.isascii() or not _ESCAPABLE.isdisjoint(secret):
        return True
    if isinstance(text, bytes):
        return secret.encode() in text or _ESCAPED_BYTES.search(text) is not None
    return secret in text or _ESCAPED.search(text) is not None


def redact(value: T, *secrets: str) -> T:
    """Return `value` with every occurrence of a secret in its strings, keys included, replaced."""
    text = dumps(value)  # most values show none, and there it is seen faster
    for secret in secrets:
        if secret and dumps(secret)[1:-1] in text:
            value = _without(value, secret)
    return value


def _without(value: Any, secret: str) -> Any:
    match value:
        case str():
            return value.replace(secret, REDACTED)
        case dict():
            return {_without(key, secret): _without(item, secret) for key, item in value.items()}
        case list():
            return [_without(item, secret) for item in value]
    return value
