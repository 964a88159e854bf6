"""Every route and case of the assets API, over the whole stack."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from blake3 import blake3
from stack import TIMEOUT, Client, bare, running_proxy
from yarl import URL

from proxy.app.server import ROUTES
from proxy.simulator import Simulator

PNG = graphs.png((1, 2, 3))
HASH = blake3(PNG).hexdigest()
OTHER = graphs.png((9, 9, 9))
NONE = "11111111-2222-4333-8444-555555555555"
#: How often each route was asked.
ASKED: Counter[str] = Counter()


def _pattern(path: str) -> str:
    """The route of a path."""
    path = re.sub(
        "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "{id}", path.partition("?")[0]
    )
    path = re.sub("(?<=/hash/).*", "{hash}", path)
    return f"/{re.sub('(?<=/exports/).*', '{name}', path)}"


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    """Print how much was asked, of which every route has to be where one process asks all."""
    yield
    routes = {
        f"{route.method} {re.sub(':(?:[^{}]|{[^{}]*})*}', '}', route.path)}"
        for route in ROUTES
        if route.assets
    }
    asked = {route: ASKED[route] for route in routes if ASKED[route]}
    result = f"{len(asked)} of {len(routes)} routes of assets, {sum(asked.values())} requests"
    print(f"\n{result}")  # noqa: T201


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of a refusal, whose form is checked."""
        error = self.json["error"]
        assert set(self.json) == {"error"}
        assert set(error) == {"code", "message", "details"}
        assert isinstance(error["details"], dict)
        assert error["message"]
        return self.status, error["code"]


@dataclass
class Api:
    """A client of the assets API."""

    client: Client
    ids: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, /, **options: Any) -> Answer:
        url = URL(f"{self.client.url.origin()}/{path}", encoded=True)
        ASKED[f"{method} {_pattern(path)}"] += 1
        async with self.client.session.request(method, url, **options) as answer:
            body = await answer.read()
            return Answer(answer.status, answer.headers, body)

    async def get(self, path: str, /, **query: str) -> Answer:
        return await self.ask("GET", path, params=query)

    async def put(self, data: bytes, filename: str = "cat.png", **fields: Any) -> Answer:
        """A multipart upload; a field that is a list comes in several parts."""
        form = aiohttp.FormData()
        for name, value in ({"tags": "input"} | fields).items():
            for text in value if isinstance(value, list) else [value]:
                form.add_field(name, text)
        form.add_field("file", data, filename=filename, content_type="image/png")
        return await self.ask("POST", "api/assets", data=form)

    async def add(self, data: bytes = PNG, filename: str = "cat.png", **fields: Any) -> Any:
        answer = await self.put(data, filename, **fields)
        assert answer.status == 201, answer.body
        return answer.json

    async def listed(self, **query: str) -> list[str]:
        """Names of a page."""
        answer = await self.get("api/assets", **query)
        assert answer.status == 200, answer.body
        return [asset["name"] for asset in answer.json["assets"]]


@pytest.fixture
def api(client: Client) -> Api:
    return Api(client)


def no_null(value: Any) -> bool:
    if isinstance(value, dict):
        return all(item is not None and no_null(item) for item in value.values())
    return all(map(no_null, value)) if isinstance(value, list) else True


# --- list ----------------------------------------------------------------------------------------


async def test_a_record_of_an_upload(api: Api) -> None:
    made = await api.add(name="my cat.png", tags=["input", "x,y"], user_metadata='{"a": [1]}')
    assert no_null(made)
    assert made.pop("created_new") is True
    shown = (await api.get(f"api/assets/{made['id'].upper()}")).json
    assert shown == made
    created = made.pop("created_at")
    assert created.endswith("Z")
    assert made.pop("updated_at") == created
    assert made == {
        "id": made["id"],
        "name": "my cat.png",
        "hash": f"blake3:{HASH}",
        "loader_path": f"{HASH}.png",
        "display_name": f"{HASH}.png",
        "size": len(PNG),
        "mime_type": "image/png",
        "tags": ["input", "uploaded", "x", "y"],
        "preview_url": f"/api/view?type=input&filename={HASH}.png",
        "user_metadata": {"a": [1]},
        "metadata": {"kind": "image", "width": 32, "height": 32},
    }
    assert (await api.ask("GET", made["preview_url"][1:])).body == PNG


