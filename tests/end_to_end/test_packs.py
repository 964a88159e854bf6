"""Nodes that clients bring along, from the client's call to its picture."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from aiohttp import web
from catalog_graphs import FILE, good_graphs
from hypothesis import Phase, given, settings
from PIL import Image
from stack import Client, Proxy, running_proxy
from team import bearer, running_team
from yarl import URL

from proxy.packs import store
from proxy.packs.discovery import PACK_NODES
from proxy.packs.remote import NotFetchedError, RemoteFiles
from proxy.simulator import Simulator, Switches
from proxy.simulator.nodes import NodeClass
from proxy.simulator.nodes.node_class import Context, Output

RED = graphs.png((200, 10, 20))


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def carried(id_: str = "picture") -> dict[str, Any]:
    """A picture by its id, handed back."""
    return {
        "1": node("ETN_LoadImageCache", id=id_),
        "2": node("ETN_SaveImageCache", images=["1", 0], format="PNG"),
    }


async def put(
    session: aiohttp.ClientSession, url: URL, id_: str, data: bytes, token: str = ""
) -> tuple[int, Any]:
    headers = {"Content-Type": "application/octet-stream", **(bearer(token) if token else {})}
    async with session.put(url / "api/etn/image" / id_, data=data, headers=headers) as answer:
        return answer.status, await answer.json()


async def got(
    session: aiohttp.ClientSession, url: URL, id_: str, token: str = ""
) -> tuple[int, bytes]:
    headers = bearer(token) if token else {}
    async with session.get(url / "api/etn/image" / id_, headers=headers) as answer:
        return answer.status, await answer.read()


def result_of(entry: dict[str, Any], node_id: str = "2") -> str:
    ((image,),) = [entry["outputs"][node_id]["images"]]
    return str(image["id"])


def pixels(data: bytes) -> tuple[str, tuple[int, int], bytes]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.mode, picture.size, picture.tobytes()


async def test_pictures_and_results_are_of_one_member(simulator: Simulator, tmp_path: Path) -> None:
    async with running_team(simulator, tmp_path) as team:
        ann = aiohttp.ClientSession(headers=bearer(team.ann))
        async with ann, aiohttp.ClientSession(headers=bearer(team.bob)) as bob:
            assert (await put(ann, team.url, "picture", RED))[0] == 201
            assert (await got(bob, team.url, "picture"))[0] == 404
            entry = await Client(ann, team.url).run(carried())
            assert pixels((await got(ann, team.url, result_of(entry)))[1]) == pixels(RED)
            assert (await got(bob, team.url, result_of(entry)))[0] == 404
            refused = await Client(bob, team.url).run(carried())
            (messages,) = [
                about
                for type_, about in refused["status"]["messages"]
                if type_ == "execution_error"
            ]
            assert messages["exception_message"] == "Image with ID picture not found in cache.\n"
            assert (await put(bob, team.url, "picture", graphs.png((1, 1, 1))))[0] == 201
            assert (await got(ann, team.url, "picture"))[1] == RED


async def test_a_browser_runs_nothing_that_was_put_as_a_picture(
    proxy: Proxy, session: aiohttp.ClientSession
) -> None:
    page = b"<script>fetch('/proxy/api/members')</script>"
    for id_, type_ in (("page", "text/html"), ("list", "image/png,text/html"), ("none", "")):
        url = proxy.url / "api/etn/image" / id_
        async with session.put(url, data=page, headers={"Content-Type": type_}) as answer:
            assert answer.status == 201
        for method in ("GET", "HEAD"):
            async with session.request(method, url) as answer:
                assert answer.headers["Content-Type"] == "application/octet-stream"
                assert answer.headers["Content-Disposition"] == "attachment"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Content-Security-Policy"].startswith("sandbox;")
                assert await answer.read() == (page if method == "GET" else b"")


async def test_pictures_and_results_survive_a_restart(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        await put(session, proxy.url, "picture", RED)
        entry = await Client(session, proxy.url).run(carried())
    async with running_proxy(simulator, tmp_path) as proxy:
        assert await got(session, proxy.url, "picture") == (200, RED)
        assert pixels((await got(session, proxy.url, result_of(entry)))[1]) == pixels(RED)
        again = await Client(session, proxy.url).run(carried())
        assert result_of(again) == result_of(entry)


async def test_a_job_that_waits_over_a_restart_runs_with_its_picture(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    waits = {**graphs.waiting(60.0)}
    async with running_proxy(simulator, tmp_path, slots=1) as proxy:
        client = Client(session, proxy.url)
        await put(session, proxy.url, "picture", RED)
        first = await client.submit(waits)
        prompt_id = await client.submit(carried())
        (waiting,) = (await client.get("queue"))[1]["queue_pending"]
        assert (waiting[1], waiting[2]) == (prompt_id, carried())
    async with running_proxy(simulator, tmp_path, slots=1) as proxy:
        client = Client(session, proxy.url, client.client_id)
        async with client.listening() as listener:
            await client.post("interrupt", {"prompt_id": first})
            await listener.until_end(prompt_id)
        entry = await client.history(prompt_id)
        assert pixels((await got(session, proxy.url, result_of(entry)))[1]) == pixels(RED)
        assert entry["prompt"][2] == carried()


async def test_a_picture_that_is_too_large_or_too_much_is_413_in_the_packs_words(
    proxy: Proxy, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_MEMBER_BYTES", 2 * len(RED))
    assert (await put(session, proxy.url, "a", RED))[0] == 201
    assert (await put(session, proxy.url, "b", RED))[0] == 201
    status, answer = await put(session, proxy.url, "c", RED)
    assert (status, answer.keys()) == (413, {"error"})
    assert "pictures" in answer["error"]
    assert (await put(session, proxy.url, "a", RED))[0] == 200


async def test_what_fails_before_the_run_is_reported_without_a_job_on_the_cloud(
    simulator: Simulator, client: Client
) -> None:
    async with client.listening() as listener:
        prompt_id = await client.submit(carried("nobody"))
        await listener.until_end(prompt_id)
    (error,) = listener.of("execution_error")
    assert (error["node_id"], error["node_type"]) == ("1", "ETN_LoadImageCache")
    assert error["exception_message"] == "Image with ID nobody not found in cache.\n"
    assert simulator.calls["POST /api/prompt"] == 0
    types = [type_ for type_ in listener.types() if type_ != "progress_state"]
    assert types == [
        "execution_start",
        "execution_cached",
        "executing",
        "execution_error",
        "executing",
    ]
    entry = await client.history(prompt_id)
    assert entry["status"]["status_str"] == "error"


async def test_a_class_that_computes_is_refused_by_its_name(client: Client) -> None:
    graph = {**carried(), "3": node("ETN_TileLayout", image=["1", 0])}
    status, answer = await client.post("prompt", {"prompt": graph})
    assert (status, answer["error"]["type"]) == (400, "missing_node_type")
    assert answer["error"]["extra_info"]["class_type"] == "ETN_TileLayout"


async def test_frames_without_a_client_go_to_the_members_own_sockets_alone(
    simulator: Simulator, tmp_path: Path
) -> None:
    graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "2": node("ETN_SendImageWebSocket", images=["1", 0], format="PNG"),
    }
    async with (
        running_team(simulator, tmp_path) as team,
        aiohttp.ClientSession(headers=bearer(team.ann)) as ann,
        aiohttp.ClientSession(headers=bearer(team.bob)) as bob,
    ):
        anns, bobs = Client(ann, team.url), Client(bob, team.url)
        async with anns.listening() as mine, bobs.listening() as others:
            status, answer = await anns.post("prompt", {"prompt": graph})
            assert status == 200, answer
            type_, data = "", b""
            while type_ != "binary":
                type_, data = await mine.next()
            assert data.startswith(bytes((0, 0, 0, 1, 0, 0, 0, 2)) + b"\x89PNG")
            await bobs.submit(graphs.plain(3))
            await others.until("execution_success")
            assert not others.of("binary")


async def test_a_png_preview_comes_as_jpeg_in_its_order(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async def show(_inputs: dict[str, Any], context: Context) -> Output:
        context.picture(RED, "image/png")
        context.text("one")
        context.picture(graphs.png(size=2100), "image/png")  # left out: it has too many pixels
        context.text("two")
        context.picture(RED, "image/png")
        context.text("three")
        return Output(ui={"text": ["shown"]})

    graph = carried() | {"3": node("TestPreviews")}
    shown = NodeClass("TestPreviews", show, output_node=True)
    async with (
        Simulator(extra_nodes=[shown]) as simulator,
        running_proxy(simulator, tmp_path / "data") as proxy,
    ):
        client = Client(session, proxy.url)
        await put(session, proxy.url, "picture", RED)
        async with client.listening() as listener:
            prompt_id = await client.submit(graph, extra_data={"preview_method": "auto"})
            await listener.until_end(prompt_id)
    assert [frame.partition(b"JFIF")[0] for frame in listener.of("binary")] == [
        jpeg := bytes((0, 0, 0, 1, 0, 0, 0, 1)) + b"\xff\xd8\xff\xe0\0\x10",
        (text := bytes((0, 0, 0, 3, 0, 0, 0, 1)) + b"3") + b"one",
        text + b"two",
        jpeg,
        text + b"three",
    ]


@pytest.mark.parametrize(("bit_depth", "head"), [("8bit", (1, 2)), ("raw", (10, 1))])
async def test_swarm_gets_its_frames_between_its_own_progress(
    client: Client, bit_depth: str, head: tuple[int, int]
) -> None:
    graph = {
        "1": node("SwarmLoadImageB64", image_base64=base64.b64encode(RED).decode()),
        "2": node("SwarmSaveImageWS", images=["1", 0], bit_depth=bit_depth),
        "3": node("SwarmAddSaveMetadataWS", key="seed", value="7"),
    }
    for _ in range(2):  # the second time all is cached, and is sent all the same
        async with client.listening() as listener:
            prompt_id = await client.submit(graph)
            await listener.until_end(prompt_id)
        assert not listener.of("executed")
        announced: list[Any] = []
        frames: dict[int, bytes] = {}
        for type_, data in listener.received:
            if type_ == "progress" and "node" not in data:
                announced.append((data["value"], data["max"]))
            if type_ == "binary" and announced:
                frames[announced[-1][0]] = data
        assert sorted(announced) == [(12345, 12345), (12347, 12347)]
        picture, text = frames[12345], frames[12347]
        assert picture[:8] == b"".join(number.to_bytes(4, "big") for number in head)
        with Image.open(io.BytesIO(picture[8:])) as opened, Image.open(io.BytesIO(RED)) as sent:
            assert opened.convert("RGB").tobytes() == sent.convert("RGB").tobytes()
        assert text == bytes((0, 0, 0, 3, 0, 0, 0, 0)) + b"seed:7"


async def test_swarms_16_bits_are_refused_with_the_reason(client: Client) -> None:
    graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "2": node("SwarmSaveImageWS", images=["1", 0], bit_depth=["3", 0]),
        "3": node("PrimitiveString", value="16bit"),
    }
    status, answer = await client.post("prompt", {"prompt": graph})
    assert status == 400
    (about,) = answer["node_errors"].values()
    assert about["class_type"] == "SwarmSaveImageWS"
    assert about["errors"][0]["extra_info"] == {"input_name": "bit_depth"}


async def test_easy_use_shows_and_hands_on_its_picture(client: Client) -> None:
    graph = {
        "1": node(
            "easy loadImageBase64",
            base64_data=base64.b64encode(RED).decode(),
            image_output="Preview",
            save_prefix="x",
        ),
        "2": node("MaskToImage", mask=["1", 1]),
        "3": node("PreviewImage", images=["2", 0]),
    }
    entry = await client.run(graph)
    (shown,) = entry["outputs"]["1"]["images"]
    assert shown["type"] == "temp"
    assert pixels(await client.view(shown)) == pixels(RED)
    (mask,) = entry["outputs"]["3"]["images"]
    assert set(pixels(await client.view(mask))[2]) == {255}


async def test_a_picture_is_fetched_from_allowed_hosts_alone(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    graph = {
        "1": node("LoadImageFromUrl", image="http://images.example/a.png"),
        "2": node("PreviewImage", images=["1", 0]),
    }
    async with running_proxy(simulator, tmp_path, url_hosts=("127.0.0.1",)) as proxy:
        client = Client(session, proxy.url)
        for address in ("http://images.example/a.png", f"{proxy.url}api/features"):
            graph["1"]["inputs"]["image"] = address
            entry = await client.run(graph)
            assert entry["status"]["status_str"] == "error", address
    assert simulator.calls["POST /api/prompt"] == 0


async def test_redirects_are_looked_at_again_and_bodies_are_bounded(
    aiohttp_server: Any, tmp_path: Path
) -> None:
    async def redirect(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://elsewhere.example/a.png")

    async def body(_: web.Request) -> web.Response:
        return web.Response(body=bytes(20))

    routes = web.Application()
    routes.router.add_get("/redirect", redirect)
    routes.router.add_get("/body", body)
    server = await aiohttp_server(routes)
    remote = RemoteFiles(("127.0.0.1",), max_bytes=10, reach="loopback")
    await remote.start()
    try:
        for path in ("redirect", "body"):
            with pytest.raises(NotFetchedError):
                await remote.fetch(str(server.make_url(f"/{path}")), tmp_path / "file")
    finally:
        await remote.close()


async def test_a_cloud_that_makes_a_picture_nobody_can_encode_fails_in_that_node(
    simulator: Simulator, client: Client
) -> None:
    graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "2": node("SolidMask", value=0.5, width=8, height=8),
        "3": node("JoinImageWithAlpha", image=["1", 0], alpha=["2", 0]),
        "4": node("ETN_SendImageWebSocket", images=["3", 0], format="JPEG"),
    }
    entry = await client.run(graph)
    (messages,) = [
        about for type_, about in entry["status"]["messages"] if type_ == "execution_error"
    ]
    assert (messages["node_id"], messages["exception_message"]) == (
        "4",
        "cannot write mode RGBA as JPEG\n",
    )


async def test_helper_jobs_of_many_clients_at_once_each_get_their_own_picture(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with (
        Simulator(plan="pro", switches=Switches()) as simulator,
        running_proxy(simulator, tmp_path) as proxy,
    ):

        async def one(shade: int) -> None:
            picture = graphs.png((shade, shade, 0))
            await put(session, proxy.url, f"shade{shade}", picture)
            entry = await Client(session, proxy.url).run(carried(f"shade{shade}"))
            assert pixels((await got(session, proxy.url, result_of(entry)))[1]) == pixels(picture)

        await asyncio.gather(*map(one, range(10)))


#: Classes of which a random node would take long, or wants a file that there is not.
LEFT_OUT = {
    *("SimulatorWait", "SimulatorRaise", "FluxProUltraImageNode", "LoadAudio", "LoadVideo"),
    *("SwarmLoadVideoB64", "SwarmLoadAudioB64", "LoadImageFromUrl", "LoadImageFromHttpURL"),
    *("BlenderInputCombo", "BlenderInputSampler", "BlenderInputLoad3D"),
}
BASE64 = base64.b64encode(RED).decode()
#: What the inputs that name a picture are given.
GIVEN = {
    ("ETN_LoadImageCache", "id"): "picture",
    ("ETN_LoadImageBase64", "image"): BASE64,
    ("ETN_LoadMaskBase64", "mask"): BASE64,
    ("SwarmLoadImageB64", "image_base64"): BASE64,
    ("easy loadImageBase64", "base64_data"): BASE64,
}


def random_graphs(classes: dict[str, Any], helpers: set[str], count: int) -> list[dict[str, Any]]:
    """Graphs with helper nodes in them; their numbers are small."""
    found: list[dict[str, Any]] = []
    ends = {name: info for name, info in classes.items() if name not in LEFT_OUT}

    @settings(max_examples=count, derandomize=True, database=None, phases=[Phase.generate])
    @given(good_graphs(ends))
    def collect(graph: dict[str, Any]) -> None:
        for node in graph.values():
            specs = {**classes[node["class_type"]]["input"].get("required", {})}
            for name, value in node["inputs"].items():
                given_value = GIVEN.get((node["class_type"], name))
                if given_value is not None:
                    node["inputs"][name] = given_value
                elif isinstance(value, dict | str) and specs.get(name, [""])[0] == "INT":
                    node["inputs"][name] = small(value, specs[name])
                elif isinstance(value, int) and not isinstance(value, bool):
                    node["inputs"][name] = small(value, specs.get(name, ["INT", {}]))
        if any(node["class_type"] in helpers for node in graph.values()):
            found.append(graph)

    collect()
    return found


def small(value: Any, spec: Any) -> int:
    number = int(value["__value__"] if isinstance(value, dict) else value)
    return max(min(number, 64), spec[1].get("min", 0) if len(spec) > 1 else 0)


async def test_random_graphs_run_and_tell_of_their_own_nodes_alone(
    client: Client, session: aiohttp.ClientSession
) -> None:
    await put(session, client.url, "picture", RED)
    await client.upload(FILE, RED)
    _, classes = await client.get("object_info")
    helpers = set(PACK_NODES)
    graphs_ = random_graphs(classes, helpers, 40)
    assert len(graphs_) > 10
    kinds = set()
    for graph in graphs_:
        async with client.listening() as listener:
            prompt_id = await client.submit(graph)
            await listener.until_end(prompt_id)
        for type_, data in listener.received:
            if type_ in ("binary", "status"):
                continue
            named = {str(data[name]) for name in ("node", "node_id") if data.get(name) is not None}
            named |= set(data["nodes"]) if "nodes" in data else set()
            assert named <= graph.keys(), (type_, data, graph)
        entry = await client.history(prompt_id)
        assert entry["prompt"][2] == graph
        assert entry["outputs"].keys() <= graph.keys()
        assert entry["meta"].keys() <= graph.keys()
        if entry["status"]["status_str"] == "error":
            (error,) = listener.of("execution_error")
            assert error["node_type"] == graph[error["node_id"]]["class_type"]
        else:
            kinds |= {node["class_type"] for node in graph.values()} & helpers
    assert len(kinds) > 5, kinds
