"""Names of what jobs leave behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from files.conftest import OpenFiles
from files.helpers import BLUE, RED, MemoryCloud, bytes_of, item, record_of, upload
from hypothesis import given
from hypothesis import strategies as st
from stopped_clock import stopped

from proxy.files.given_names import GivenName, known_names, matching_names
from proxy.files.naming import MAX_NAMED
from proxy.files.service import Files
from proxy.storage.database import StorageError
from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileUnit
from proxy.translate.names import Place
from proxy.translate.output_files import OutputItem, OutputNode


def save(prefix: Any = "ComfyUI", class_type: str = "SaveImage") -> dict[str, Any]:
    return {"class_type": class_type, "inputs": {"images": ["1", 0], "filename_prefix": prefix}}


PREVIEW = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}


async def localised(
    files: Files, output: dict[str, Any], node: Any, job: str = "job", member: str = "local"
) -> dict[str, Any]:
    return await files.outputs.localise(OutputNode(member, job, "9", node, "default"), output)


async def names(
    files: Files, output: dict[str, Any], *, node: Any = None, **more: Any
) -> list[str]:
    """The local paths under `images`."""
    local = await localised(files, output, save() if node is None else node, **more)
    return [
        f"{image['subfolder']}/{image['filename']}".lstrip("/") for image in local.get("images", [])
    ]


def without_ids(local: dict[str, Any]) -> dict[str, Any]:
    """The items without the ids of their assets."""
    for items in local.values():
        for each in items if isinstance(items, list) else ():
            if isinstance(each, dict):
                each.pop("id", None), each.pop("preview_id", None)
    return local


async def test_outputs_are_counted_by_their_prefix(files: Files, cloud: MemoryCloud) -> None:
    red, blue = cloud.add(RED), cloud.add(BLUE)
    assert await names(files, {"images": [item(red), item(blue)]}) == [
        "ComfyUI_00001_.png",
        "ComfyUI_00002_.png",
    ]
    assert await names(files, {"images": [item(red)]}, job="two", node=save("cat")) == [
        "cat_00001_.png"
    ]
    assert await names(files, {"images": [item(red)]}, job="three") == ["ComfyUI_00003_.png"]


async def test_identical_pictures_of_two_jobs_have_two_names_and_one_content(
    files: Files, cloud: MemoryCloud
) -> None:
    red = cloud.add(RED)
    first = await names(files, {"images": [item(red)]})
    second = await names(files, {"images": [item(red)]}, job="two")
    assert first != second
    for name in (*first, *second):
        assert await bytes_of(files, await record_of(files, name, "output")) == RED
    assert len(cloud.fetched) == 1


async def test_identical_pictures_of_a_batch_have_a_name_each(
    files: Files, cloud: MemoryCloud
) -> None:
    red = cloud.add(RED)
    assert await names(files, {"images": [item(red)] * 3}) == [
        f"ComfyUI_0000{number}_.png" for number in (1, 2, 3)
    ]


async def test_identical_pictures_keep_their_names_when_only_some_are_reported_again(
    open_files: OpenFiles, cloud: MemoryCloud
) -> None:
    red = item(cloud.add(RED))
    output = {"images": [red, red], "gifs": [red]}
    first = await localised(await open_files(), output, save())
    for part in ({"images": [red]}, {"gifs": [red]}, output):
        again = await localised(await open_files(), part, save())  # after a restart
        assert again == {key: first[key][: len(files)] for key, files in part.items()}


async def test_asking_again_changes_nothing_though_the_proxy_restarts(
    open_files: OpenFiles, cloud: MemoryCloud
) -> None:
    output = {"images": [item(cloud.add(RED)), item(cloud.add(BLUE))]}
    files = await open_files()
    first = await names(files, output)
    assert await names(files, output) == first
    files = await open_files()
    assert await names(files, output) == first
    assert await names(files, output, job="two") == ["ComfyUI_00003_.png", "ComfyUI_00004_.png"]


async def test_askers_at_once_get_the_same_names(files: Files, cloud: MemoryCloud) -> None:
    output = {"images": [item(cloud.add(RED)), item(cloud.add(BLUE))]}
    answers = await asyncio.gather(*(names(files, output) for _ in range(10)))
    assert answers == [["ComfyUI_00001_.png", "ComfyUI_00002_.png"]] * 10


async def test_a_display_name_tells_the_prefix_and_not_the_number(
    files: Files, cloud: MemoryCloud
) -> None:
    shown = {"display_name": "cat_00042_.png"}
    assert await names(files, {"images": [item(cloud.add(RED), **shown)]}) == ["cat_00001_.png"]


async def test_the_name_given_at_the_event_stays_at_the_detail(
    files: Files, cloud: MemoryCloud
) -> None:
    red, blue = cloud.add(RED), cloud.add(BLUE)
    event = {"images": [item(red), item(blue)]}
    detail = {
        "images": [
            item(red, display_name="Other_00001_.png"),
            item(blue, display_name="Other_00002_.png"),
        ]
    }
    assert await names(files, event) == await names(files, detail)


async def test_the_order_of_the_detail_does_not_matter(files: Files, cloud: MemoryCloud) -> None:
    red, blue = item(cloud.add(RED)), item(cloud.add(BLUE))
    first = await names(files, {"images": [red, blue]})
    assert await names(files, {"images": [blue, red]}) == first[::-1]


async def test_an_event_with_human_names_gets_its_contents_from_the_detail(
    files: Files, cloud: MemoryCloud
) -> None:
    red = cloud.add(RED)
    event = {"images": [item("cat_00007_.png")]}
    detail = {"images": [item(red, display_name="cat_00007_.png")]}
    assert await names(files, event) == ["cat_00001_.png"]
    assert await names(files, detail) == ["cat_00001_.png"]
    assert await bytes_of(files, await record_of(files, "cat_00001_.png", "output")) == RED
    assert await names(files, event) == ["cat_00001_.png"]
    assert await bytes_of(files, await record_of(files, "cat_00001_.png", "output")) == RED


async def test_more_files_at_the_detail_get_names_of_their_own(
    files: Files, cloud: MemoryCloud
) -> None:
    red, blue = item(cloud.add(RED)), item(cloud.add(BLUE))
    assert await names(files, {"images": [red]}) == ["ComfyUI_00001_.png"]
    assert await names(files, {"images": [blue, red]}) == [
        "ComfyUI_00002_.png",
        "ComfyUI_00001_.png",
    ]


async def test_another_picture_under_a_used_job_id_gets_another_name(
    files: Files, cloud: MemoryCloud
) -> None:
    first = await names(files, {"images": [item(cloud.add(RED))]})
    second = await names(files, {"images": [item(cloud.add(BLUE))]})
    assert first + second == ["ComfyUI_00001_.png", "ComfyUI_00002_.png"]


async def test_previews_are_temporary_whatever_the_cloud_calls_them(
    files: Files, cloud: MemoryCloud
) -> None:
    output = {"images": [item(cloud.add(RED)), item(cloud.add(BLUE), type="temp")]}
    local = await localised(files, output, PREVIEW)
    first, second = local["images"]
    assert (first["type"], second["type"]) == ("temp", "temp")
    stem, number = first["filename"].split("_00001_")
    assert number == ".png"
    assert stem.startswith("ComfyUI_temp_")
    assert second["filename"] == f"{stem}_00002_.png"


@pytest.mark.parametrize(
    ("prefix", "more", "path"),
    [
        ("video/clip", {}, "video/clip_00001_.png"),
        ("a//b/./c", {}, "a/b/c_00001_.png"),
        ("x", {"subfolder": "kept"}, "kept/x_00001_.png"),
        ("x", {"display_name": "shown/y_00009_.png"}, "shown/y_00001_.png"),
        ("x", {"display_name": "plain.png"}, "plain.png"),
        ("x", {"subfolder": "../.."}, "x_00001_.png"),
        ("../../evil", {}, "evil_00001_.png"),
        ("n_%batch_num%", {}, "n_0_00001_.png"),
        (["3", 0], {}, "ComfyUI_00001_.png"),
        ("x" * 300, {}, "ComfyUI_00001_.png"),
        ("\ud800", {}, "ComfyUI_00001_.png"),
    ],
)
async def test_where_a_name_comes_from(
    files: Files, cloud: MemoryCloud, prefix: Any, more: dict[str, Any], path: str
) -> None:
    output = {"images": [item(cloud.add(RED), **more)]}
    assert await names(files, output, node=save(prefix)) == [path]
    assert await bytes_of(files, await record_of(files, path, "output")) == RED


async def test_display_names_without_a_counter_are_numbered_when_taken(
    files: Files, cloud: MemoryCloud
) -> None:
    output = {"images": [item(cloud.add(RED), display_name="plain.png")]}
    assert await names(files, output) == ["plain.png"]
    assert await names(files, output, job="two") == ["plain (1).png"]


@pytest.mark.parametrize("shown", [{}, {"display_name": "cat.png"}], ids=["counted", "numbered"])
async def test_names_of_many_files_take_short_units_and_few_looks(
    files: Files, monkeypatch: pytest.MonkeyPatch, shown: dict[str, Any]
) -> None:
    looks, written, is_taken, put = 0, list[int](), FileUnit.is_taken, FileUnit.put

    def counted(unit: FileUnit, member: str, place: Place) -> bool:
        nonlocal looks
        looks += 1
        return is_taken(unit, member, place)

    def noted(unit: FileUnit, records: Sequence[FileRecord]) -> None:
        written.append(len(records))
        put(unit, records)

    monkeypatch.setattr(FileUnit, "is_taken", counted)
    monkeypatch.setattr(FileUnit, "put", noted)
    output = {"images": [item(f"{number:064x}.png", **shown) for number in range(200)]}
    given = [await names(files, output, job=job) for job in ("one", "two", "three")]
    assert len({*given[0], *given[1], *given[2]}) == 600
    assert await names(files, output, job="one") == given[0]
    assert max(written) <= MAX_NAMED
    assert looks <= 700


async def test_an_interrupted_naming_goes_on_where_it_was(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_given, units = FileUnit.put_given, 0

    def fail_once(unit: FileUnit, *about: Any) -> None:
        nonlocal units
        units += 1
        if units == 2:
            raise StorageError("away")
        put_given(unit, *about)

    monkeypatch.setattr(FileUnit, "put_given", fail_once)
    output = {"images": [item(f"{number:064x}.png") for number in range(150)]}
    with pytest.raises(StorageError):
        await names(files, output)
    assert await names(files, output) == [f"ComfyUI_{number:05}_.png" for number in range(1, 151)]


async def test_tokens_of_the_prefix(
    open_files: OpenFiles, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    stopped(monkeypatch, 1.0)
    files = await open_files()
    output = {"images": [item(cloud.add(RED))]}
    node = save("%year%-%month%/%width%x%height%")
    assert await names(files, output, node=node) == ["1970-01/8x6_00001_.png"]


async def test_a_size_that_cannot_be_known_is_0(files: Files) -> None:
    output = {"images": [item("missing.png")]}
    assert await names(files, output, node=save("%width%")) == ["0_00001_.png"]


async def test_a_counter_goes_on_after_uploads_to_the_output_folder(
    files: Files, cloud: MemoryCloud
) -> None:
    await upload(files, BLUE, "ComfyUI_00041_.png", type="output")
    assert await names(files, {"images": [item(cloud.add(RED))]}) == ["ComfyUI_00042_.png"]


@pytest.mark.parametrize("number", [10**12 + 1, 2**63 - 1, 10**200])
async def test_a_number_that_is_too_large_does_not_count(
    files: Files, cloud: MemoryCloud, number: int
) -> None:
    await upload(files, BLUE, f"N_{number}_.png", type="output")
    output = {"images": [item(cloud.add(RED)), item(cloud.add(BLUE))]}
    assert await names(files, output, node=save("N")) == ["N_00001_.png", "N_00002_.png"]


async def test_a_counter_at_its_end_goes_on_below_it(files: Files, cloud: MemoryCloud) -> None:
    await upload(files, BLUE, "N_999999999999_.png", type="output")
    output = {"images": [item(cloud.add(RED))]}
    given = [*await names(files, output, node=save("N"), job="0")]
    given += [*await names(files, output, node=save("N"), job="1")]
    assert [*given, *await names(files, output, node=save("N"), job="2")] == [
        "N_1000000000000_.png",
        "N_1000000000000_00001_.png",
        "N_1000000000000_00002_.png",
    ]


async def test_members_count_for_themselves(files: Files, cloud: MemoryCloud) -> None:
    output = {"images": [item(cloud.add(RED))]}
    assert await names(files, output, member="ann") == ["ComfyUI_00001_.png"]
    assert await names(files, output, member="bob") == ["ComfyUI_00001_.png"]
    assert await files.find("cid", "output", "", "ComfyUI_00001_.png") is None


async def test_videos_sounds_and_texts(files: Files, cloud: MemoryCloud) -> None:
    video, sound = cloud.add(b"video", ".mp4"), cloud.add(b"sound", ".flac")
    node = save("video/ComfyUI", "SaveVideo")
    local = without_ids(await localised(files, {"video": [item(video)]}, node))
    assert local == {
        "images": [{"filename": "ComfyUI_00001_.mp4", "subfolder": "video", "type": "output"}],
        "animated": [True],
    }
    node = save("audio/ComfyUI", "SaveAudio")
    output = {"audio": [item(sound)], "text": ["a", "b"], "count": 3}
    local = without_ids(await localised(files, output, node, "two"))
    assert local == {
        "audio": [{"filename": "ComfyUI_00001_.flac", "subfolder": "audio", "type": "output"}],
        "text": ["a", "b"],
        "count": 3,
    }


async def test_gifs_are_named_as_their_node_pack_does(files: Files, cloud: MemoryCloud) -> None:
    video = cloud.add(b"video", ".mp4")
    output = {"gifs": [item(video, format="video/h264-mp4", workflow="w.png")]}
    for number in (1, 2):
        local = without_ids(await localised(files, output, save("AD"), f"job {number}"))
        assert local["gifs"] == [
            {
                "filename": f"AD_0000{number}.mp4",
                "subfolder": "",
                "type": "output",
                "format": "video/h264-mp4",
                "workflow": "w.png",
            }
        ]


async def test_an_output_without_files_passes(files: Files) -> None:
    assert await localised(files, {"text": ["x"]}, None) == {"text": ["x"]}


async def test_a_node_that_shows_an_upload_shows_its_name(files: Files) -> None:
    await upload(files, RED, subfolder="sub")
    name = (await record_of(files, "sub/cat.png")).cloud_name
    output = {"images": [item(name, type="input")], "result": [name]}
    local = without_ids(await localised(files, output, PREVIEW))
    assert local == {
        "images": [{"filename": "cat.png", "subfolder": "sub", "type": "input"}],
        "result": ["sub/cat.png"],
    }
    assert list(await files.namespace.listing("local", "temp")) == []


async def test_what_the_cloud_was_given_is_not_changed(files: Files, cloud: MemoryCloud) -> None:
    output = {"images": [item(cloud.add(RED))]}
    await names(files, output)
    assert output == {"images": [item(cloud.add(RED))]}


async def test_outputs_are_fetched_ahead_by_their_kind(
    open_files: OpenFiles, cloud: MemoryCloud
) -> None:
    red, sound = cloud.add(RED), cloud.add(b"sound", ".flac")
    output = {"images": [item(red)], "audio": [item(sound)]}
    for prefetch, fetched in (("off", set()), ("images", {red}), ("all", {red, sound})):
        cloud.fetched.clear()
        files = await open_files(prefetch=prefetch, cache_bytes=0)
        await localised(files, output, save(), prefetch)
        await files.library._downloads.finish()
        assert set(cloud.fetched) == fetched


async def test_a_name_that_cannot_be_stored_is_not_given(
    files: Files, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = {"images": [item(cloud.add(RED))]}

    async def full(*_: object, **__: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("proxy.storage.files.FileRepository.write", full)
        with pytest.raises(StorageError):
            await names(files, output)
    assert list(await files.namespace.listing("local", "output")) == []
    assert await names(files, output) == ["ComfyUI_00001_.png"]


async def test_a_human_name_of_the_cloud_is_not_replaced_in_texts(files: Files) -> None:
    await names(files, {"images": [item("cat_00007_.png")]})
    output = {"text": ["cat_00007_.png"]}
    assert await localised(files, output, None, "two") == output


CLOUD_NAMES = ["a.png", "b.png", f"{'1' * 64}.png", f"{'2' * 64}.png"]


@given(
    st.lists(st.sampled_from(CLOUD_NAMES), max_size=5),
    st.lists(st.sampled_from(CLOUD_NAMES), max_size=5),
)
def test_what_is_reported_again_has_the_names_that_matching_finds(
    reported: list[str], again: list[str]
) -> None:
    before = [
        GivenName("images", index, name, "output", f"{index}.png", f"id {index}")
        for index, name in enumerate(reported)
    ]
    items = [OutputItem("images", index, name, {}) for index, name in enumerate(again)]
    known = known_names(items, before)
    assert (known is None) == (again != reported[: len(again)])
    if known is not None:
        matched = matching_names(items, before)
        assert known == matched