@pytest.fixture
async def three(api: Api) -> Api:
    """Three records: `alpha.png`, `beta.png` and a `gamma.png` of other bytes."""
    for name, data, tags in (
        ("alpha.png", PNG, "input,one"),
        ("beta.png", PNG, "input,one,two"),
        ("gamma.png", OTHER, "input,two"),
    ):
        api.ids[name] = (await api.add(data, name, tags=tags))["id"]
    return api


MANY = ",".join(f"t{n}" for n in range(100))

LISTS: list[tuple[dict[str, str], Any]] = [
    ({"tags_any": "input"}, "gba"),
    ({"tags_all": "one"}, "ba"),
    ({"tags_all": "one,two"}, "b"),
    ({"include_tags": "one, two"}, "b"),
    ({"tags_any": "one,two"}, "gba"),
    ({"tags_any": "input", "tags_none": "two"}, "a"),
    ({"tags_any": "input", "exclude_tags": "one"}, "g"),
    ({"include_tags": "one", "exclude_tags": "one"}, ""),
    ({"tags_any": MANY}, ""),
    ({"tags_any": "input", "name_contains": "LPH"}, "a"),
    ({"tags_any": "input", "name_contains": "%"}, ""),
    ({"hash": f"  BLAKE3:{HASH.upper()} "}, "ba"),
    ({"hash": f"blake3:{'0' * 64}"}, ""),
    ({"hash": ""}, ""),
    ({"hash": "cat.png"}, ""),
    ({"tags_any": "input", "include_public": "true"}, "gba"),
    ({"tags_any": "input", "include_public": "false", "odd": "name"}, "gba"),
    ({"tags_any": "input", "sort": "name", "order": "asc"}, "abg"),
    ({"tags_any": "input", "sort": "name"}, "gba"),
    ({"tags_any": "input", "sort": "created_at", "order": "asc"}, "abg"),
    ({"tags_any": "input", "sort": "updated_at"}, "gba"),
    ({"tags_any": "input", "sort": "name", "order": "asc", "limit": "2"}, "ab"),
    ({"tags_any": "input", "sort": "name", "order": "asc", "offset": "2"}, "g"),
    ({"tags_any": "input", "offset": "5"}, ""),
    ({"tags_all": "missing"}, ""),
]

REFUSED_LISTS: list[tuple[str, str]] = [
    ("tags_any=" + MANY + ",t100", "INVALID_TAG_FILTER"),
    ("tags_all=a&include_tags=b", "INVALID_TAG_FILTER"),
    ("tags_none=a&exclude_tags=b", "INVALID_TAG_FILTER"),
    ("tags_all=a&tags_none=a", "INVALID_TAG_FILTER"),
    ("include_tags=a&tags_none=a", "INVALID_TAG_FILTER"),
    ("metadata_filter=%7B%7D", "UNSUPPORTED_PARAM"),
    ("include_public=perhaps", "INVALID_QUERY"),
    ("limit=0", "INVALID_QUERY"),
    ("limit=501", "INVALID_QUERY"),
    ("limit=many", "INVALID_QUERY"),
    ("offset=-1", "INVALID_QUERY"),
    ("sort=colour", "INVALID_QUERY"),
    ("order=up", "INVALID_QUERY"),
    ("after=not-a-cursor", "INVALID_CURSOR"),
    ("after=eyJ9&sort=last_access_time", "INVALID_CURSOR"),
    ("after=" + "a" * 7000, "INVALID_CURSOR"),
]


async def test_lists(three: Api) -> None:
    for query, names in LISTS:
        assert [row[0] for row in await three.listed(**query)] == list(names), query
    for text, code in REFUSED_LISTS:
        answer = await three.ask("GET", f"api/assets?{text}")
        assert answer.error == (400, code), text
    details = (await three.ask("GET", "api/assets?limit=0")).json["error"]
    assert details["message"] == "Validation failed."
    assert [error["loc"] for error in details["details"]["errors"]] == [["limit"]]
    details = (await three.ask("GET", f"api/assets?tags_any={MANY},x")).json["error"]["details"]
    assert details == {"parameter": "tags_any", "count": 101, "max": 100}


async def test_pages(three: Api) -> None:
    page = (await three.get("api/assets", tags_any="input", limit="2")).json
    assert (page["total"], page["has_more"], len(page["assets"])) == (3, True, 2)
    rest = await three.get("api/assets", tags_any="input", limit="2", after=page["next_cursor"])
    assert [asset["name"] for asset in rest.json["assets"]] == ["alpha.png"]
    assert (rest.json["total"], rest.json["has_more"]) == (3, False)
    assert "next_cursor" not in rest.json
    last = (await three.get("api/assets", tags_any="input", limit="1", offset="2")).json
    assert (last["has_more"], "next_cursor" in last) == (False, False)
    for query in ({"order": "asc"}, {"sort": "name"}, {"sort": "last_access_time"}):
        answer = await three.get("api/assets", after=page["next_cursor"], **query)
        assert answer.error == (400, "INVALID_CURSOR")


