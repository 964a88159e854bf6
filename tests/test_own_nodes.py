"""A deployment in the settings and on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from deployments import Place, framed
from process import command, serving
from stack import Client, Proxy
from waiting import until
from yarl import URL

from proxy.admin.state import REASONS
from proxy.catalog.service import Catalog
from proxy.catalog.source import Accounts
from proxy.cloud.errors import CloudError, CloudUnreachable
from proxy.cloud.upstream import Capabilities
from proxy.cloud.v2.catalog import NodeList
from proxy.cloud.v2.client import DeploymentClient
from proxy.settings import AccountSettings, ConfigError, Settings, nodes_of, read_accounts


async def checked(place: Place, **changes: str | None) -> tuple[int, str]:
    path = place.config(**changes)
    words = ("check", "--config", str(path), "--data-dir", str(place.folder / "data"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(place.folder)}
    code, out, err = await command(*words, environment=environment)
    return code, out + err


# --- settings ------------------------------------------------------------------------------


def table(**fields: Any) -> AccountSettings:
    known: dict[str, Any] = {"base_url": "https://id.run.comfy.app", "object_info": "a.json"}
    return AccountSettings(name="studio", key="k" * 20, **{**known, **fields})


def test_the_list_of_nodes_is_a_file_or_an_address() -> None:
    assert nodes_of(table()) == Path("a.json")
    assert str(nodes_of(table(object_info="http://127.0.0.1:8188"))) == "http://127.0.0.1:8188"
    assert nodes_of(AccountSettings(name="cloud", key="k" * 20)) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_url": None}, "has no base_url"),
        ({"object_info": None}, "without object_info"),
    ],
)
def test_half_a_deployment_is_refused(fields: dict[str, Any], words: str) -> None:
    about = {"base_url": "https://id.run.comfy.app", "object_info": "a.json", **fields}
    account = AccountSettings(**{"name": "studio", "key": "k" * 20, **about})
    with pytest.raises(ConfigError, match=words):
        nodes_of(account)


def test_a_deployment_may_have_the_key_of_its_workspaces_account(tmp_path: Path) -> None:
    cloud = AccountSettings(name="cloud", key="k" * 20)
    settings = Settings(data_dir=tmp_path, accounts=(cloud, table()))
    assert [account.name for account in read_accounts(settings)] == ["cloud", "studio"]
    with pytest.raises(ConfigError, match="same key"):
        read_accounts(
            Settings(data_dir=tmp_path, accounts=(cloud, cloud.model_copy(update={"name": "b"})))
        )


# --- routing -------------------------------------------------------------------------------


class Listed:
    """An account with classes."""

    def __init__(self, *names: str, validates: bool) -> None:
        self.capabilities = Capabilities(validates=validates)
        self.names = names
        self.calls = 0
        self.failure: CloudError | None = None

    async def object_info(self) -> bytes:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return json.dumps({name: {"input": {}} for name in self.names}).encode()


async def test_a_class_that_none_has_is_for_who_checks_before_charging(tmp_path: Path) -> None:
    named: Any = {
        "cloud": Listed("A", validates=True),
        "studio": Listed("A", "B", validates=False),
    }
    url: Any = "http://cloud"
    catalog = Catalog(Accounts(url, list, named), tmp_path, max_age=60.0)
    await catalog.start()
    await catalog.wait_loaded(10.0)
    needs = {name: catalog.needs_of({"1": {"class_type": name, "inputs": {}}}) for name in "ABC"}
    await catalog.close()
    assert needs["A"] is None
    assert needs["B"] is not None
    assert needs["B"].accounts == {"studio"}
    assert needs["C"] is not None
    assert needs["C"].accounts == {"cloud"}


async def test_a_list_that_is_no_json_takes_no_other_accounts_nodes_away(tmp_path: Path) -> None:
    listed = tmp_path / "object_info.json"
    listed.write_text("{no json}")
    studio = DeploymentClient(URL("http://127.0.0.1:9"), "key", NodeList(listed))
    named: Any = {"cloud": Listed("A", validates=True), "studio": studio}
    lists = {"studio": listed}
    catalog = Catalog(Accounts(URL("http://cloud"), list, named, lists), tmp_path, max_age=60.0)
    await catalog.start()
    assert await catalog.wait_loaded(10.0)
    assert set(catalog.nodes) == {"A"}
    await catalog.close()


class Lists:
    """A folder with the list of a deployment, and catalogs of its account and of the cloud's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "object_info.json"
        self.cloud = Listed("A", validates=True)
        self.studio = DeploymentClient(URL("http://127.0.0.1:9"), "key", NodeList(self.file))

    def write(self, *names: str) -> None:
        self.file.write_text(json.dumps({name: {"input": {}} for name in names}))

    @asynccontextmanager
    async def catalog(self) -> AsyncIterator[Catalog]:
        named: Any = {"cloud": self.cloud, "studio": self.studio}
        accounts = Accounts(URL("http://cloud"), list, named, {"studio": self.file})
        catalog = Catalog(accounts, self.folder / "catalog", max_age=1e6, list_interval=0.01)
        await catalog.start()
        assert await catalog.wait_loaded(10.0)
        yield catalog
        await catalog.close()


