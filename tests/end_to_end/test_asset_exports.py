"""Exports of assets, as clients begin, follow and download them; and hashes as names."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import graphs
import pytest
from stack import Client
from yarl import URL

from proxy.simulator import Simulator

NONE = "11111111-2222-4333-8444-555555555555"


class Exports:
    """A client that exports."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.jobs: list[str] = []

    async def run(self, color: int, prefix: str) -> str:
        """A job with one output and one preview; its id."""
        graph = graphs.plain(color, prefix=prefix)
        graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
        async with self.client.listening() as listener:
            prompt_id = await self.client.submit(graph)
            await listener.until_end(prompt_id)
        self.jobs.append(prompt_id)
        return prompt_id

    async def ids(self, **query: str) -> list[str]:
        _, page = await self.client.get("api/assets", sort="created_at", order="asc", **query)
        return [asset["id"] for asset in page["assets"]]

    async def export(self, **body: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """An export to its end: the task, and what the socket told of it."""
        async with self.client.listening() as listener:
            status, begun = await self.client.post("api/assets/export", body)
            assert (status, begun["status"]) == (202, "created")
            while True:
                messages = await listener.until("asset_export", task_id=begun["task_id"])
                if messages["status"] != "running":
                    break
            _, task = await self.client.get(f"api/tasks/{begun['task_id']}")
            assert task["id"] == begun["task_id"]
            return task, listener.of("asset_export")

    async def names(self, task: dict[str, Any]) -> list[str]:
        return sorted((await self.archive(task)).namelist())

    async def archive(self, task: dict[str, Any]) -> zipfile.ZipFile:
        """Download what a task has made; the announced sizes are checked."""
        result = task["result"]
        _, where = await self.client.get(f"api/assets/exports/{result['export_name']}")
        url = self.client.url.join(URL(where["url"]))
        async with self.client.session.get(url) as answer:
            body = await answer.read()
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "application/zip"
        assert len(body) == result["export_size"] == int(answer.headers["Content-Length"])
        archive = zipfile.ZipFile(io.BytesIO(body))
        assert archive.testzip() is None
        assert sum(entry.file_size for entry in archive.infolist()) == result["uncompressed_size"]
        return archive


@pytest.fixture
async def exports(client: Client) -> Exports:
    made = Exports(client)
    await made.run(0x010203, "sub/a")
    await made.run(0x040506, "b")
    return made


async def test_an_export_of_jobs(exports: Exports) -> None:
    first, second = exports.jobs
    task, messages = await exports.export(job_ids=exports.jobs, naming_strategy="group_by_job_id")
    assert [message["status"] for message in messages[:-1]] == ["running"] * (len(messages) - 1)
    assert messages[0]["progress"] == 0
    last = messages[-1]
    assert (last["status"], last["progress"], last["assets_failed"]) == ("completed", 1, 0)
    assert [message for message in messages[:-1] if "export_name" in message] == []
    assert last["export_name"] == task["result"]["export_name"]
    assert re.fullmatch(r"comfy-export-\d{4}-\d\d-\d\d-[0-9a-f]{8}\.zip", last["export_name"])
    assert (task["status"], task["task_name"]) == ("completed", "task:export")
    assert task["payload"]["job_ids"] == exports.jobs
    assert {"create_time", "update_time", "started_at", "completed_at"} <= set(task)
    assert task["create_time"].endswith("Z")
    result = task["result"]
    assert (result["success"], result["assets_total"], result["assets_succeeded"]) == (True, 2, 2)
    archive = await exports.archive(task)
    names = [f"{first}/sub/a_00001_.png", f"{second}/b_00001_.png"]
    assert sorted(archive.namelist()) == sorted(names)
    (item,) = (await exports.client.history(first))["outputs"]["2"]["images"]
    assert archive.read(names[0]) == await exports.client.view(item)


async def test_names_in_archives(exports: Exports) -> None:
    first, second = exports.jobs
    ids = await exports.ids(tags_any="output")
    time = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_[0-9a-f]{8})?"
    temporary = r"ComfyUI_temp_\w+_\.png"
    for body, patterns in (
        ({"job_ids": [first]}, [rf"{time}/sub/a_00001_\.png"]),
        ({"job_ids": [first], "naming_strategy": "preserve"}, [r"sub/a_00001_\.png"]),
        ({"job_ids": [first], "naming_strategy": "asset_id"}, [rf"{ids[0]}\.png"]),
        ({"asset_ids": ids, "naming_strategy": "preserve"}, [r"b_00001_\.png", r"sub/a_.*"]),
        (
            {"job_ids": [first], "include_previews": True},
            [rf"{time}/previews/{temporary}", rf"{time}/sub/a_00001_\.png"],
        ),
        (
            {"job_ids": [first], "include_previews": True, "naming_strategy": "preserve"},
            [temporary, r"sub/a_00001_\.png"],
        ),
        (
            {
                "job_ids": [first, second],
                "naming_strategy": "preserve",
                "job_asset_name_filters": {first: ["a_00001_.png"], second: ["nothing"]},
            },
            [r"sub/a_00001_\.png"],
        ),
    ):
        task, _ = await exports.export(**body)
        names = await exports.names(task)
        assert len(names) == len(patterns), body
        for name, pattern in zip(names, patterns, strict=True):
            assert re.fullmatch(pattern, name), (name, pattern)


