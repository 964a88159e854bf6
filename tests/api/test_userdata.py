"""A member's own files and settings."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from proxy.api import sending
from proxy.storage.database import StorageError
from proxy.userdata.stored import MAX_SETTINGS_BYTES, SETTINGS, StoredUserData

Client = TestClient[Any, Any]
REASON = 'Invalid filename. Please avoid special characters like :\\/*?"<>|'


def url(path: str) -> URL:
    """The path as it goes over the wire."""
    return URL(path, encoded=True)


@pytest.fixture
async def stored(userdata: StoredUserData) -> StoredUserData:
    """Some user data."""
    for name in ("workflows/one.json", "workflows/sub dir/two é.json", "plain.txt", ".hidden"):
        await userdata.write("local", name, b"hello")
    return userdata


async def status_and_text(answer: Any) -> tuple[int, str]:
    return answer.status, await answer.text()


async def test_a_file_comes_back_as_it_was_sent(client: Client) -> None:
    answer = await client.post(url("/userdata/workflows%2Fa%20%C3%A9.json"), data=b'{"a": 1}')
    assert (answer.status, await answer.json()) == (200, "workflows/a é.json")
    found = await client.get(url("/api/userdata/workflows%2Fa%20%C3%A9.json"))
    assert (found.status, await found.read()) == (200, b'{"a": 1}')
    assert found.headers["Content-Type"] == "application/json"
    assert found.headers["Content-Disposition"] == "attachment"
    assert found.headers["X-Content-Type-Options"] == "nosniff"


async def test_an_empty_file_is_a_file(client: Client) -> None:
    assert (await client.post("/userdata/empty")).status == 200
    assert await (await client.get("/userdata/empty")).read() == b""


async def test_an_unescaped_slash_is_another_route(client: Client, stored: StoredUserData) -> None:
    assert await status_and_text(await client.get("/userdata/workflows/one.json")) == (404, "")
    assert (await client.post("/userdata/workflows/one.json")).status == 405


async def test_names_are_unescaped_twice(client: Client, stored: StoredUserData) -> None:
    assert (await client.get(url("/userdata/workflows%252Fone.json"))).status == 200


async def test_a_part_of_a_file(client: Client, stored: StoredUserData) -> None:
    part = await client.get("/userdata/plain.txt", headers={"Range": "bytes=1-2"})
    assert (part.status, await part.text()) == (206, "el")
    assert part.headers["Content-Range"] == "bytes 1-2/5"
    beyond = await client.get("/userdata/plain.txt", headers={"Range": "bytes=9-"})
    assert beyond.status == 416


async def test_what_a_client_has_already_is_not_sent(
    client: Client, stored: StoredUserData
) -> None:
    tag = (await client.head("/userdata/plain.txt")).headers["Etag"]
    answer = await client.get("/userdata/plain.txt", headers={"If-None-Match": tag})
    assert await status_and_text(answer) == (304, "")


@pytest.mark.parametrize(
    ("name", "type_", "disposition"),
    [
        ("user.css", "text/css", "inline"),
        ("other.css", "application/octet-stream", "attachment"),
        ("page.html", "application/octet-stream", "attachment"),
        ("x.svg", "application/octet-stream", "attachment"),
        ("x.png", "image/png", "attachment"),
    ],
)
async def test_nothing_runs_in_a_browser_but_the_members_style_sheet(
    client: Client, name: str, type_: str, disposition: str
) -> None:
    await client.post(f"/userdata/{name}", data=b"x")
    headers = (await client.get(f"/userdata/{name}")).headers
    assert (headers["Content-Type"], headers["Content-Disposition"]) == (type_, disposition)


async def test_overwriting_can_be_refused(client: Client) -> None:
    first = await client.post("/userdata/a?overwrite=false", data=b"1")
    second = await client.post("/userdata/a?overwrite=false", data=b"2")
    assert (first.status, await status_and_text(second)) == (200, (409, "File already exists"))
    assert await (await client.get("/userdata/a")).text() == "1"
    assert (await client.post("/userdata/a", data=b"3")).status == 200
    assert await (await client.get("/userdata/a")).text() == "3"


async def test_the_full_info_of_what_was_written_has_whole_milliseconds(client: Client) -> None:
    info = await (await client.post("/userdata/a?full_info=TRUE", data=b"123")).json()
    assert (info["path"], info["size"]) == ("a", 3)
    assert abs(info["modified"] / 1000 - time.time()) < 60
    assert type(info["modified"]) is type(info["created"]) is int


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("dir=workflows", ["one.json"]),
        ("dir=workflows/", ["one.json"]),
        ("dir=workflows%2Fsub%20dir", ["two é.json"]),
        ("dir=workflows&recurse=1", ["one.json"]),
        ("dir=workflows&recurse=TRUE", ["one.json", "sub dir/two é.json"]),
        ("dir=workflows&split=true", [["one.json", "one.json"]]),
        (
            "dir=workflows&recurse=true&split=true",
            [["one.json", "one.json"], ["sub dir/two é.json", "sub dir", "two é.json"]],
        ),
        ("dir=.", ["plain.txt"]),
        ("dir=plain.txt", []),
    ],
)
async def test_listings(client: Client, stored: StoredUserData, query: str, answer: Any) -> None:
    found = await client.get(url(f"/userdata?{query}"))
    assert (found.status, await found.json()) == (200, answer)


async def test_full_info_wins_over_split(client: Client, stored: StoredUserData) -> None:
    found = await client.get("/userdata?dir=workflows&split=true&full_info=true&recurse=true")
    infos = await found.json()
    assert [info["path"] for info in infos] == ["one.json", "sub dir/two é.json"]
    assert all(info.keys() == {"path", "size", "modified", "created"} for info in infos)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("", (400, "Directory not provided")),
        ("dir=", (400, "Directory not provided")),
        ("dir=..", (403, "Invalid directory")),
        ("dir=/etc", (403, "Invalid directory")),
        ("dir=..%5C..", (403, "Invalid directory")),
        ("dir=nope", (404, "Directory not found")),
        ("dir=a%00b", (404, "Directory not found")),
        ("dir=" + "x" * 300, (404, "Directory not found")),
    ],
)
async def test_listings_that_are_refused(client: Client, query: str, answer: Any) -> None:
    assert await status_and_text(await client.get(url(f"/userdata?{query}"))) == answer


async def test_the_tree_has_folders_first_and_hidden_files_too(
    client: Client, stored: StoredUserData
) -> None:
    tree = await (await client.get("/v2/userdata")).json()
    assert [(entry["type"], entry["path"]) for entry in tree] == [
        ("directory", "workflows/sub dir"),
        ("directory", "workflows"),
        ("file", ".hidden"),
        ("file", "workflows/one.json"),
        ("file", "plain.txt"),
        ("file", "workflows/sub dir/two é.json"),
    ]
    assert tree[0] == {"name": "sub dir", "path": "workflows/sub dir", "type": "directory"}
    assert type(tree[2]["modified"]) is float


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("path=nope", (404, "Requested path not found")),
        ("path=..", (400, "Invalid path requested")),
        ("path=plain.txt", (400, "Requested path is not a directory")),
    ],
)
async def test_trees_that_are_refused(
    client: Client, stored: StoredUserData, query: str, answer: Any
) -> None:
    assert await status_and_text(await client.get(f"/v2/userdata?{query}")) == answer


async def test_a_long_list_comes_in_pieces(
    client: Client, userdata: StoredUserData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "ITEMS", 3)
    names = [f"{number}.json" for number in range(7)]
    for name in names:
        await userdata.write("local", f"many/{name}", b"{}")
    listed = await client.get("/userdata?dir=many")
    assert (await listed.json(), listed.content_length) == (names, None)
    split = await (await client.get("/userdata?dir=many&split=true")).json()
    assert split == [[name, name] for name in names]
    tree = await (await client.get("/v2/userdata?path=many")).json()
    assert [entry["name"] for entry in tree] == names


async def test_the_tree_below_a_folder_has_paths_from_the_top(
    client: Client, stored: StoredUserData
) -> None:
    tree = await (await client.get(url("/api/v2/userdata?path=workflows%2Fsub%20dir"))).json()
    assert [entry["path"] for entry in tree] == ["workflows/sub dir/two é.json"]


async def test_without_any_data_the_tree_is_empty(client: Client) -> None:
    assert await (await client.get("/v2/userdata")).json() == []


async def test_a_file_can_be_moved(client: Client, stored: StoredUserData) -> None:
    moved = await client.post(url("/userdata/plain.txt/move/new%2Fname.txt"))
    assert (moved.status, await moved.json()) == (200, "new/name.txt")
    assert await (await client.get(url("/userdata/new%2Fname.txt"))).text() == "hello"
    assert (await client.get("/userdata/plain.txt")).status == 404


async def test_a_move_can_spare_what_is_there(client: Client, stored: StoredUserData) -> None:
    onto = "/userdata/plain.txt/move/workflows%2Fone.json"
    refused = await client.post(url(f"{onto}?overwrite=false"))
    assert await status_and_text(refused) == (409, "File already exists")
    info = await (await client.post(url(f"{onto}?full_info=true"))).json()
    assert info["path"] == "workflows/one.json"


async def test_a_file_can_be_deleted_once(client: Client, stored: StoredUserData) -> None:
    first = await client.delete("/userdata/plain.txt")
    assert await status_and_text(first) == (204, "")
    assert await status_and_text(await client.delete("/userdata/plain.txt")) == (404, "")


async def test_a_folder_is_no_file(client: Client, stored: StoredUserData) -> None:
    assert await status_and_text(await client.get("/userdata/workflows")) == (403, "")
    written = await client.post("/userdata/workflows", data=b"x")
    assert (written.status, written.reason, await written.read()) == (400, REASON, b"")
    for answer in (
        await client.delete("/userdata/workflows"),
        await client.post("/userdata/plain.txt/move/workflows"),
    ):
        assert (answer.status, (await answer.json())["error"]["type"]) == (400, "is_a_directory")
    assert (await client.get(url("/userdata/workflows%2Fone.json"))).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "..%2F..%2Fsecret",
        "%2Fetc%2Fpasswd",
        "a%2F..%2F..",
        "a%2F..%2F..%2Fsecret",
        "%252e%252e%252fsecret",
        "..%5C..%5Csecret",
        "%5C%5Cserver%5Cshare",
        "..%2Fother%2Fsecret",
    ],
)
async def test_no_name_leads_out_of_the_members_folder(
    client: Client, userdata: StoredUserData, name: str
) -> None:
    await userdata.write("other", "secret", b"secret")
    await userdata.write("local", "own", b"mine")
    for method, path in (
        ("GET", f"/userdata/{name}"),
        ("POST", f"/userdata/{name}"),
        ("DELETE", f"/userdata/{name}"),
        ("POST", f"/userdata/{name}/move/x"),
        ("POST", f"/userdata/own/move/{name}"),
    ):
        answer = await client.request(method, url(path), data=b"evil" if method == "POST" else None)
        assert (answer.status, await answer.read()) == (403, b""), (method, path)
    assert (await userdata.read("other", "secret"))[0] == b"secret"
    assert (await userdata.read("local", "own"))[0] == b"mine"
    assert [entry.path for entry in await userdata.tree("local", "")] == ["own"]


@pytest.mark.parametrize("name", ["a%00b", "x" * 300, "%2F".join("a" * 500), "plain.txt%2Fx"])
async def test_names_that_no_file_can_have(
    client: Client, stored: StoredUserData, name: str
) -> None:
    written = await client.post(url(f"/userdata/{name}"), data=b"x")
    assert (written.status, written.reason, await written.read()) == (400, REASON, b"")
    assert await status_and_text(await client.get(url(f"/userdata/{name}"))) == (404, "")
    assert await status_and_text(await client.delete(url(f"/userdata/{name}"))) == (404, "")


@pytest.mark.parametrize("name", ["C:evil", "C:%5Cevil", "NUL", "con.txt", "a:b", "dot.", "%FF"])
async def test_odd_names_are_names(client: Client, userdata: StoredUserData, name: str) -> None:
    assert (await client.post(url(f"/userdata/{name}"), data=b"x")).status == 200
    assert await (await client.get(url(f"/userdata/{name}"))).read() == b"x"
    assert [entry.is_folder for entry in await userdata.tree("local", "")].count(False) == 1


async def test_a_database_that_refuses_is_not_the_clients_fault(
    client: Client, userdata: StoredUserData, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(userdata._database, "write", full)
    assert (await client.post("/userdata/a", data=b"x")).status == 503
    assert (await client.post("/settings/a", data="1")).status == 503


async def test_a_body_over_the_limit_is_413(serve: Any) -> None:
    client = await serve(max_upload_bytes=10)
    assert (await client.post("/userdata/a", data=b"x" * 11)).status == 413
    assert await (await client.get("/v2/userdata")).json() == []


async def test_at_first_there_are_none(client: Client) -> None:
    assert await (await client.get("/settings")).json() == {}


async def test_setting_some_keeps_the_others(client: Client) -> None:
    first = await client.post("/settings", data='{"a": 1, "b": {"x": [1, null]}}')
    assert (first.status, await first.read()) == (200, b"")
    assert "Content-Type" not in first.headers
    await client.post("/api/settings", data='{"a": 2}')
    assert await (await client.get("/settings")).json() == {"a": 2, "b": {"x": [1, None]}}


@pytest.mark.parametrize("value", ["true", "null", '"text"', "[1, 2]", str(2**70), "NaN"])
async def test_one_setting_is_its_bare_value(client: Client, value: str) -> None:
    answer = await client.post("/settings/h%C3%A9%2Fx", data=value)
    assert (answer.status, await answer.read()) == (200, b"")
    assert await (await client.get("/settings/h%C3%A9%2Fx")).text() == value


async def test_an_unknown_setting_is_null(client: Client) -> None:
    answer = await client.get("/settings/nope")
    assert (answer.status, await answer.text()) == (200, "null")


@pytest.mark.parametrize(
    "body", ["", "{", "null", "[]", '"x"', '{"a": ' + "[" * 5000 + "]" * 5000 + "}"]
)
async def test_what_are_no_settings_is_refused(client: Client, body: str) -> None:
    answer = await client.post("/settings", data=body)
    assert answer.status == 400
    assert (await answer.json())["error"]["message"]
    assert await (await client.get("/settings")).json() == {}


async def test_the_settings_are_a_file_of_the_member(client: Client) -> None:
    await client.post("/settings/é", data="1")
    file = await client.get("/userdata/comfy.settings.json")
    assert await file.text() == '{\n    "\\u00e9": 1\n}'
    await client.post("/userdata/comfy.settings.json", data='{"b": 2}')
    assert await (await client.get("/settings")).json() == {"b": 2}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
async def test_a_damaged_file_counts_as_none(
    client: Client, userdata: StoredUserData, content: bytes
) -> None:
    await userdata.write("local", SETTINGS, content)
    assert await (await client.get("/settings")).json() == {}
    assert (await client.post("/settings/a", data="1")).status == 200
    assert json.loads((await userdata.read("local", SETTINGS))[0]) == {"a": 1}


async def test_changes_at_the_same_time_are_all_kept(client: Client) -> None:
    await asyncio.gather(*(client.post(f"/settings/{n}", data=str(n)) for n in range(20)))
    kept = await (await client.get("/settings")).json()
    assert kept == {str(n): n for n in range(20)}


async def test_a_large_file_comes_in_parts_and_under_conditions(client: Client) -> None:
    data = bytes(range(256)) * 4096
    await client.post("/userdata/large.bin", data=data)
    whole = await client.get("/userdata/large.bin")
    assert (whole.status, await whole.read()) == (200, data)
    assert whole.headers["Content-Length"] == str(len(data))
    part = await client.get("/userdata/large.bin", headers={"Range": "bytes=300000-699999"})
    assert (part.status, await part.read()) == (206, data[300_000:700_000])
    assert part.headers["Content-Range"] == f"bytes 300000-699999/{len(data)}"
    tag = {"If-None-Match": whole.headers["ETag"]}
    known = await client.get("/userdata/large.bin", headers=tag)
    assert (known.status, await known.read()) == (304, b"")
    head = await client.head("/userdata/large.bin")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))


async def test_settings_have_a_largest_size(client: Client) -> None:
    data = io.BytesIO(b'"' + b"x" * MAX_SETTINGS_BYTES + b'"')
    large = await client.post("/settings/a", data=data)
    assert large.status == 413
    assert (await large.json())["error"]["type"] == "settings_too_large"
    assert (await client.post("/settings/a", json="x" * 1000)).status == 200
    assert await (await client.get("/settings/a")).json() == "x" * 1000


async def test_a_user_is_a_name_in_a_list(client: Client) -> None:
    made = await client.post("/users", json={"username": "bob smith"})
    assert made.status == 200
    assert re.fullmatch(r"bob-smith_[0-9a-f]{8}-[0-9a-f-]{27}", await made.json())
    assert (await (await client.get("/users")).json())["storage"] == "server"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"username": "default"}, "Duplicate username."),
        ({"username": ""}, "username not provided"),
        ({}, "username not provided"),
        ({"username": 5}, "username not provided"),
        ({"username": "__system"}, "Invalid username."),
        ({"username": "x" * 101}, "Invalid username."),
    ],
)
async def test_a_user_needs_a_name_of_its_own(client: Client, body: Any, error: str) -> None:
    refused = await client.post("/users", json=body)
    assert (refused.status, await refused.json()) == (400, {"error": error})


async def test_a_name_of_a_user_is_given_once(client: Client) -> None:
    assert (await client.post("/users", json={"username": "bob"})).status == 200
    again = await client.post("/users", json={"username": "bob"})
    assert (again.status, await again.json()) == (400, {"error": "Duplicate username."})