def able(catalog: Catalog, name: str) -> frozenset[str] | None:
    """The accounts that may run a node, `None` for all."""
    needs = catalog.needs_of({"1": {"class_type": name, "inputs": {}}})
    return None if needs is None else needs.accounts


async def test_a_list_that_is_a_file_is_read_at_each_start(tmp_path: Path) -> None:
    lists = Lists(tmp_path)
    lists.write("A", "Old")
    async with lists.catalog() as catalog:
        assert able(catalog, "Old") == {"studio"}
    lists.write("A", "New")
    async with lists.catalog() as catalog:
        assert set(catalog.nodes) == {"A", "New"}
        assert (able(catalog, "A"), able(catalog, "New")) == (None, {"studio"})
    assert lists.cloud.calls == 1


async def test_a_list_that_is_a_file_is_followed(tmp_path: Path) -> None:
    lists = Lists(tmp_path)
    lists.file.write_text("{no json}")
    async with lists.catalog() as catalog, asyncio.TaskGroup() as group:
        assert able(catalog, "A") == {"cloud"}
        assert str(lists.file) in lists.studio.unusable
        assert str(lists.file) in (await lists.studio.account_plan()).notice
        follow = group.create_task(catalog.follow_lists())
        lists.write("A", "New")
        await until(lambda: "New" in catalog.nodes)
        assert not lists.studio.unusable
        lists.file.unlink()
        await until(lambda: bool(lists.studio.unusable))
        assert "New" in catalog.nodes
        follow.cancel()
    assert lists.cloud.calls == 1


async def test_without_the_cloud_there_are_the_nodes_of_the_file(tmp_path: Path) -> None:
    lists = Lists(tmp_path)
    lists.write("New")
    lists.cloud.failure = CloudUnreachable("down")
    async with lists.catalog() as catalog:
        assert set(catalog.nodes) == {"New"}
    lists.cloud.failure = None
    async with lists.catalog() as catalog:
        assert set(catalog.nodes) == {"A", "New"}


async def test_a_copy_of_a_list_is_of_its_address(tmp_path: Path) -> None:
    named: Any = {"studio": Listed("A", validates=False)}
    for address, calls in (("http://a:1", 1), ("http://a:1", 1), ("http://b:1", 2)):
        accounts = Accounts(URL("http://cloud"), list, named, {"studio": URL(address)})
        catalog = Catalog(accounts, tmp_path, max_age=1e6)
        await catalog.start()
        assert await catalog.wait_loaded(10.0)
        await catalog.close()
        assert named["studio"].calls == calls


