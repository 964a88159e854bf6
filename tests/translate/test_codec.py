"""JSON as both APIs write it, and secrets taken out of values."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from cpu_time import least_seconds
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate import codec
from proxy.translate.codec import redact

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert codec.loads(codec.dump_bytes(value)) == value


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, 2**64, 10**40])
def test_seeds_of_any_size_stay_integers(seed: int) -> None:
    assert codec.loads(b'{"seed": %d}' % seed) == {"seed": seed}


def test_nan_and_infinity_pass() -> None:
    value = codec.loads(b"[NaN, Infinity, 1]")
    assert math.isnan(value[0])
    assert codec.dumps(value) == "[NaN, Infinity, 1]"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b'"\xed\xa0\x80"'])
def test_what_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the words are the library's)
        codec.loads(data)


def test_it_is_written_as_python_writes_it() -> None:
    assert codec.dumps({"a": [1, "ü"]}) == '{"a": [1, "\\u00fc"]}'


@pytest.mark.parametrize(
    "value",
    [
        [math.nan, math.inf, -math.inf, -0.0, 1e300, 10**300],
        {7: "int", None: "null", True: "bool", 2.5: "float"},
        ("a tuple", ["a list"]),
        "\ud800 and \u2028",
        [[[{}]], {"": []}],
    ],
)
def test_odd_values_are_written_as_python_writes_them(value: Any) -> None:
    assert codec.dumps(value) == json.dumps(value)


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, b"bytes"])
def test_what_has_no_json_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        codec.dumps(value)


def test_half_a_surrogate_pair_becomes_a_sign_that_can_be_written() -> None:
    data = rb'{"a\ud800": ["\udc00b\ud83d\ude00", NaN], "n": {"x": "\ud83d"}}'
    value = codec.loads_text(data)
    assert value["a\ufffd"][0] == "\ufffdb\U0001f600"
    assert value["n"] == {"x": "\ufffd"}
    escaped = codec.loads_text(rb'["\\ud800", "\\\ud800", NaN]')
    assert escaped[:2] == ["\\ud800", "\\\ufffd"]
    assert codec.loads_text(b'{"a": "\xc3\xa9", "seed": 18446744073709551616}') == {
        "a": "\u00e9",
        "seed": 2**64,
    }


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b'"\xed\xa0\x80"'])
def test_text_that_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the words are the library's)
        codec.loads_text(data)


# --- secrets taken out of values --------------------


def test_a_secret_is_removed_however_deep_it_is() -> None:
    value = {"a": ["x comfyui-k y", {"b": "comfyui-k"}], "c": 7}
    assert redact(value, "comfyui-k", "") == {"a": ["x [REDACTED] y", {"b": "[REDACTED]"}], "c": 7}


@given(st.text(min_size=1), st.text(), st.text())
def test_no_secret_is_left_whatever_its_characters_are(
    secret: str, before: str, after: str
) -> None:
    shown = f"{before}{secret}{after}"
    hidden = shown.replace(secret, "[REDACTED]")
    assert redact([{shown: shown}, 7, shown], secret) == [{hidden: hidden}, 7, hidden]


def test_a_secret_that_is_a_key_is_removed_too() -> None:
    assert redact({"comfyui-k": ["other"]}, "comfyui-k", "other") == {"[REDACTED]": ["[REDACTED]"]}


@pytest.mark.parametrize("number", [b"1e+308", b"1e308", b"1.0E308", b"1E+308"])
def test_huge_numbers_are_read_as_fast_as_others(number: bytes) -> None:
    data = b"[" + b",".join([number] * 50_000) + b"]"
    assert codec.loads(data) == codec.loads_text(data) == [1e308] * 50_000
    assert codec.loads(b"[" + number + b"]") == [1e308]
    assert least_seconds(lambda: codec.loads(data)) < 0.1


@pytest.mark.parametrize("before", ["", "x", "x" * 37, "1, 2, " * 300_000])
@pytest.mark.parametrize("as_text", [False, True])
def test_integers_have_at_most_400_digits(before: str, as_text: bool) -> None:
    def read(number: str) -> Any:
        text = json.dumps([before])[:-1] + f", {number}]"
        return codec.loads(text if as_text else text.encode())[1]

    digits = "7" * 400
    for number in (digits, f"-{digits}", f"{digits}.5", f"0.{digits}{digits}", f"{digits}7e-200"):
        assert read(number) == json.loads(number)
    assert read(f'"{digits}{digits}"') == digits * 2
    assert read(f'"a\\"{digits}{digits}"') == f'a"{digits}{digits}'
    for number in (f"{digits}7", f"-{digits}7", digits * 11):
        with pytest.raises(ValueError, match="more than 400 digits"):
            read(number)


def test_many_long_integers_are_refused_at_once() -> None:
    data = b"[" + b",".join([b"9" * 4000] * 7000) + b"]"

    def read() -> None:
        with pytest.raises(ValueError, match="more than 400 digits"):
            codec.loads(data)

    assert least_seconds(read) < 0.1
