"""Places, counters and prefixes, by the letters alone."""

from __future__ import annotations

import json
import posixpath
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate import names
from proxy.translate.names import Place

RECORDINGS = Path(__file__).parent.parent / "recordings"

#: The files that the recorded server had; `view_errors.json` asks for these alone with success.
RECORDED_FILES = {Place("input", "rgb.png"), Place("input", "sub/inner.png")}


def view_requests() -> list[tuple[str, int]]:
    events = json.loads((RECORDINGS / "view_errors.json").read_text())["events"]
    return [
        (event["request"]["path"], event["response"]["status"])
        for event in events
        if event["kind"] == "http"
        and event["request"]["method"] == "GET"
        and event["request"]["path"].startswith("/view?")
    ]


@pytest.mark.parametrize(("path", "status"), view_requests())
def test_view_answers_as_recorded(path: str, status: int) -> None:
    query = dict(parse_qsl(urlsplit(path).query, keep_blank_values=True))
    place = names.view_place(query.get("filename"), query.get("subfolder"), query.get("type"))
    if not isinstance(place, int):
        place = 200 if place in RECORDED_FILES else 404
    assert place == status


@pytest.mark.parametrize(
    ("written", "name", "type_"),
    [
        ("a.png", "a.png", None),
        ("a.png [input]", "a.png", "input"),
        ("a.png [output]", "a.png", "output"),
        ("a.png [temp]", "a.png", "temp"),
        ("a.png [other]", "a.png [other]", None),
        ("a.png[input]", "a.pn", "input"),
        ("[input]", "", "input"),
        ("", "", None),
    ],
)
def test_an_annotation_is_cut_with_the_letter_before_it(
    written: str, name: str, type_: str | None
) -> None:
    assert names.split_annotated(written) == (name, type_)


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (("", "a.png"), "a.png"),
        (("sub", "a.png"), "sub/a.png"),
        (("sub//./deep/", "a.png"), "sub/deep/a.png"),
        (("./sub/../sub", "a.png"), "sub/a.png"),
        (("../input", "a.png"), "a.png"),
        (("a\\b", "c.png"), "a/b/c.png"),
        (("..", "a.png"), None),
        (("../output", "a.png"), None),
        (("../../input", "a.png"), None),
        (("/etc", "passwd"), None),
        (("", "/etc/passwd"), None),
        (("", "\\\\host\\share"), None),
        (("x", "../../a.png"), None),
    ],
)
def test_paths_are_resolved_without_a_disk(parts: tuple[str, str], path: str | None) -> None:
    assert names.resolve("input", *parts) == path


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "input", "output", "/", "\\"])))
def test_a_resolved_path_never_climbs(steps: list[str]) -> None:
    path = names.resolve("input", "/".join(steps))
    if path is not None:
        assert not path.startswith("/")
        assert not {"..", ".", ""} & set(path.split("/")) or path == ""


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "input", "output"]), min_size=1))
def test_a_path_resolves_as_on_a_disk(steps: list[str]) -> None:
    written = "/".join(steps)
    base = "/\0/x/input"
    expected = None
    if not written.startswith("/"):
        full = posixpath.normpath(posixpath.join(base, written))
        if posixpath.commonpath([full, base]) == base:
            expected = posixpath.relpath(full, base).removeprefix(".")
    assert names.resolve("input", written) == expected


@given(st.text())
def test_what_is_resolved_stays_when_resolved_again(written: str) -> None:
    path = names.resolve("temp", written)
    if path:
        assert names.resolve("temp", path) == path


@pytest.mark.parametrize(
    ("filename", "number", "name"),
    [
        ("up.png", 1, "up (1).png"),
        ("a.tar.gz", 1, "a.tar (1).gz"),
        ("noext", 2, "noext (2)"),
        (".hidden.png", 1, ".hidden (1).png"),
        (".hidden", 1, ".hidden (1)"),
    ],
)
def test_taken_names_are_numbered_before_the_extension(
    filename: str, number: int, name: str
) -> None:
    assert names.numbered(filename, number) == name


