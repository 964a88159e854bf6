"""Assets in ComfyUI's form: queries, cursors, records, bodies and names of archives."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from multidict import MultiDict

from proxy.translate import asset_exports, asset_requests, assets
from proxy.translate.assets import Asset, AssetError, AssetFilter, CloudAsset, Cursor, Order, Sort
from proxy.translate.errors import LocalError
from proxy.translate.names import Place

HASH = "ab" * 32
JOB = "e0970000-0000-4000-8000-00000000ab12"
#: 2026-11-24T23:18:40.797379Z in µs
AT = 1795562320797379


def asset(place: str = "input/cat.png", **values: Any) -> Asset:
    type_, _, path = place.partition("/")
    made = assets.of_file("anna", "id", Place(type_, path), AT, content=(HASH, 5))
    return replace(made, **values)


def refused(error: pytest.ExceptionInfo[AssetError]) -> tuple[str, dict[str, Any]]:
    body = error.value.body()["error"]
    return body["code"], body["details"]


# --- queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ([], AssetFilter()),
        ([("tags_all", "a, b,,a"), ("tags_all", "c")], AssetFilter(all=("a", "b", "c"))),
        ([("include_tags", "a"), ("exclude_tags", "b")], AssetFilter(all=("a",), none=("b",))),
        ([("tags_any", "A,a")], AssetFilter(any=("A", "a"))),
        ([("name_contains", "x%")], AssetFilter(name_contains="x%")),
        ([("hash", f" BLAKE3:{HASH.upper()} ")], AssetFilter(hash=HASH)),
        ([("hash", "")], AssetFilter(hash="")),
    ],
)
def test_filters(query: list[tuple[str, str]], expected: AssetFilter) -> None:
    assert asset_requests.read_list(MultiDict(query)).filter == expected


@pytest.mark.parametrize("name", ["name_contains", "include_tags", "hash"])
def test_a_nul_in_a_query_is_refused(name: str) -> None:
    with pytest.raises(AssetError, match="NUL"):
        asset_requests.read_list(MultiDict([(name, "a\0b")]))


def test_a_refused_filter_says_what_is_wrong() -> None:
    for query, details in (
        ("tags_all=a&include_tags=b", {"parameters": ["tags_all", "include_tags"]}),
        (
            "tags_all=a,b&exclude_tags=b",
            {"conflicting_tags": ["b"], "parameters": ["tags_all", "exclude_tags"]},
        ),
    ):
        with pytest.raises(AssetError) as error:
            asset_requests.read_list(MultiDict(pair.split("=") for pair in query.split("&")))
        assert refused(error) == ("INVALID_TAG_FILTER", details)


@pytest.mark.parametrize(
    ("wanted", "may_be"),
    [
        (AssetFilter(), True),
        (AssetFilter(all=("models",)), True),
        (AssetFilter(any=("mine",)), True),
        (AssetFilter(any=("output", "models")), True),
        (AssetFilter(any=("output", "temp")), False),
        (AssetFilter(all=("x", "input")), False),
    ],
)
def test_which_lists_may_have_models(wanted: AssetFilter, may_be: bool) -> None:
    assert wanted.may_be_models is may_be


#: Tags of files, that of all models, and one that clients give.
TAGS = st.sampled_from(["input", "output", "temp", "models", "mine"])


@given(st.lists(TAGS, max_size=4), st.lists(TAGS, max_size=4), st.sets(TAGS))
def test_a_list_that_has_no_models_asks_for_none(
    every: list[str], some: list[str], more: set[str]
) -> None:
    model = {"models", *more} - {"input", "output", "temp"}
    if set(every) <= model and (not some or model & set(some)):
        assert AssetFilter(all=tuple(every), any=tuple(some)).may_be_models


@given(st.sets(st.sampled_from(["input", "output", "temp"]), min_size=1))
def test_a_list_of_files_has_no_models(tags: set[str]) -> None:
    assert not AssetFilter(any=tuple(tags)).may_be_models
    assert not AssetFilter(all=tuple(tags)).may_be_models


@given(
    sort=st.sampled_from([value for value in get_args(Sort) if value != "last_access_time"]),
    order=st.sampled_from(get_args(Order)),
    id_=st.text(),
    number=st.integers(0, 2**53),
    name=st.text(),
)
def test_a_cursor_is_of_its_list_alone(
    sort: Sort, order: Order, id_: str, number: int, name: str
) -> None:
    cursor = Cursor(name if sort == "name" else number, id_)
    text = assets.write_cursor(cursor, sort, order)
    assert text.isascii()
    assert "=" not in text
    if len(text) <= assets.MAX_CURSOR:
        assert assets.read_cursor(text, sort, order) == cursor
    for other in get_args(Sort):
        if other != sort:
            with pytest.raises(AssetError):
                assets.read_cursor(text, other, order)
    with pytest.raises(AssetError):
        assets.read_cursor(text, sort, "asc" if order == "desc" else "desc")


@given(st.text() | st.binary().map(lambda data: data.hex()))
def test_no_cursor_is_a_failure_of_our_own(text: str) -> None:
    with pytest.raises(AssetError) as error:
        assets.read_cursor(text, "name", "asc")
    assert error.value.type == "INVALID_CURSOR"


def test_an_error_of_another_room_gets_the_form_of_these_routes() -> None:
    made = AssetError.of(
        LocalError("upload_too_large", "Too large.", kind="too_large", extra_info={"max": 5})
    )
    assert made.kind == "too_large"
    error = {"code": "UPLOAD_TOO_LARGE", "message": "Too large.", "details": {"max": 5}}
    assert made.body() == {"error": error}
    assert AssetError.of(made) is made


# --- records -------------------------------------------------------------------------------------


def test_a_record_has_no_null() -> None:
    bare = asset("output/sub/x.bin", hash=None, size=None, media_type=None)
    assert assets.shown(bare) == {
        "id": "id",
        "name": "x.bin",
        "loader_path": "sub/x.bin",
        "display_name": "sub/x.bin",
        "tags": ["output"],
        "user_metadata": {},
        "created_at": "2026-11-24T23:18:40.797379Z",
        "updated_at": "2026-11-24T23:18:40.797379Z",
    }


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        (JOB, True),
        ("00000000-0000-0000-0000-000000000000", True),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", True),
        ("11111111-1111-1111-1111-111111111111", False),
        ("e0970000-0000-9000-8000-00000000ab12", False),
        ("e0970000-0000-4000-c000-00000000ab12", False),
        ("odd", False),
    ],
)
def test_only_ids_that_the_web_interface_reads_are_shown(job: str, shown: bool) -> None:
    record = assets.shown(asset(job=job))
    assert (record.get("job_id"), record.get("prompt_id")) == ((job, job) if shown else (None,) * 2)


@pytest.mark.parametrize(
    ("place", "values", "url"),
    [
        ("input/cat.png", {}, "/api/view?type=input&filename=cat.png"),
        ("temp/a/b.mp4", {}, "/api/view?type=temp&filename=b.mp4&subfolder=a"),
        ("output/é &.txt", {}, "/api/view?type=output&filename=%C3%A9+%26.txt"),
        ("output/x.bin", {}, None),
        ("output/x.glb", {}, None),
        ("input/cat.png", {"tags": ("input", "missing")}, None),
        ("models/loras/x.png", {"media_type": "image/png"}, None),
    ],
)
def test_what_a_browser_can_show_has_a_preview(
    place: str, values: dict[str, Any], url: str | None
) -> None:
    assert assets.shown(asset(place, **values)).get("preview_url") == url


def test_a_preview_is_shown_only_with_its_address() -> None:
    cat, film = asset(preview="other"), asset("output/x.webp", id="other")
    shown = assets.shown(cat, film)
    assert (shown["preview_id"], shown["preview_url"]) == ("other", assets.preview_url(film))
    for preview in (None, asset("output/x.bin", id="other")):
        shown = assets.shown(cat, preview)
        assert "preview_id" not in shown
        assert shown["preview_url"] == assets.preview_url(cat)


@pytest.mark.parametrize(
    ("place", "tags"),
    [
        ("input/cat.png", ["input"]),
        ("input/pasted/cat.png", ["input", "pasted"]),
        ("input/pasted/deep/cat.png", ["input"]),
        ("input/other/cat.png", ["input"]),
        ("output/pasted/cat.png", ["output"]),
        ("temp/cat.png", ["temp"]),
    ],
)
def test_a_place_gives_tags(place: str, tags: list[str]) -> None:
    made = asset(place)
    assert list(made.tags) == tags
    assert made.automatic == set(tags)


def test_a_model_is_loaded_by_its_path_below_the_folder() -> None:
    model = assets.of_model("anna", "id", "loras", "sub/x.safetensors", AT)
    shown = assets.shown(model)
    assert (shown["name"], shown["loader_path"]) == ("x.safetensors", "sub/x.safetensors")
    assert shown["display_name"] == "loras/sub/x.safetensors"
    assert shown["tags"] == ["model_type:loras", "models"]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {"hash": f"blake3:{HASH}", "size": 5, "name": "x", "output_key": "images"},
            ("images", 0, "x", HASH, 5),
        ),
        ({"asset_hash": HASH.upper(), "size": "5", "output_index": 2}, ("", 2, "", HASH, 5)),
        ({"hash": None, "size": None, "name": None}, ("", 0, "", None, None)),
        ({"hash": "sha256:5", "size": -1, "output_index": "odd"}, ("", 0, "", None, None)),
        ({"hash": 5, "size": True}, ("", 0, "", None, None)),
    ],
)
def test_what_the_cloud_tells_of_an_output(item: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert assets.of_cloud({"node_id": "9", **item}) == CloudAsset("9", *expected)
    assert assets.of_cloud({"node_id": 9, **item}) == CloudAsset("9", *expected)
    assert assets.of_cloud(item) is None


# --- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "root"),
    [
        (["input"], "input"),
        (["x", "output", "y"], "output"),
        (["temp"], None),
        ([], None),
        (["input", "output"], None),
        (["models"], None),
        (["models", "model_type:loras"], None),
    ],
)
def test_the_tags_of_an_upload_name_its_folder(tags: list[str], root: str | None) -> None:
    if root is not None:
        assert assets.destination(tags) == root
        return
    with pytest.raises(AssetError) as error:
        assets.destination(tags)
    assert error.value.type == "INVALID_BODY"


def test_tags_of_a_form_come_in_three_forms() -> None:
    new = asset_requests.read_upload({}, ['["a", " b "]', "c, d", "e", "a"])
    assert new.distinct_tags == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("filename", "stored"),
    [
        ("cat.png", f"{HASH}.png"),
        ("a/b.tar.gz", f"{HASH}.gz"),
        ("cat", HASH),
        (".hidden", HASH),
        ("x.p/ng", HASH),
        ("x." + "e" * 15, f"{HASH}.{'e' * 15}"),
        ("x." + "e" * 16, HASH),
        ("x.é", HASH),
        ("x. png", HASH),
    ],
)
def test_uploads_are_stored_by_their_hash(filename: str, stored: str) -> None:
    assert assets.stored_name(HASH, filename) == stored


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_no_body_is_a_failure_of_our_own(body: Any) -> None:
    for read in (
        asset_requests.read_changes,
        asset_requests.read_new,
        asset_requests.read_tags_body,
        asset_requests.read_export,
    ):
        with pytest.raises(AssetError) as error:
            read(body)
        json.dumps(error.value.body())


# --- archives ------------------------------------------------------------------------------------


def plan(*found: Asset, **body: Any) -> asset_exports.ExportPlan:
    ids = [asset.id for asset in found]
    request = asset_requests.read_export({"asset_ids": ids, "naming_strategy": "preserve", **body})
    return asset_exports.plan(
        request, [asset for asset in found if asset.job], {asset.id: asset for asset in found}
    )


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def test_of_two_with_one_name_the_lower_id_is_taken() -> None:
    found = [asset(id=uuid(number)) for number in (2, 1, 3)]
    made = plan(*found)
    assert {name: entry.id for name, entry in made.entries.items()} == {"cat.png": uuid(1)}
    assert [(failed.asset_id, failed.error) for failed in made.failed] == [
        (uuid(2), "filename_collision"),
        (uuid(3), "filename_collision"),
    ]
    assert made.total == 3


def test_jobs_of_one_second_have_folders_of_their_own() -> None:
    jobs = [uuid(number) for number in (8, 9)]
    found = [asset("output/x.png", id=uuid(number), job=job) for number, job in enumerate(jobs, 1)]
    made = plan(*found, naming_strategy="group_by_job_time")
    assert sorted(made.entries) == [
        "2026-11-24_23-18-40/x.png",
        "2026-11-24_23-18-40_00000000/x.png",
    ]
    assert made.timeless is False
    assert plan(asset(id=uuid(1)), naming_strategy="group_by_job_time").timeless is True


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a-B_1.zip", True), ("a.tar", False), ("../a.zip", False), ("a b.zip", False), ("", False)],
)
def test_names_of_archives(name: str, is_one: bool) -> None:
    if is_one:
        assert asset_requests.read_name(name) == name
        return
    with pytest.raises(AssetError) as error:
        asset_requests.read_name(name)
    assert error.value.type == "INVALID_EXPORT_NAME"
