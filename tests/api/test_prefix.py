"""What stands before a route's path: taken off in one place, and no way around it."""

from __future__ import annotations

import pytest
from yarl import URL

from proxy.api.addressing import strip
from proxy.settings.table import to_base_path

TOKEN = "ccp_" + "a" * 40


def _url(raw: str) -> URL:
    """As aiohttp's parser makes it of a request line."""
    path, _, query = raw.partition("?")
    return URL.build(path=path, query_string=query, encoded=True)


@pytest.mark.parametrize(
    ("raw", "base", "stripped"),
    [
        ("/prompt", "", "/prompt"),
        ("/comfy/prompt", "/comfy", "/prompt"),
        ("/comfy/", "/comfy", "/"),
        ("/comfyui/prompt", "/comfy", "/comfyui/prompt"),
        ("/prompt", "/comfy", "/prompt"),
        (
            "/a/b/api/view?filename=x%20y&type=output",
            "/a/b",
            "/api/view?filename=x%20y&type=output",
        ),
        (f"/t/{TOKEN}/ws?clientId=1", "", "/ws?clientId=1"),
        (f"/comfy/t/{TOKEN}/api/jobs", "/comfy", "/api/jobs"),
        (f"/t/{TOKEN}/userdata/workflows%2Fa.json", "", "/userdata/workflows%2Fa.json"),
        (f"/t/{TOKEN}/userdata/..%2Fa.json", "", "/userdata/..%2Fa.json"),
        (f"/T/{TOKEN}/prompt", "", f"/T/{TOKEN}/prompt"),
        (f"/%74/{TOKEN}/prompt", "", f"/%74/{TOKEN}/prompt"),
        (f"//t/{TOKEN}/prompt", "", f"//t/{TOKEN}/prompt"),
        (f"/x/t/{TOKEN}/prompt", "", f"/x/t/{TOKEN}/prompt"),
        (f"/t%2F{TOKEN}/prompt", "", f"/t%2F{TOKEN}/prompt"),
    ],
)
def test_the_prefix_goes_and_nothing_else(raw: str, base: str, stripped: str) -> None:
    url, way = strip(_url(raw), base, members=True)
    assert url.raw_path_qs == stripped
    assert not way.crooked
    assert way.path_token == (TOKEN if "/t/" not in stripped and f"/t/{TOKEN}/" in raw else None)


@pytest.mark.parametrize(
    "raw",
    [
        f"/t/{TOKEN}/../prompt",
        f"/t/{TOKEN}/./prompt",
        f"/t/{TOKEN}/a/%2e%2E/prompt",
        f"/t/{TOKEN}//prompt",
        f"/t/{TOKEN}/..",
        "/comfy/../prompt",
        "/comfy//prompt",
    ],
)
def test_a_path_that_leads_out_of_its_prefix_is_crooked(raw: str) -> None:
    _, way = strip(_url(raw), "/comfy", members=True)
    assert way.crooked


def test_tokens_in_the_query_are_taken_off_with_members_only() -> None:
    url, way = strip(_url("/ws?token=a&clientId=1&token=b"), "", members=True)
    assert (str(url), way.query_tokens) == ("/ws?clientId=1", ("a", "b"))
    url, way = strip(_url("/ws?token=a"), "", members=False)
    assert (str(url), way.query_tokens) == ("/ws?token=a", ())


def test_without_members_a_token_in_the_path_is_none() -> None:
    url, way = strip(_url(f"/t/{TOKEN}/prompt"), "", members=False)
    assert (str(url), way.path_token) == (f"/t/{TOKEN}/prompt", None)


@pytest.mark.parametrize("raw", ["/comfy", f"/t/{TOKEN}", f"/comfy/t/{TOKEN}?x=1"])
def test_a_prefix_without_its_slash_is_bare(raw: str) -> None:
    url, way = strip(_url(raw), "/comfy", members=True)
    assert url.raw_path == "/"
    assert way.bare


@pytest.mark.parametrize(
    ("written", "meant"),
    [("", ""), ("/", ""), ("comfy", "/comfy"), ("/comfy/", "/comfy"), ("/a/b.c", "/a/b.c")],
)
def test_a_base_path_is_written_as_people_like(written: str, meant: str) -> None:
    assert to_base_path(written) == meant


@pytest.mark.parametrize(
    "wrong", ["/t/", "t", "/a/../b", "/a//b", "/a b", "/ä", "/a?b", 5, "/a/./"]
)
def test_a_base_path_is_plain(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"not|tokens"):
        to_base_path(wrong)