async def test_what_happens_meanwhile_moves_no_page(three: Api) -> None:
    for number in range(30):
        await three.add(PNG, f"{number:02}.png", tags="input,walk")
    seen: list[str] = []
    query = {"tags_all": "walk", "limit": "7", "sort": "size"}
    while True:
        page = (await three.get("api/assets", **query)).json
        seen += [asset["name"] for asset in page["assets"]]
        if "next_cursor" not in page:
            break
        query["after"] = page["next_cursor"]
        await three.add(OTHER, "later.png", tags="input")
    assert len(seen) == len(set(seen)) == 30


# --- one record ----------------------------------------------------------------------------------


async def test_changes(three: Api) -> None:
    id_, other = three.ids["alpha.png"], three.ids["gamma.png"]
    path = f"api/assets/{id_}"
    before = (await three.get(path)).json
    same = await three.ask("PUT", path, json={"name": "alpha.png"})
    assert (same.status, same.json) == (200, before)
    renamed = (await three.ask("PUT", path, json={"name": "gamma.png", "tags": ["z"]})).json
    assert renamed["name"] == "gamma.png"
    assert renamed["tags"] == before["tags"]
    assert renamed["updated_at"] > before["updated_at"]
    changed = (
        await three.ask(
            "PUT", path, json={"user_metadata": {"b": None}, "preview_id": other.upper()}
        )
    ).json
    assert (changed["user_metadata"], changed["preview_id"]) == ({"b": None}, other)
    assert changed["preview_url"] == (await three.get(f"api/assets/{other}")).json["preview_url"]
    assert (await three.ask("DELETE", f"api/assets/{other}")).status == 204
    cleared = (await three.get(path)).json
    assert "preview_id" not in cleared
    assert cleared["updated_at"] == changed["updated_at"]
    for body, status, code in (
        ({}, 400, "INVALID_BODY"),
        ({"name": None}, 400, "INVALID_BODY"),
        ({"name": ""}, 400, "INVALID_BODY"),
        ({"name": "n" * 513}, 400, "INVALID_BODY"),
        ({"name": 5}, 400, "INVALID_BODY"),
        ({"user_metadata": [1]}, 400, "INVALID_BODY"),
        ({"user_metadata": {"a": "x" * 70000}}, 400, "INVALID_BODY"),
        ({"preview_id": "odd"}, 400, "INVALID_BODY"),
        ({"preview_id": id_}, 400, "INVALID_BODY"),
        ({"preview_id": NONE}, 404, "ASSET_NOT_FOUND"),
        ({"preview_id": other}, 404, "ASSET_NOT_FOUND"),
        ([1], 400, "INVALID_BODY"),
    ):
        assert (await three.ask("PUT", path, json=body)).error == (status, code), body
    assert (await three.ask("PUT", path, data=b"{not json")).error == (400, "INVALID_JSON")
    assert (await three.get(path)).json == cleared


async def test_what_there_is_not(api: Api) -> None:
    for method, path, options in (
        ("GET", "", {}),
        ("PUT", "", {"json": {"name": "x"}}),
        ("DELETE", "", {}),
        ("GET", "/content", {}),
        ("POST", "/tags", {"json": {"tags": ["x"]}}),
        ("DELETE", "/tags", {"json": {"tags": ["x"]}}),
    ):
        answer = await api.ask(method, f"api/assets/{NONE}{path}", **options)
        assert answer.error == (404, "ASSET_NOT_FOUND"), (method, path)
        assert answer.json["error"]["details"] == {"id": NONE}
    assert (await api.get("api/assets/no-id")).status == 404
    assert (await api.ask("DELETE", "api/assets/no-id")).status == 405
    assert (await api.get(f"assets/{NONE}")).body == b""