async def test_what_cannot_be_exported(exports: Exports) -> None:
    _, page = await exports.client.get("api/assets", include_tags="models", limit="1")
    model = page["assets"][0]["id"]
    (id_, *_) = await exports.ids(tags_any="output")
    task, messages = await exports.export(asset_ids=[id_, NONE, model], naming_strategy="preserve")
    failed = {asset["asset_id"]: asset["error"] for asset in task["result"]["failed_assets"]}
    assert failed == {NONE: "not_found", model: "model_not_exportable"}
    assert (messages[-1]["assets_total"], messages[-1]["assets_failed"]) == (3, 2)
    assert task["result"]["success"] is True
    task, messages = await exports.export(asset_ids=[NONE])
    assert task["status"] == "completed"
    assert (task["result"]["success"], messages[-1]["status"]) == (False, "failed")
    assert "export_name" not in task["result"]


async def test_the_lower_id_keeps_a_name(exports: Exports) -> None:
    (id_, *_) = await exports.ids(tags_any="output")
    _, record = await exports.client.get(f"api/assets/{id_}")
    status, other = await exports.client.post("api/assets/from-hash", {"hash": record["hash"]})
    assert status == 201
    task, _ = await exports.export(asset_ids=[id_, other["id"]], naming_strategy="preserve")
    (failed,) = task["result"]["failed_assets"]
    assert (failed["asset_id"], failed["error"]) == (max(id_, other["id"]), "filename_collision")


async def test_the_same_request_joins_the_task_that_runs(
    simulator: Simulator, exports: Exports
) -> None:
    body = {"job_ids": exports.jobs}
    _, first = await exports.client.post("api/assets/export", body)
    _, second = await exports.client.post("api/assets/export", body)
    _, task = await exports.client.get(f"api/tasks/{first['task_id']}")
    assert second["task_id"] == first["task_id"] or task["status"] == "completed"
    task, _ = await exports.export(**body)
    again, _ = await exports.export(**body)
    assert again["id"] != task["id"]
    assert again["idempotency_key"] == task["idempotency_key"]


async def test_refused_exports(client: Client) -> None:
    for body, code in (
        ({}, "INVALID_REQUEST"),
        ([1], "INVALID_REQUEST"),
        ({"job_ids": ["odd"]}, "INVALID_REQUEST"),
        ({"job_ids": "odd"}, "INVALID_REQUEST"),
        ({"job_ids": [NONE] * 501}, "INVALID_REQUEST"),
        ({"job_ids": ["\ud800"]}, "INVALID_REQUEST"),
        ({"job_asset_name_filters": {"\ud800": ["x"]}}, "INVALID_REQUEST"),
        ({"asset_ids": [NONE], "naming_strategy": "random"}, "INVALID_NAMING_STRATEGY"),
    ):
        status, answer = await client.post("api/assets/export", body)
        assert (status, answer["error"]["code"]) == (400, code), body
    for path, status, code in (
        (f"api/tasks/{NONE}", 404, "TASK_NOT_FOUND"),
        ("api/tasks/odd", 404, "TASK_NOT_FOUND"),
        ("api/assets/exports/none.zip", 404, "EXPORT_NOT_FOUND"),
        ("api/assets/exports/a b.zip", 400, "INVALID_EXPORT_NAME"),
        ("api/assets/exports/a.tar", 400, "INVALID_EXPORT_NAME"),
    ):
        got, answer = await client.get(path)
        assert (got, answer["error"]["code"]) == (status, code), path
    query = {"filename": "none.zip", "type": "temp", "subfolder": "exports"}
    assert (await client.get("view", **query))[0] == 404


async def test_a_hash_is_a_name_in_a_graph(exports: Exports) -> None:
    client = exports.client
    _, page = await client.get("api/assets", tags_any="output", name_contains="b_")
    hash_ = page["assets"][0]["hash"]
    for written in (f"{hash_} [output]", hash_):
        entry = await client.run(graphs.inverted(written))
        assert entry["status"]["status_str"] == "success"
        shown = await client.view(entry["outputs"]["4"]["images"][0])
        assert shown != await client.view({"filename": hash_})


async def test_a_task_that_has_ended_cannot_be_cancelled(exports: Exports) -> None:
    task, _ = await exports.export(job_ids=exports.jobs)
    url = exports.client.url / f"api/tasks/{task['id']}"
    async with exports.client.session.delete(url) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (
            409,
            "TASK_NOT_CANCELLABLE",
        )
    assert (await exports.client.get(f"api/tasks/{task['id']}"))[1]["status"] == "completed"
    missing = exports.client.url / "api/tasks/11111111-2222-4333-8444-555555555555"
    async with exports.client.session.delete(missing) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "TASK_NOT_FOUND")
