"""What the server says of itself, and the catalogue's routes."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from proxy.files.uploads import MAX_BYTES
from proxy.translate.errors import LocalError

Client = TestClient[Any, Any]
SUBGRAPH = {"source": "templates", "name": "X", "info": {"node_pack": "y"}}


async def test_the_stats_have_what_clients_read(client: Client) -> None:
    stats = await (await client.get("/system_stats")).json()
    assert all(type(stats["system"][key]) is int for key in ("ram_total", "ram_free"))
    assert stats["system"]["comfyui_version"] >= "0.26.0"
    (device,) = stats["devices"]
    assert (device["type"], device["index"]) == ("cuda", 0)
    assert type(device["name"]) is str
    assert all(type(device[key]) is int for key in ("vram_total", "vram_free"))


async def test_the_announced_limit_is_the_real_one(serve: Any) -> None:
    client = await serve(max_upload_bytes=1000)
    limit = (await (await client.get("/features")).json())["max_upload_size"]
    async with client.ws_connect("/ws") as socket:
        await socket.receive_json()
        await socket.send_json({"type": "feature_flags", "data": {}})
        assert (await socket.receive_json())["data"]["max_upload_size"] == limit
    for path in ("/userdata/x", "/settings/x", "/upload/image"):
        headers = {"Content-Type": "multipart/form-data; boundary=b"} if "up" in path else {}
        within = await client.post(path, data=b"1" * limit, headers=headers)
        beyond = await client.post(path, data=b"1" * (limit + 1), headers=headers)
        assert (within.status != 413, beyond.status) == (True, 413)


async def test_the_features_announce_the_limit_and_no_long_texts(serve: Any) -> None:
    client = await serve(max_upload_bytes=1000)
    features = await (await client.get("/features")).json()
    assert (features["max_upload_size"], features["supports_preview_metadata"]) == (1000, True)
    assert "supports_progress_text_metadata" not in features


async def test_no_more_is_announced_than_the_cloud_takes(serve: Any) -> None:
    client = await serve(max_upload_bytes=2 * MAX_BYTES)
    features = await (await client.get("/features")).json()
    assert features["max_upload_size"] == MAX_BYTES


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/healthz", {"status": "ok"}),
        ("/users", {"storage": "server", "migrated": True}),
        ("/i18n", {}),
        ("/workflow_templates", {}),
        ("/node_replacements", {"Old": [{"new_node_id": "New"}]}),
        ("/global_subgraphs", {"x": SUBGRAPH}),
        ("/global_subgraphs/x", {**SUBGRAPH, "data": "{}"}),
        ("/global_subgraphs/y", None),
        ("/object_info", {"LoadImage": {}}),
        ("/object_info/LoadImage", {"LoadImage": {}}),
        ("/object_info/NoSuchNode", {}),
        ("/object_info/Oracle%20x", {}),
        ("/models", ["loras"]),
        ("/models/loras", ["a.safetensors"]),
        ("/embeddings", ["bad-hands"]),
        ("/experiment/models", [{"name": "loras", "folders": ["loras"]}]),
        ("/experiment/models/loras", [{"name": "a.safetensors", "pathIndex": 0}]),
    ],
)
async def test_a_plain_answer(client: Client, path: str, answer: Any) -> None:
    response = await client.get(path)
    assert (response.status, await response.json()) == (200, answer)


@pytest.mark.parametrize(
    "path", ["/models/nope", "/experiment/models/nope", "/view_metadata/loras?filename=x"]
)
async def test_an_unknown_folder_is_404_without_a_body(client: Client, path: str) -> None:
    response = await client.get(path)
    assert (response.status, await response.read()) == (404, b"")
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("name", ["a.safetensors", "a.safetensors.webp"])
async def test_a_model_may_have_a_picture(client: Client, name: str) -> None:
    response = await client.get(f"/experiment/models/preview/loras/0/{name}")
    assert (response.status, await response.read()) == (200, b"picture")
    assert response.headers["Content-Type"] == "image/webp"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("loras/1/a.safetensors", 404),
        ("loras/-1/a.safetensors", 404),
        ("loras/x/a.safetensors", 400),
        ("loras/0/b.safetensors", 404),
        ("nope/0/a.safetensors", 404),
        ("loras/0/", 404),
    ],
)
async def test_a_picture_that_is_not_to_be_had(client: Client, path: str, status: int) -> None:
    response = await client.get(f"/experiment/models/preview/{path}")
    assert (response.status, await response.read()) == (status, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/api/etn/model_info",
        "/api/etn/model_info/checkpoints",
        "/etn/languages",
        "/vhs/queryvideo?filename=x.mp4",
        "/vhs/getpath?path=x",
        "/manager/queue/status",
        "/api/manager/version",
        "/v2/manager/queue/status",
        "/customnode/getmappings?mode=local",
        "/externalmodel/getlist",
        "/pysssss/autocomplete",
        "/api/pysssss/workflows",
        "/rgthree/api/config",
        "/easyuse/version",
        "/impact/wildcards/list",
        "/crystools/monitor",
    ],
)
async def test_node_packs_that_are_not_there_have_no_routes(client: Client, path: str) -> None:
    response = await client.get(path)
    assert (response.status, await response.read()) == (404, b"")
    posted = await client.post(path, json={})
    assert (posted.status, posted.headers["Allow"]) == (405, "GET,HEAD")


async def test_a_video_has_the_names_that_the_cloud_has_for_it(
    client: Client, room_of_files: Any
) -> None:
    room_of_files.add("clip.mp4", b"video")
    for path in ("/viewvideo", "/api/vhs/viewvideo", "/vhs/viewaudio"):
        response = await client.get(path, params={"filename": "clip.mp4", "format": "video/mp4"})
        assert (response.status, await response.read()) == (200, b"video")
        assert response.headers["Content-Type"] == "video/mp4"


async def test_the_members_files_go_into_the_catalogue(
    client: Client, room_of_files: Any, room_of_nodes: Any
) -> None:
    room_of_files.add("cat.png", type_="input")
    room_of_files.add("dog.png", type_="output")
    await client.get("/object_info")
    assert room_of_nodes.files == ["cat.png"]


async def test_a_catalogue_that_is_not_to_be_had_is_503(client: Client, room_of_nodes: Any) -> None:
    room_of_nodes.refusal = LocalError(503, "catalogue_unavailable", "Try again.")
    response = await client.get("/object_info")
    assert (response.status, (await response.json())["error"]["message"]) == (503, "Try again.")


@pytest.mark.parametrize("body", ["{}", '{"unload_models": true, "free_memory": "yes"}'])
async def test_freeing_memory_does_nothing(client: Client, body: str) -> None:
    response = await client.post("/free", data=body)
    assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize("body", ["[]", ""])
async def test_freeing_memory_wants_an_object(client: Client, body: str) -> None:
    assert (await client.post("/free", data=body)).status == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/assets"), ("POST", "/api/assets/from-hash"), ("GET", "/api/tags")],
)
async def test_assets_are_off(client: Client, method: str, path: str) -> None:
    response = await client.request(method, path)
    error = (await response.json())["error"]
    assert (response.status, error["code"], error["details"]) == (503, "SERVICE_DISABLED", {})
    assert (await client.get(path.removeprefix("/api"))).status == 404