async def test_a_deleted_record_leaves_the_file(three: Api) -> None:
    id_ = three.ids["gamma.png"]
    hash_ = blake3(OTHER).hexdigest()
    answer = await three.ask("DELETE", f"api/assets/{id_}")
    assert (answer.status, answer.body) == (204, b"")
    assert (await three.ask("DELETE", f"api/assets/{id_}")).error == (404, "ASSET_NOT_FOUND")
    assert await three.listed(tags_all="two") == ["beta.png"]
    item = {"filename": f"{hash_}.png", "type": "input"}
    assert await three.client.view(item) == OTHER
    assert (await three.ask("HEAD", f"api/assets/hash/blake3:{hash_}")).status == 200
    await three.ask("POST", "api/assets/seed?wait=true")
    assert await three.listed(tags_all="two") == ["beta.png"]
    made = await three.ask("POST", "api/assets/from-hash", json={"hash": f"blake3:{hash_}"})
    assert made.status == 201
    content = await three.get(f"api/assets/{made.json['id']}/content")
    assert content.body == OTHER


async def test_tags(three: Api) -> None:
    path = f"api/assets/{three.ids['alpha.png']}/tags"
    before = (await three.get(path.removesuffix("/tags"))).json["updated_at"]
    added = await three.ask("POST", path, json={"tags": ["NewTag", "one", " NewTag ", "BETA"]})
    assert added.json == {
        "added": ["BETA", "NewTag"],
        "already_present": ["one"],
        "total_tags": ["BETA", "NewTag", "input", "one", "uploaded"],
    }
    moved = (await three.get(path.removesuffix("/tags"))).json["updated_at"]
    assert moved > before
    removed = await three.ask("DELETE", path, json={"tags": ["BETA", "NewTag", "no"]})
    assert removed.json == {
        "removed": ["BETA", "NewTag"],
        "not_present": ["no"],
        "total_tags": ["input", "one", "uploaded"],
        "protected": [],
    }
    for body, code in (
        ({"tags": []}, "INVALID_BODY"),
        ({"tags": [5]}, "INVALID_BODY"),
        ({"tags": ["  "]}, "INVALID_BODY"),
        ({"tags": ["t" * 257]}, "INVALID_BODY"),
        ({}, "INVALID_BODY"),
        ({"tags": ["x", "missing"]}, "SYSTEM_TAG_FORBIDDEN"),
    ):
        for method in ("POST", "DELETE"):
            answer = await three.ask(method, path, json=body)
            assert answer.error == (400, code), body
    assert answer.json["error"]["details"] == {"tag": "missing"}
    for method in ("POST", "DELETE"):
        assert (await three.ask(method, path, data=b"nope")).error == (400, "INVALID_JSON")


async def test_outputs_and_older_uploads_take_tags_too(api: Api) -> None:
    uploaded: Any = await api.client.upload("x.png", PNG, subfolder="pasted")
    entry = await api.client.run(graphs.plain())
    (item,) = entry["outputs"]["2"]["images"]
    for id_, own, name in (
        (uploaded["asset"]["id"], "input", "x.png"),
        (item["id"], "output", item["filename"]),
    ):
        before = (await api.get(f"api/assets/{id_}")).json["tags"]
        path = f"api/assets/{id_}/tags"
        added = await api.ask("POST", path, json={"tags": ["best", own]})
        assert (added.json["added"], added.json["already_present"]) == (["best"], [own])
        assert await api.listed(tags_all=f"best,{own}") == [name]
        removed = await api.ask("DELETE", path, json={"tags": ["best", own]})
        assert (removed.json["removed"], removed.json["protected"]) == (["best"], [own])
        assert (await api.get(f"api/assets/{id_}")).json["tags"] == before
        assert await api.listed(tags_all="best") == []


async def test_lists_of_tags(three: Api) -> None:
    async def tags(**query: str) -> list[tuple[str, int]]:
        answer = await three.get("api/tags", **query)
        assert answer.status == 200
        return [(tag["name"], tag["count"]) for tag in answer.json["tags"]]

    await three.ask("DELETE", f"api/assets/{three.ids['gamma.png']}/tags", json={"tags": ["two"]})
    await three.ask("DELETE", f"api/assets/{three.ids['beta.png']}/tags", json={"tags": ["two"]})
    whole = [("input", 3), ("uploaded", 3), ("one", 2), ("two", 0)]
    assert await tags() == whole
    assert await tags(include_zero="false") == whole[:3]
    assert await tags(order="name_asc") == sorted(whole)
    assert await tags(prefix="o") == [("one", 2)]
    assert await tags(limit="1", offset="1") == [("uploaded", 3)]
    page = (await three.get("api/tags", limit="2")).json
    assert (page["total"], page["has_more"]) == (4, True)
    for query in (
        {"limit": "1001"},
        {"limit": "0"},
        {"offset": "-1"},
        {"order": "random"},
        {"prefix": ""},
        {"prefix": "p" * 257},
        {"include_zero": "maybe"},
    ):
        assert (await three.get("api/tags", **query)).error == (400, "INVALID_QUERY"), query
    counts = await three.get("api/assets/tags/refine", tags_any="one")
    assert counts.json == {"tag_counts": {"input": 2, "one": 2, "uploaded": 2}}
    counts = await three.get("api/assets/tags/refine", name_contains="alpha", limit="1")
    assert counts.json == {"tag_counts": {"input": 1}}
    assert (await three.get("api/assets/tags/refine", limit="0")).error[1] == "INVALID_QUERY"
    refused = await three.get("api/assets/tags/refine", tags_all="a", tags_none="a")
    assert refused.error == (400, "INVALID_TAG_FILTER")


