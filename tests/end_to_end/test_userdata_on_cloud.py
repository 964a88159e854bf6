"""User data and settings in the Comfy Cloud account, asked for as from a local ComfyUI."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from stack import Proxy, running_proxy
from team import add_members
from yarl import URL

from proxy import app
from proxy.api.keys import MEMBERS, USERDATA
from proxy.cloud.resilience import RetryPolicy
from proxy.members.member import Member
from proxy.runtime.backoff import Backoff
from proxy.settings import ConfigError
from proxy.simulator import HttpFault, Simulator
from proxy.simulator.account import SimulatedUserFile
from proxy.translate.errors import LocalError

QUICK = app.Timeouts(retries=RetryPolicy(budget=0.3, backoff=Backoff(first=0.01, longest=0.05)))


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(
        simulator, tmp_path / "data", timeouts=QUICK, userdata="cloud"
    ) as running:
        yield running


class Program:
    """Asks the proxy; names of files go over the wire as one step of the path."""

    def __init__(self, session: aiohttp.ClientSession, url: URL) -> None:
        self._session = session
        self._url = url

    async def ask(
        self, method: str, path: str, data: bytes | None = None, **headers: str
    ) -> tuple[int, str]:
        url = URL(f"{self._url}".rstrip("/") + path, encoded=True)
        body = None if data is None else io.BytesIO(data)
        async with self._session.request(method, url, data=body, headers=headers) as answer:
            self.headers = answer.headers
            return answer.status, await answer.text()

    async def json(self, path: str) -> Any:
        status, text = await self.ask("GET", path)
        assert status == 200, text
        return json.loads(text)


@pytest.fixture
def program(session: aiohttp.ClientSession, proxy: Proxy) -> Program:
    return Program(session, proxy.url)


@pytest.fixture
async def stored(program: Program) -> Program:
    """Some files in the account."""
    for name in ("workflows%2Fone.json", "workflows%2Fsub%20dir%2Ftwo%20%C3%A9.json", "plain.txt"):
        assert (await program.ask("POST", f"/userdata/{name}", b"hello"))[0] == 200
    return program


async def test_settings_are_the_accounts(simulator: Simulator, program: Program) -> None:
    simulator.account.settings["theirs"] = [1]
    assert await program.ask("POST", "/settings", b'{"a": 1}') == (200, "")
    assert await program.ask("POST", "/api/settings/h%C3%A9%2Fx", b"null") == (200, "")
    assert simulator.account.settings == {"theirs": [1], "a": 1, "h\u00e9/x": None}
    assert await program.json("/settings") == simulator.account.settings


async def test_a_setting_is_its_bare_value_or_null(program: Program) -> None:
    await program.ask("POST", "/settings/a%2Fb", str(2**70).encode())
    assert await program.ask("GET", "/settings/a%2Fb") == (200, str(2**70))
    assert await program.ask("GET", "/settings/nope") == (200, "null")
    assert await program.ask("GET", "/settings/.%2E") == (200, "null")


async def test_a_file_is_written_and_read(simulator: Simulator, program: Program) -> None:
    answer = await program.ask("POST", "/userdata/workflows%2Fa%20%C3%A9.json", b"{}")
    assert answer == (200, '"workflows/a \\u00e9.json"')
    assert simulator.account.userdata["workflows/a \u00e9.json"].data == b"{}"
    assert await program.ask("GET", "/api/userdata/workflows%2Fa%20%C3%A9.json") == (200, "{}")
    assert program.headers["Content-Type"] == "application/json"
    assert program.headers["Content-Disposition"] == "attachment"
    assert program.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_large_file_is_written_and_read(program: Program) -> None:
    workflow = b"w" * 3_000_000
    assert (await program.ask("POST", "/userdata/large?overwrite=false", workflow))[0] == 200
    assert (await program.ask("POST", "/userdata/large", workflow + b"x"))[0] == 200
    assert await program.ask("GET", "/userdata/large") == (200, f"{workflow.decode()}x")


@pytest.mark.parametrize("unit", ["ms", "s", "iso"])
async def test_times_are_whole_ms_whatever_the_cloud_says(
    simulator: Simulator, program: Program, unit: str
) -> None:
    simulator.switches.userdata_modified = unit
    status, text = await program.ask("POST", "/userdata/x?full_info=true", b"12")
    info = json.loads(text)
    assert (status, info["path"], info["size"]) == (200, "x", 2)
    assert type(info["modified"]) is type(info["created"]) is int
    stamp = simulator.account.userdata["x"].modified
    assert abs(info["modified"] / 1000 - stamp) < 0.01


async def test_folders_are_listed_in_all_ways(stored: Program) -> None:
    both = ["one.json", "sub dir/two \u00e9.json"]
    assert await stored.json("/userdata?dir=workflows") == ["one.json"]
    assert await stored.json("/userdata?dir=workflows%2F&recurse=true") == both
    split = await stored.json("/userdata?dir=workflows&recurse=true&split=true")
    assert split == [["one.json", "one.json"], [both[1], "sub dir", "two \u00e9.json"]]
    (info,) = await stored.json("/userdata?dir=workflows&full_info=true")
    assert info.keys() == {"path", "size", "modified", "created"}
    assert await stored.json("/userdata?dir=.") == ["plain.txt"]


async def test_a_folder_that_is_not_there(stored: Program) -> None:
    assert await stored.ask("GET", "/userdata?dir=nope") == (404, "Directory not found")
    assert await stored.ask("GET", "/userdata") == (400, "Directory not provided")
    assert await stored.ask("GET", "/userdata?dir=..") == (403, "Invalid directory")


async def test_hidden_files_are_not_listed(stored: Program) -> None:
    await stored.ask("POST", "/userdata/workflows%2F.index.json", b"{}")
    assert await stored.json("/userdata?dir=workflows") == ["one.json"]


async def test_the_tree_is_made_of_the_files(stored: Program) -> None:
    tree = await stored.json("/v2/userdata")
    assert [(item["type"], item["path"]) for item in tree] == [
        ("directory", "workflows/sub dir"),
        ("directory", "workflows"),
        ("file", "workflows/one.json"),
        ("file", "plain.txt"),
        ("file", "workflows/sub dir/two \u00e9.json"),
    ]
    below = await stored.json("/v2/userdata?path=workflows%2Fsub%20dir")
    assert [item["path"] for item in below] == ["workflows/sub dir/two \u00e9.json"]
    not_there = await stored.ask("GET", "/v2/userdata?path=nope")
    assert not_there == (404, "Requested path not found")
    a_file = await stored.ask("GET", "/v2/userdata?path=workflows%2Fone.json")
    assert a_file == (400, "Requested path is not a directory")


async def test_an_empty_account_has_an_empty_tree(program: Program) -> None:
    assert await program.json("/v2/userdata") == []


async def test_files_are_moved_and_deleted(stored: Program) -> None:
    taken = await stored.ask("POST", "/userdata/plain.txt?overwrite=false", b"")
    assert taken == (409, "File already exists")
    path = "/userdata/plain.txt/move/workflows%2Fone.json"
    assert await stored.ask("POST", f"{path}?overwrite=false") == (409, "File already exists")
    assert await stored.ask("POST", path) == (200, '"workflows/one.json"')
    assert await stored.ask("POST", "/userdata/plain.txt/move/x") == (404, "")
    assert await stored.ask("DELETE", "/userdata/workflows%2Fone.json") == (204, "")
    assert await stored.ask("DELETE", "/userdata/workflows%2Fone.json") == (404, "")
    assert await stored.ask("GET", "/userdata/workflows%2Fone.json") == (404, "")


@pytest.mark.parametrize("name", ["..%2Fx", "%2Fetc", "a%2F..%2F..%2Fx", "..%5Cx"])
async def test_names_that_lead_out_are_not_even_sent(
    simulator: Simulator, program: Program, name: str
) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", ""), ("POST", "/move/x")):
        assert await program.ask(method, f"/userdata/{name}{path}") == (403, "")
    assert not [call for call in simulator.calls if "userdata" in call]


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("GET", "/userdata/x", {"status": 500}),
        ("GET", "/userdata?dir=x", {"reset": True}),
        ("POST", "/userdata/x", {"cut": 1}),
        ("POST", "/userdata/x/move/y", {"status": 500}),
        ("DELETE", "/userdata/x", {"reset": True}),
        ("GET", "/v2/userdata", {"cut": 1}),
        ("GET", "/settings", {"status": 500}),
        ("POST", "/settings", {"reset": True}),
        ("GET", "/settings/x", {"cut": 1}),
    ],
)
async def test_a_cloud_that_fails_is_503_with_a_sentence(
    simulator: Simulator, program: Program, fault: dict[str, Any], method: str, path: str
) -> None:
    simulator.account.userdata["x"] = SimulatedUserFile(b"content")
    simulator.faults.add(HttpFault("* /api/userdata*", **fault), times=None)
    simulator.faults.add(HttpFault("* /api/settings*", **fault), times=None)
    status, text = await program.ask(method, path, b"{}" if method == "POST" else None)
    assert status == 503, text
    assert json.loads(text)["error"]["message"].endswith(".")


async def test_with_members_it_is_refused_at_start(simulator: Simulator, tmp_path: Path) -> None:
    await add_members(tmp_path / "data", {"ann": "user"})
    with pytest.raises(ConfigError, match="userdata = cloud does not support members"):
        async with running_proxy(simulator, tmp_path / "data", userdata="cloud"):
            pass


async def test_once_there_is_a_member_nobody_gets_at_the_accounts(
    simulator: Simulator, proxy: Proxy, program: Program
) -> None:
    simulator.account.settings["secret"] = 1
    await proxy.services[MEMBERS].add(Member("ann"))
    with pytest.raises(LocalError, match="userdata = disk"):
        await proxy.services[USERDATA].settings("ann")
    status, text = await program.ask("GET", "/settings")
    assert status in (401, 403)
    assert "secret" not in text


async def test_a_refused_key_is_503(simulator: Simulator, program: Program) -> None:
    simulator.account.key = "another"
    status, text = await program.ask("GET", "/settings")
    assert (status, "COMFY_CLOUD_API_KEY" in text) == (503, True)