@pytest.mark.parametrize(
    ("filename", "subfolder", "type_", "status"),
    [
        ("a.png", "", "input", None),
        ("a.png", "sub", "temp", None),
        (None, "", "input", 400),
        ("", "", "input", 400),
        ("../../evil.png", "", "input", 400),
        ("a.png", "../x", "input", 400),
        ("a.png", "/x", "input", 400),
        ("../a.png", "x", "input", None),
        ("a.png", "", "bogus", None),
    ],
)
def test_uploads_that_lead_outside_are_refused(
    filename: str | None, subfolder: str, type_: str, status: int | None
) -> None:
    assert names.upload_refusal(filename, subfolder, type_) == status


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("cat.png", Place("input", "cat.png")),
        ("sub/cat.png", Place("input", "sub/cat.png")),
        ("sub\\cat.png", Place("input", "sub/cat.png")),
        ("sub/cat.png [temp]", Place("temp", "sub/cat.png")),
        ("ComfyUI_00001_.png [output]", Place("output", "ComfyUI_00001_.png")),
        ("../cat.png", None),
        ("", None),
        (".", None),
    ],
)
def test_a_graph_names_files_in_many_forms(value: str, place: Place | None) -> None:
    assert names.written_place(value) == place


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("ComfyUI_00007_.png", [("ComfyUI", 7)]),
        ("a_b_00003_.png", [("a_b", 3)]),
        ("ComfyUI_00001.png", []),
        ("ComfyUI_x_.png", []),
        ("cat.png", []),
        ("a_1_00002_.png", [("a", 1), ("a_1", 2)]),
        ("a_1000000000000_.png", [("a", 10**12)]),
        ("a_1000000000001_.png", []),
        ("a_9223372036854775807_.png", []),
    ],
)
def test_a_name_uses_up_its_number_of_each_stem(
    filename: str, expected: list[tuple[str, int]]
) -> None:
    assert list(names.counters(filename)) == expected


@given(st.text(alphabet="ab_ é.0-", min_size=1), st.integers(1, 10**7))
def test_a_counted_name_uses_up_its_number(stem: str, number: int) -> None:
    assert (stem, number) in names.counters(names.counted(stem, number, "_.png"))


@given(st.from_regex(r"[a-z_ -]{1,9}[a-z]", fullmatch=True), st.integers(1, 10**7))
def test_a_counted_name_is_taken_apart_again(stem: str, number: int) -> None:
    assert names.split_counted(names.counted(stem, number, "_.png")) == (stem, "_.png")


@pytest.mark.parametrize(
    ("filename", "parts"),
    [
        ("ComfyUI_00042_.png", ("ComfyUI", "_.png")),
        ("clip_00001.mp4", ("clip", ".mp4")),
        ("clip_00001-audio.mp4", ("clip", "-audio.mp4")),
        ("ComfyUI_temp_abcde_00001_.png", ("ComfyUI_temp_abcde", "_.png")),
        ("s_20240101_00001_.png", ("s_20240101", "_.png")),
        ("cat.png", None),
        ("_00001_.png", None),
    ],
)
def test_stem_and_tail_of_an_output(filename: str, parts: tuple[str, str] | None) -> None:
    assert names.split_counted(filename) == parts


def test_tokens_of_a_prefix() -> None:
    now = time.struct_time((2026, 3, 7, 4, 5, 6, 0, 0, 0))
    prefix = "%year%-%month%-%day%/%hour%%minute%%second%_%width%x%height%_%other%"
    assert names.expand(prefix, now, width=64, height=32) == "2026-03-07/040506_64x32_%other%"


@pytest.mark.parametrize(
    ("prefix", "parts"),
    [
        ("ComfyUI", ("", "ComfyUI")),
        ("video/clip", ("video", "clip")),
        ("a//b/./c", ("a/b", "c")),
        ("sub/", ("", "sub")),
        ("../evil", ("", "evil")),
    ],
)
def test_a_prefix_may_have_a_subfolder(prefix: str, parts: tuple[str, str]) -> None:
    assert names.split_prefix(prefix) == parts


def test_the_letters_of_a_preview_belong_to_its_job() -> None:
    stem = names.temp_stem("job", "2")
    assert stem == names.temp_stem("job", "2") != names.temp_stem("job", "3")
    assert stem.startswith("ComfyUI_temp_")
    assert len(stem) == len("ComfyUI_temp_bteim")


@pytest.mark.parametrize(
    ("path", "storable"),
    [
        ("a.png", True),
        ("é" * 127, True),
        ("é" * 128, False),
        ("a/" * 2100, False),
        ("a\0b", False),
        ("\ud800.png", False),
    ],
)
def test_what_linux_stores(path: str, storable: bool) -> None:
    assert names.is_storable(path) is storable
