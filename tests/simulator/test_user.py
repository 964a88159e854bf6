"""The catalog, the settings and the user's data."""

from __future__ import annotations

from simulator.visitor import Visitor

from proxy.simulator import Simulator


async def test_previews_of_models_exist_by_switch(sim: Simulator, visitor: Visitor) -> None:
    models = (await visitor.get("/api/experiment/models/checkpoints")).json
    path = f"/api/experiment/models/preview/checkpoints/0/{models[0]['name']}"
    assert (await visitor.get(path)).status == 404
    sim.switches.model_previews = True
    assert (await visitor.get(path)).headers["Content-Type"] == "image/webp"


async def test_health_follows_its_switch(sim: Simulator, visitor: Visitor) -> None:
    assert (await visitor.get("/health")).body == b"OK"
    sim.switches.healthy = False
    assert (await visitor.get("/health")).status == 503


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
