"""The catalog, the settings and the user's data."""

from __future__ import annotations

import json

import pytest
from simulator.visitor import Visitor

from proxy.simulator import NodeClass, Simulator


async def test_object_info_has_real_node_classes(visitor: Visitor) -> None:
    info = (await visitor.get("/api/object_info")).json
    assert len(info) >= 40
    assert info["SaveImage"]["output_node"] is True


async def test_nodes_of_ones_own_stand_beside_them() -> None:
    async def nothing(_inputs: object, _context: object) -> None: ...

    sim = Simulator(extra_nodes=[NodeClass("Mine", nothing)])
    assert b'"Mine"' in sim.object_info


async def test_models_are_listed_by_folder(visitor: Visitor) -> None:
    folders = (await visitor.get("/api/experiment/models")).json
    assert {"name": "checkpoints", "folders": ["checkpoints"]} in folders
    models = (await visitor.get("/api/experiment/models/checkpoints")).json
    assert set(models[0]) == {"name", "pathIndex"}
    assert (await visitor.get("/api/experiment/models/nowhere")).code == "NOT_FOUND"


async def test_previews_of_models_exist_by_switch(sim: Simulator, visitor: Visitor) -> None:
    models = (await visitor.get("/api/experiment/models/checkpoints")).json
    path = f"/api/experiment/models/preview/checkpoints/0/{models[0]['name']}"
    assert (await visitor.get(path)).status == 404
    sim.switches.model_previews = True
    assert (await visitor.get(path)).headers["Content-Type"] == "image/webp"


async def test_subgraphs_have_data_only_one_by_one(visitor: Visitor) -> None:
    subgraphs = (await visitor.get("/api/global_subgraphs")).json
    (name,) = subgraphs
    assert subgraphs[name]["data"] == ""
    data = json.loads((await visitor.get(f"/api/global_subgraphs/{name}")).json["data"])
    assert data["nodes"][0]["type"] == data["definitions"]["subgraphs"][0]["id"]
    assert (await visitor.get("/api/global_subgraphs/x")).status == 404


async def test_devices_have_little(visitor: Visitor) -> None:
    stats = (await visitor.get("/api/system_stats")).json
    assert set(stats["devices"][0]) == {"name", "type"}
    assert stats["system"]["cloud_version"]


async def test_health_follows_its_switch(sim: Simulator, visitor: Visitor) -> None:
    assert (await visitor.get("/health")).body == b"OK"
    sim.switches.healthy = False
    assert (await visitor.get("/health")).status == 503


async def test_settings_are_answered_with_what_they_are_then(visitor: Visitor) -> None:
    assert (await visitor.post("/api/settings", {"a": 1})).json == {"a": 1}
    assert (await visitor.post("/api/settings/b", [2])).json == {"value": [2]}
    assert (await visitor.get("/api/settings")).json == {"a": 1, "b": [2]}
    assert (await visitor.get("/api/settings/b")).json == {"value": [2]}
    assert (await visitor.get("/api/settings/c")).status == 404
    assert (await visitor.post("/api/settings", [])).status == 400
    assert (await visitor.ask("POST", "/api/settings/b", data="{")).status == 400


async def test_userdata_is_always_objects(sim: Simulator, visitor: Visitor) -> None:
    written = await visitor.ask("POST", "/api/userdata/workflows%2Fa%2Fx.json", data=b"{}")
    assert written.json["path"] == "workflows/a/x.json"
    assert written.json["modified"] > 1e12
    await visitor.ask("POST", "/api/userdata/workflows%2Fy.json", data=b"[]")
    listed = (await visitor.get("/api/userdata", dir="workflows/", split="true")).json
    assert [(item["path"], item["size"]) for item in listed] == [("y.json", 2)]
    deep = (await visitor.get("/api/userdata", dir="workflows/", recurse="true")).json
    assert [item["path"] for item in deep] == ["a/x.json", "y.json"]
    assert (await visitor.get("/api/userdata/workflows%2Fy.json")).body == b"[]"
    sim.switches.userdata_modified = "iso"
    listed = (await visitor.get("/api/userdata", dir="workflows/")).json
    assert "T" in listed[0]["modified"]


async def test_the_folder_wants_its_slash(sim: Simulator, visitor: Visitor) -> None:
    answer = await visitor.get("/api/userdata", dir="workflows")
    assert (answer.status, answer.headers["Content-Type"]) == (400, "text/plain; charset=utf-8")
    sim.switches.userdata_dir_slash = False
    assert (await visitor.get("/api/userdata", dir="workflows")).json == []


async def test_files_are_moved_deleted_and_not_overwritten(visitor: Visitor) -> None:
    await visitor.ask("POST", "/api/userdata/a", data=b"1")
    await visitor.ask("POST", "/api/userdata/b", data=b"2")
    again = await visitor.ask("POST", "/api/userdata/a?overwrite=false", data=b"3")
    assert again.status == 409
    assert (await visitor.post("/api/userdata/a/move/b?overwrite=false")).status == 409
    assert (await visitor.post("/api/userdata/a/move/c")).json["path"] == "c"
    assert (await visitor.ask("DELETE", "/api/userdata/c")).status == 204
    assert (await visitor.ask("DELETE", "/api/userdata/c")).status == 404
    assert (await visitor.get("/api/userdata/c")).body == b"file not found"


@pytest.mark.parametrize("path", ["..%2Fx", "a%2F..%2Fx", "%2Fx"])
async def test_paths_that_lead_outside_are_refused(visitor: Visitor, path: str) -> None:
    assert (await visitor.ask("POST", f"/api/userdata/{path}", data=b"")).status == 400


async def test_users_are_always_the_same(visitor: Visitor) -> None:
    assert (await visitor.get("/api/users")).json == {"storage": "server", "migrated": True}
