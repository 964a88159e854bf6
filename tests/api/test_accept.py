"""The coding that a client's `Accept-Encoding` asks for."""

from __future__ import annotations

import pytest

from proxy.api.answers import coding


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ([], "identity"),
        ([""], "identity"),
        (["gzip"], "gzip"),
        (["GZIP"], "gzip"),
        (["x-gzip"], "gzip"),
        (["gzip, deflate"], "gzip"),
        (["gzip, deflate, br, zstd"], "zstd"),
        (["deflate", "gzip"], "gzip"),
        (["deflate, br"], "identity"),
        (["identity"], "identity"),
        (["*"], "identity"),
        (["gzip;q=0"], "identity"),
        (["gzip;q=0.000, *"], "identity"),
        (["gzip ; q=0.001"], "gzip"),
        (["gzip;Q=1"], "gzip"),
        (["zstd;q=0.5, gzip;q=0.8"], "gzip"),
        (["zstd;q=0, gzip"], "gzip"),
        (["zstd;q=0.8, gzip;q=0.8"], "zstd"),
        (["gzip, identity"], "gzip"),
        (["identity;q=1, gzip;q=0.5"], "identity"),
        (["identity;q=0, gzip;q=0.1"], "gzip"),
        (["identity;q=0"], "identity"),
        (["gzip;q=high"], "identity"),
        (["gzip;q=-1"], "identity"),
        (["gzip;q"], "identity"),
        (["gzipped, é, ;q=1, gzip;;"], "identity"),
    ],
)
def test_the_coding(accepted: list[str], expected: str) -> None:
    assert coding(accepted, ["zstd", "gzip"]) == expected