# --- contents ------------------------------------------------------------------------------------


async def test_contents(api: Api) -> None:
    made = await api.add(name='a "cat"é.png')
    path = f"api/assets/{made['id']}/content"
    for disposition, shown in (
        ("inline", "inline"),
        ("attachment", "attachment"),
        ("odd", "attachment"),
        ("", "attachment"),
    ):
        answer = await api.get(path, disposition=disposition)
        assert (answer.status, answer.body) == (200, PNG)
        assert (
            answer.headers["Content-Disposition"]
            == f"{shown}; filename*=UTF-8''a%20%22cat%22%C3%A9.png"
        )
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["Content-Length"] == str(len(PNG))
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Vary" not in answer.headers
    part = await api.ask("GET", path, headers={"Range": "bytes=1-3"})
    assert (part.status, part.body) == (206, PNG[1:4])
    assert part.headers["Content-Range"] == f"bytes 1-3/{len(PNG)}"
    known = await api.ask("GET", path, headers={"If-None-Match": part.headers["ETag"]})
    assert (known.status, known.body) == (304, b"")
    after = (await api.get(f"api/assets/{made['id']}")).json
    assert after.pop("last_access_time") > after["created_at"]
    made.pop("created_new")
    assert after == made


@pytest.mark.parametrize(
    ("filename", "media_type"),
    [
        ("a.html", "text/html"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.css", "text/css"),
        ("a.xml", "application/xml"),
        ("a.svg", "image/svg+xml"),
    ],
)
async def test_what_a_browser_would_run_is_an_attachment(
    api: Api, filename: str, media_type: str
) -> None:
    made = await api.add(name=filename, mime_type=media_type)
    path = f"api/assets/{made['id']}/content?disposition=inline"
    for destination, is_picture in (("document", False), ("image", filename == "a.svg")):
        answer = await api.ask("GET", path, headers={"Sec-Fetch-Dest": destination})
        shown, type_ = (
            ("inline", "image/svg+xml")
            if is_picture
            else ("attachment", "application/octet-stream")
        )
        assert answer.headers["Content-Disposition"] == f"{shown}; filename*=UTF-8''{filename}"
        assert answer.headers["Content-Type"] == type_
        assert answer.headers["Vary"] == "Sec-Fetch-Dest"
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_replaced_file_leaves_its_record_without_content(api: Api) -> None:
    first = await api.client.upload("x.png", PNG)
    second = await api.client.upload("x.png", OTHER, overwrite="true")
    old, new = (event["asset"]["id"] for event in (first, second))  # type: ignore[index]
    assert await api.listed(tags_all="missing") == ["x.png"]
    record = (await api.get(f"api/assets/{old}")).json
    assert record["tags"] == ["input", "missing", "uploaded"]
    assert "preview_url" not in record
    assert (await api.get(f"api/assets/{old}/content")).error == (404, "FILE_NOT_FOUND")
    assert (await api.get(f"api/assets/{new}/content")).body == OTHER
    assert (await api.ask("HEAD", f"api/assets/hash/blake3:{HASH}")).status == 404
    refused = await api.ask("POST", "api/assets/from-hash", json={"hash": f"blake3:{HASH}"})
    assert refused.error == (404, "ASSET_NOT_FOUND")
    assert (await api.get("view", filename=f"blake3:{HASH}")).status == 404
    assert (await api.get("view", filename=f"blake3:{blake3(OTHER).hexdigest()}")).body == OTHER


# --- new records ---------------------------------------------------------------------------------


async def test_uploads(api: Api) -> None:
    first = await api.add(user_metadata='{"n": 1}')
    again = await api.put(PNG, "dog.png", tags=[], user_metadata='{"n": 2}')
    assert again.status == 201
    assert again.json["created_new"] is True
    assert again.json["id"] != first["id"]
    assert (again.json["name"], again.json["user_metadata"]) == ("dog.png", {"n": 2})
    assert again.json["loader_path"] == first["loader_path"]
    assert api.client is not None
    same_label = await api.add(OTHER, "cat.png")
    for made, data in ((first, PNG), (same_label, OTHER)):
        assert (await api.get(f"api/assets/{made['id']}/content")).body == data
    tags = (await api.add(OTHER, tags=['["input", "a"]', "b, c", "..", " a "]))["tags"]
    assert tags == ["..", "a", "b", "c", "input", "uploaded"]
    assert (await api.add(OTHER, name="sub/../x\\y.png"))["name"] == "y.png"
    assert (await api.add(OTHER, mime_type="image/webp;q=1"))["mime_type"] == "image/webp"
    output = await api.add(graphs.png((4, 4, 4)), tags="output", preview_id=first["id"])
    assert output["preview_url"] == first["preview_url"]
    assert output["loader_path"].endswith(".png")


async def test_refused_uploads(api: Api, simulator: Simulator) -> None:
    for fields, code in (
        ({"tags": "x"}, "INVALID_BODY"),
        ({"tags": []}, "INVALID_BODY"),
        ({"tags": "input,output"}, "INVALID_BODY"),
        ({"tags": "models"}, "INVALID_BODY"),
        ({"tags": "models,model_type:loras"}, "INVALID_BODY"),
        ({"tags": "models,model_type:loras,model_type:vae"}, "INVALID_BODY"),
        ({"tags": "models,model_type:configs"}, "INVALID_BODY"),
        ({"tags": "input,missing"}, "SYSTEM_TAG_FORBIDDEN"),
        ({"tags": "[not json"}, "INVALID_BODY"),
        ({"tags": "[5]"}, "INVALID_BODY"),
        ({"tags": ",".join(f"t{n}" for n in range(101))}, "INVALID_BODY"),
        ({"name": "n" * 513}, "INVALID_BODY"),
        ({"user_metadata": "{not json}"}, "INVALID_BODY"),
        ({"user_metadata": "[1]"}, "INVALID_BODY"),
        ({"mime_type": "no type"}, "INVALID_BODY"),
        ({"mime_type": "image/png,text/html"}, "INVALID_BODY"),
        ({"mime_type": "image/png\r\nX-Other: 1"}, "INVALID_BODY"),
        ({"mime_type": "image/png\n"}, "INVALID_BODY"),
        ({"preview_id": "odd"}, "INVALID_BODY"),
        ({"preview_id": NONE}, "INVALID_BODY"),
        ({"id": NONE}, "UNSUPPORTED_FIELD"),
        ({"hash": "md5:5"}, "INVALID_HASH"),
        ({"hash": f"blake3:{'0' * 64}"}, "HASH_MISMATCH"),
    ):
        assert (await api.put(PNG, **fields)).error == (400, code), fields  # type: ignore[arg-type]
    assert (await api.put(b"")).error == (400, "EMPTY_UPLOAD")
    assert (await api.ask("POST", "api/assets", json={})).error == (415, "UNSUPPORTED_MEDIA_TYPE")
    for fields in ({"tags": "input"}, {"hash": f"blake3:{HASH}"}):
        form = aiohttp.FormData(fields, default_to_multipart=True)
        assert (await api.ask("POST", "api/assets", data=form)).error == (400, "MISSING_FILE")
    assert simulator.calls["POST /api/upload/image"] == 0
    assert await api.listed(tags_any="input") == []


async def test_records_of_a_hash(api: Api) -> None:
    missing = await api.ask("POST", "api/assets/from-hash", json={"hash": f"blake3:{HASH}"})
    assert missing.error == (404, "ASSET_NOT_FOUND")
    first = await api.add()
    for digits, status in (
        (f"blake3:{HASH}", 200),
        (f"BLAKE3:{HASH.upper()}", 200),
        (f"blake3:{'0' * 64}", 404),
        (HASH, 400),
        ("md5:5", 400),
    ):
        answer = await api.ask("HEAD", f"api/assets/hash/{digits}")
        assert (answer.status, answer.body) == (status, b""), digits
    body = {
        "hash": f"blake3:{HASH}",
        "tags": ["mine"],
        "user_metadata": {"a": 1},
        "preview_id": first["id"],
    }
    made = await api.ask("POST", "api/assets/from-hash", json=body)
    assert made.status == 201
    assert (made.json["name"], made.json["tags"], made.json["created_new"]) == (
        HASH,
        ["mine"],
        True,
    )
    assert made.json["preview_id"] == first["id"]
    form = aiohttp.FormData({"hash": f"blake3:{HASH}", "name": "n"}, default_to_multipart=True)
    assert (await api.ask("POST", "api/assets", data=form)).json["name"] == "n"
    for body, code in (
        ({}, "INVALID_BODY"),
        ({"hash": 5}, "INVALID_BODY"),
        ({"hash": "odd"}, "INVALID_HASH"),
        ({"hash": f"blake3:{HASH}", "tags": "one"}, "INVALID_BODY"),
        ({"hash": f"blake3:{HASH}", "preview_id": NONE}, "INVALID_BODY"),
    ):
        refused = await api.ask("POST", "api/assets/from-hash", json=body)
        assert refused.error == (400, code), body
    refused = await api.ask("POST", "api/assets/from-hash", data=b"{")
    assert refused.error == (400, "INVALID_JSON")


# --- where assets show besides -------------------------------------------------------------------


async def test_uploads_of_the_older_route_tell_their_record(api: Api) -> None:
    answer: Any = await api.client.upload("x.png", PNG, subfolder="pasted")
    asset = answer.pop("asset")
    assert answer == {"name": "x.png", "subfolder": "pasted", "type": "input"}
    assert asset == {
        "id": asset["id"],
        "name": "x.png",
        "asset_hash": f"blake3:{HASH}",
        "size": len(PNG),
        "mime_type": "image/png",
        "tags": ["input", "pasted", "uploaded"],
    }
    record = (await api.get(f"api/assets/{asset['id']}")).json
    assert (record["display_name"], record["loader_path"]) == ("pasted/x.png", "pasted/x.png")
    assert record["preview_url"] == "/api/view?type=input&filename=x.png&subfolder=pasted"
    other: Any = await api.client.upload("x.png", PNG, subfolder="custom/session")
    assert other["asset"]["tags"] == ["input", "uploaded"]
    again: Any = await api.client.upload("x.png", PNG, subfolder="pasted")
    assert again["asset"]["id"] != asset["id"]


async def test_outputs_are_assets_under_one_id_everywhere(api: Api) -> None:
    async with api.client.listening() as listener:
        prompt_id = await api.client.submit(graphs.plain(prefix="sub/pic"))
        result = await listener.until("executed")
        await listener.until_end(prompt_id)
    (item,) = result["output"]["images"]
    id_ = item.pop("id")
    assert item.pop("preview_id") == id_
    assert item == {"filename": "pic_00001_.png", "subfolder": "sub", "type": "output"}
    entry = await api.client.history(prompt_id)
    assert entry["outputs"]["2"]["images"][0]["id"] == id_
    job = (await api.get(f"api/jobs/{prompt_id}")).json
    assert job["outputs"]["2"]["images"][0]["id"] == id_
    (asset,) = (await api.get(f"api/jobs/{prompt_id}/assets")).json["assets"]
    assert asset["id"] == id_
    (record,) = (await api.get("api/assets", tags_any="output,temp")).json["assets"]
    assert (record["id"], record["name"]) == (id_, "pic_00001_.png")
    assert (record["job_id"], record["prompt_id"], record["tags"]) == (
        prompt_id,
        prompt_id,
        ["output"],
    )
    assert record["preview_url"] == "/api/view?type=output&filename=pic_00001_.png&subfolder=sub"
    content = await api.get(f"api/assets/{id_}/content")
    assert content.body == await api.client.view(item)
    again = await api.client.run(graphs.plain(prefix="sub/pic"))
    assert again["outputs"]["2"]["images"][0]["id"] != id_


async def test_an_id_that_no_page_takes_is_left_out(api: Api) -> None:
    odd = "11111111-1111-1111-1111-111111111111"
    await api.client.run(graphs.plain(), prompt_id=odd)
    (record,) = (await api.get("api/assets", tags_any="output")).json["assets"]
    assert "job_id" not in record
    assert "prompt_id" not in record


async def test_models_are_assets(api: Api) -> None:
    page = (await api.get("api/assets", include_tags="models", limit="500")).json
    assert page["total"] == len(page["assets"]) > 10
    assert all(no_null(asset) for asset in page["assets"])
    name = "v1-5-pruned-emaonly-fp16.safetensors"
    (model,) = (
        await api.get("api/assets", tags_all="model_type:checkpoints", name_contains=name)
    ).json["assets"]
    assert model["tags"] == ["model_type:checkpoints", "models"]
    assert (model["loader_path"], model["display_name"]) == (name, f"checkpoints/{name}")
    assert not {"hash", "size", "mime_type", "preview_url"} & set(model)
    path = f"api/assets/{model['id']}"
    assert (await api.get(f"{path}/content")).error == (501, "BACKEND_UNSUPPORTED")
    assert (await api.ask("DELETE", path)).status == 204
    assert (await api.ask("POST", "api/assets/seed", json={"roots": ["models"]})).status == 202
    assert (await api.get(path)).error == (404, "ASSET_NOT_FOUND")
    left = (await api.get("api/assets", include_tags="models", limit="500")).json
    assert left["total"] == page["total"] - 1


async def test_scans(api: Api) -> None:
    async with api.client.listening() as listener:
        answer = await api.ask("POST", "api/assets/seed", json={"roots": ["models"]})
        assert (answer.status, answer.json) == (202, {"status": "started"})
        found = await listener.until("assets.seed.fast_complete")
        assert found["created"] > 10
        assert (await listener.until("assets.seed.completed"))["phase"] == "fast"
    done = await api.ask("POST", "api/assets/seed?wait=true")
    assert (done.status, done.json["status"], done.json["errors"]) == (200, "completed", [])
    for body in ({"roots": []}, {"roots": ["nothing"]}, [5]):
        assert (await api.ask("POST", "api/assets/seed", json=body)).error == (400, "INVALID_BODY")
    idle = (await api.get("api/assets/seed/status")).json
    assert idle == {"state": "IDLE", "progress": None, "errors": []}
    assert (await api.ask("POST", "api/assets/seed/cancel")).json == {"status": "idle"}
    assert (await api.ask("POST", "api/assets/prune")).json == {"status": "completed", "marked": 0}
    for method, path in (
        ("POST", "download"),
        ("POST", "import"),
        ("GET", "remote-metadata"),
    ):
        refused = await api.ask(method, f"api/assets/{path}")
        assert refused.error == (501, "BACKEND_UNSUPPORTED")


async def learnt(api: Api, **query: str) -> dict[str, Any]:
    """The only record of a list, once its hash, its size and its metadata are known."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            (record,) = (await api.get("api/assets", **query)).json["assets"]
            if {"hash", "size", "metadata"} <= set(record):
                return dict(record)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "prefetch",
    [pytest.param("images", marks=pytest.mark.sqlite), "off"],  # replicas fetch nothing ahead
)
@pytest.mark.parametrize("names", ["hash", "display"])
async def test_hash_size_and_metadata_of_an_output_are_learnt(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    prefetch: str,
    names: str,
) -> None:
    simulator.switches.update({"executed_names": names})
    async with running_proxy(simulator, tmp_path / "data", prefetch=prefetch) as proxy:
        api = Api(Client(session, proxy.url))
        entry = await api.client.run(graphs.plain())
        data = await api.client.view(bare(entry["outputs"]["2"]["images"][0]))
        record = await learnt(api, tags_any="output")
        assert record["size"] == len(data)
        assert record["hash"] == f"blake3:{blake3(data).hexdigest()}"
        assert record["metadata"] == graphs.metadata(data)
        for _ in range(3):
            assert await learnt(api, tags_any="output") == record
        asked = simulator.calls["GET /api/jobs/{id}/assets"]
        if (prefetch, names) == ("images", "display"):
            assert asked <= 1  # the output may be shown before the cloud has a file of this name
        else:
            assert asked == (0 if prefetch == "images" else 1)


async def test_only_pictures_have_their_size_as_metadata(api: Api) -> None:
    wide = graphs.png((1, 1, 1), size=48)
    for data, filename, expected in (
        (wide, "wide.png", {"kind": "image", "width": 48, "height": 48}),
        (b"no picture", "odd.png", None),
        (b"words", "notes.txt", None),
    ):
        made = await api.add(data, filename)
        again = await api.add(data, filename, tags=[])
        body = {"hash": made["hash"]}
        twin = (await api.ask("POST", "api/assets/from-hash", json=body)).json
        result: Any = await api.client.upload(f"told-{filename}", data)
        older = (await api.get(f"api/assets/{result['asset']['id']}")).json
        found = [asset.get("metadata") for asset in (made, again, twin, older)]
        assert found == [expected] * 4, filename
