"""Conditions and ranges of a request for a file."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.api.downloads import Part, Stamp, decide

#: 26 bytes, written 2024-01-02 03:04:05.5 UTC
FILE = Stamp(26, 1704164645.5)
DATE = "Tue, 02 Jan 2024 03:04:06 GMT"
EARLIER = "Tue, 02 Jan 2024 03:04:05 GMT"
TAG = FILE.etag


def part(**headers: str) -> Part:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return decide(make_mocked_request("GET", "/view", headers=named), FILE)


def test_the_stamp_looks_like_that_of_a_file_on_disk() -> None:
    assert (FILE.etag, FILE.last_modified) == ("17a668b74dce9700-1a", DATE)


def test_without_a_condition_the_whole_is_sent() -> None:
    assert part() == Part(200, 0, 26)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-3", Part(206, 0, 4)),
        ("bytes=5-", Part(206, 5, 21)),
        ("bytes=-4", Part(206, 22, 4)),
        ("bytes=-400", Part(206, 0, 26)),
        ("bytes=-0", Part(206, 0, 26)),
        ("bytes=20-400", Part(206, 20, 6)),
        ("bytes=25-25", Part(206, 25, 1)),
    ],
)
def test_a_range_is_cut_out(wanted: str, expected: Part) -> None:
    assert part(Range=wanted) == expected


@pytest.mark.parametrize("wanted", ["bytes=26-", "bytes=5-2", "bytes=0-1,3-4", "bytes=", "x=1-2"])
def test_a_range_that_cannot_be_had_is_not_satisfiable(wanted: str) -> None:
    assert part(Range=wanted).status == 416


def test_nothing_can_be_cut_out_of_an_empty_file() -> None:
    request = make_mocked_request("GET", "/", headers={"Range": "bytes=0-"})
    assert decide(request, Stamp(0, 0.0)).status == 416


@pytest.mark.parametrize("tags", [f'"{TAG}"', f'W/"{TAG}"', f'"x", "{TAG}"', "*"])
def test_a_client_that_has_the_version_gets_304(tags: str) -> None:
    assert part(If_None_Match=tags).status == 304


def test_another_tag_wins_over_the_date() -> None:
    assert part(If_None_Match='"x"', If_Modified_Since=DATE).status == 200


@pytest.mark.parametrize(("since", "status"), [(DATE, 304), (EARLIER, 200), ("junk", 200)])
def test_a_date_says_whether_it_was_written_since(since: str, status: int) -> None:
    assert part(If_Modified_Since=since).status == status


@pytest.mark.parametrize(
    ("tags", "status"), [(f'"{TAG}"', 200), (f'W/"{TAG}"', 412), ('"x"', 412), ("*", 200)]
)
def test_if_match_wants_the_version(tags: str, status: int) -> None:
    assert part(If_Match=tags).status == status


@pytest.mark.parametrize(("since", "status"), [(DATE, 200), (EARLIER, 412)])
def test_if_unmodified_since_wants_an_old_version(since: str, status: int) -> None:
    assert part(If_Unmodified_Since=since).status == status


@pytest.mark.parametrize(("condition", "status"), [(DATE, 206), (EARLIER, 200), ('"another"', 206)])
def test_if_range_looks_at_dates_alone(condition: str, status: int) -> None:
    assert part(Range="bytes=0-3", If_Range=condition).status == status