async def test_a_deployment_without_its_list_waits_and_says_so(place: Place) -> None:
    async with place.proxy() as (client, _):

        async def studio() -> dict[str, Any]:
            accounts = (await client.get("proxy/api/state"))[1]["accounts"]
            return next(account for account in accounts if account["name"] == "studio")

        async def rests() -> bool:
            return (await studio())["reason"] == REASONS["no_nodes"]

        async def is_well() -> bool:
            return (await studio())["reason"] is None

        (place.folder / "object_info.json").write_text("[]")
        await until(rests)
        assert "object_info.json" in (await studio())["plan"]
        status, body = await client.post("prompt", {"prompt": framed()})
        assert (status, body["error"]["type"]) == (400, "DEPLOYMENT_WITHOUT_NODES")
        assert not place.deployment.jobs
        assert (await client.run(graphs.plain()))["status"]["completed"]
        (place.folder / "object_info.json").write_bytes(place.deployment.object_info)
        await until(is_well)
        assert (await client.run(framed()))["status"]["completed"]


async def test_state_and_metrics_tell_which_account_is_a_deployment(place: Place) -> None:
    async with place.proxy() as (client, proxy):
        accounts = (await client.get("proxy/api/state"))[1]["accounts"]
        kinds = {account["name"]: account["kind"] for account in accounts}
        assert kinds == {"cloud": "cloud", "studio": "deployment"}
        async with place.session.get(proxy.url / "metrics") as answer:
            lines = (await answer.text()).splitlines()
    name = "comfy_cloud_proxy_account_info"
    assert f'{name}{{account="studio",kind="deployment"}} 1.0' in lines
    assert f'{name}{{account="cloud",kind="cloud"}} 1.0' in lines


# --- commands ------------------------------------------------------------------------------


async def test_check_reads_the_list_and_tries_the_key(place: Place) -> None:
    code, out = await checked(place)
    assert code == 0, out
    assert "node classes in" in out
    assert "accepts the key" in out
    assert not place.deployment.jobs


async def test_check_says_what_is_wrong(place: Place) -> None:
    code, out = await checked(place, object_info=str(place.folder / "none.json"))
    assert code == 1
    assert "save it with comfy-cloud-proxy catalog save" in out
    (place.folder / "wrong").write_text("comfyui-of-another-workspace")
    code, out = await checked(place, key_file=str(place.folder / "wrong"))
    assert code == 1
    assert "does not know this key" in out


async def test_a_list_that_is_older_than_the_release_is_told(place: Place) -> None:
    path = place.config()
    data = place.folder / "data"
    options = ("--config", str(path))
    async with serving(data, *options) as process:
        client = Client(place.session, process.url)
        await client.until_ready()
        await client.run(framed(1))
        place.deployment.switches.release = 4
        await client.run(framed(2))
        await process.stop()
    code, out = await checked(place)
    assert code == 0
    assert "studio: Runs release 4 since" in out
    listed = place.folder / "object_info.json"
    os.utime(listed, (time.time() + 60, time.time() + 60))
    _, out = await checked(place)
    assert "release 4" not in out


async def test_a_list_is_saved_whole_or_not_at_all(proxy: Proxy, tmp_path: Path) -> None:
    target = tmp_path / "object_info.json"
    address = str(proxy.url).rstrip("/")
    code, out, _ = await command("catalog", "save", address, str(target))
    assert code == 0
    assert "node classes in" in out
    assert "KSampler" in json.loads(target.read_text())
    code, _, err = await command("catalog", "save", "http://127.0.0.1:9", str(target))
    assert code == 1
    assert "start ComfyUI there" in err
    assert "KSampler" in json.loads(target.read_text())
    with os.scandir(tmp_path) as left:
        assert {entry.name for entry in left} == {"data", "object_info.json"}


async def test_a_simulated_deployment_is_one_account_more(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    options = ("--simulate", "--simulate-deployment")
    async with serving(tmp_path, *options) as process:
        client = Client(session, process.url)
        await client.until_ready()
        _, classes = await client.get("object_info")
        entry = await client.run(framed())
    assert {"AddFrame", "ReducePalette", "StampPicture", "KSampler"} <= classes.keys()
    assert entry["status"]["status_str"] == "success"
