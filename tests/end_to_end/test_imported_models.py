"""Models that the owners of accounts have imported: in menus, lists and jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from stack import Client, running_proxy
from team import bearer, running_team

from proxy.admin.state import REASONS
from proxy.catalog import service
from proxy.cloud.event_socket import Timeouts
from proxy.cloud.resilience import RetryPolicy
from proxy.settings import AccountSettings
from proxy.simulator import HttpFault, Simulator
from proxy.simulator.account import SimulatedAccount

OWN, LATER = "my own style.safetensors", "imported later.safetensors"
LORAS = ("LoraLoader", "lora_name")


def with_lora(name: str) -> dict[str, Any]:
    """The usual workflow with a LoRA."""
    graph = graphs.sampled()
    graph["10"] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["4", 0], "lora_name": name, "strength_model": 1.0},
    }
    graph["3"]["inputs"]["model"] = ["10", 0]
    return graph


async def menu(client: Client, class_type: str = "LoraLoader") -> list[str]:
    """The LoRAs that a class offers, by itself and among all."""
    _, alone = await client.get(f"object_info/{class_type}")
    _, everything = await client.get("object_info")
    names = alone[class_type]["input"]["required"]["lora_name"][0]
    assert everything[class_type]["input"]["required"]["lora_name"][0] == names
    return list(names)


@pytest.fixture
def own(simulator: Simulator) -> SimulatedAccount:
    simulator.account.import_model("loras", OWN)
    return simulator.account


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.usefixtures("own")
async def test_an_import_is_in_all_lists(
    simulator: Simulator, client: Client, listed: bool
) -> None:
    simulator.switches.listed_imports = listed
    await client.until_ready()
    assert OWN in await menu(client)
    _, names = await client.get("models/loras")
    assert names.count(OWN) == 1
    assert "add_detail.safetensors" in names
    _, models = await client.get("experiment/models/loras")
    assert {"name": OWN, "pathIndex": 0} in [
        {key: model[key] for key in ("name", "pathIndex")} for model in models
    ]
    tags = "models,model_type:loras"
    _, assets = await client.get("api/assets", include_tags=tags, limit="500")
    assert [asset["name"] for asset in assets["assets"]].count(OWN) == 1


async def test_a_job_with_an_import_runs(own: SimulatedAccount, client: Client) -> None:
    entry = await client.run(with_lora(OWN))
    assert entry["status"]["status_str"] == "success"
    (job,) = own.jobs.values()
    assert job.graph["10"]["inputs"]["lora_name"] == OWN


async def test_an_import_that_comes_later_runs_at_once(
    simulator: Simulator, client: Client
) -> None:
    await client.until_ready()
    assert LATER not in await menu(client)
    status, refused = await client.post("prompt", {"prompt": with_lora(LATER)})
    assert status == 400
    (error,) = refused["node_errors"]["10"]["errors"]
    assert error["type"] == "value_not_in_list"
    assert simulator.calls["POST /api/prompt"] == 0
    simulator.account.import_model("loras", LATER)
    entry = await client.run(with_lora(LATER))
    assert entry["status"]["status_str"] == "success"
    assert LATER in await menu(client)


async def test_a_client_causes_few_readings_and_then_the_cloud_decides(
    simulator: Simulator, client: Client
) -> None:
    await client.until_ready()
    before = simulator.calls["GET /api/object_info"]
    for _ in range(service.REREADS + 5):
        status, refused = await client.post("prompt", {"prompt": with_lora(LATER)})
        assert status == 400
        assert refused["node_errors"]["10"]["errors"][0]["type"] == "value_not_in_list"
    assert simulator.calls["GET /api/object_info"] == before + service.REREADS
    assert simulator.calls["POST /api/prompt"] == 5
    assert not simulator.jobs


async def test_without_a_fresh_list_the_cloud_decides(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    timeouts = Timeouts(catalog_timeout=0.5, retries=RetryPolicy(budget=0.5))
    async with running_proxy(simulator, tmp_path, timeouts=timeouts) as proxy:
        client = Client(session, proxy.url)
        await client.until_ready()
        simulator.account.import_model("loras", LATER)
        simulator.faults.add(HttpFault("GET /api/object_info", status=500), times=None)
        assert (await client.run(with_lora(LATER)))["status"]["status_str"] == "success"


# --- several accounts ---------------------------------------------------------------------------


@pytest.fixture
def accounts(simulator: Simulator, tmp_path: Path) -> list[AccountSettings]:
    """The accounts `one` and `two`; `two` has an import."""
    two = simulator.add_account("comfyui-key-of-two")
    two.import_model("loras", OWN)
    found = []
    for name, account in (("one", simulator.account), ("two", two)):
        (file := tmp_path / f"key of {name}").write_text(account.key)
        url = simulator.base_url
        found.append(AccountSettings(name=name, key_file=file, slots=1, base_url=url))
    return found


@pytest.fixture
async def both(
    simulator: Simulator,
    accounts: list[AccountSettings],
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> AsyncIterator[Client]:
    async with running_proxy(simulator, tmp_path / "data", accounts=tuple(accounts)) as proxy:
        client = Client(session, proxy.url)
        await client.until_ready()
        await simulator.wait_for_sockets(2)
        yield client


async def test_a_job_goes_to_the_account_with_its_import(
    simulator: Simulator, both: Client
) -> None:
    assert OWN in await menu(both)
    assert OWN in (await both.get("models/loras"))[1]
    for _ in range(3):
        await both.run(with_lora(OWN))
    one, two = (tenant.account for tenant in simulator.tenants)
    assert (len(one.jobs), len(two.jobs)) == (0, 3)


async def test_a_job_waits_for_the_account_with_its_import_and_says_so(
    simulator: Simulator, both: Client
) -> None:
    one, two = (tenant.account for tenant in simulator.tenants)
    first = await both.submit({**graphs.waiting(), **_renamed(with_lora(OWN))})
    await simulator.signal.until(lambda: len(two.jobs) == 1, 20)
    ahead = await both.submit(with_lora(OWN))
    waiting = await both.submit(with_lora(OWN))
    plain = await both.submit(graphs.plain())
    await both.ended(plain)
    assert len(one.jobs) == 1
    _, state = await both.get("proxy/api/state")
    reasons = {job["id"]: job["reason"] for job in state["waiting"]}
    assert reasons[waiting] == REASONS["model"]
    await both.post("api/jobs/cancel", {"job_ids": [first]})
    for prompt_id in (ahead, waiting):
        await both.ended(prompt_id)
    assert (len(one.jobs), len(two.jobs)) == (1, 3)


async def test_a_waiting_job_goes_to_the_account_with_its_import_after_a_restart(
    simulator: Simulator,
    accounts: list[AccountSettings],
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    one, two = (tenant.account for tenant in simulator.tenants)
    settings: dict[str, Any] = {"accounts": tuple(accounts)}
    async with running_proxy(simulator, tmp_path / "data", **settings) as proxy:
        client = Client(session, proxy.url)
        await client.until_ready()
        first = await client.submit({**graphs.waiting(), **_renamed(with_lora(OWN))})
        later = [await client.submit(with_lora(OWN)) for _ in range(3)]
    async with running_proxy(simulator, tmp_path / "data", **settings) as proxy:
        client = Client(session, proxy.url)
        await client.post("api/jobs/cancel", {"job_ids": [first]})
        for prompt_id in later:
            assert (await client.ended(prompt_id))["status"]["status_str"] == "success"
    assert (len(one.jobs), len(two.jobs)) == (0, 4)


def _renamed(graph: dict[str, Any]) -> dict[str, Any]:
    """The nodes under other ids."""

    def moved(value: Any) -> Any:
        return [f"x{value[0]}", value[1]] if isinstance(value, list) else value

    return {
        f"x{name}": {**node, "inputs": {key: moved(value) for key, value in node["inputs"].items()}}
        for name, node in graph.items()
    }


async def test_a_member_sees_the_imports_of_its_accounts_alone(
    simulator: Simulator, accounts: list[AccountSettings], tmp_path: Path
) -> None:
    tables = (accounts[0], accounts[1].model_copy(update={"members": ("ann",)}))
    async with running_team(simulator, tmp_path / "data", accounts=tables) as team:
        async with aiohttp.ClientSession(headers=bearer(team.ann)) as session:
            ann = Client(session, team.url)
            await ann.until_ready()
            assert OWN in await menu(ann)
            assert OWN in (await ann.get("models/loras"))[1]
            assert (await ann.run(with_lora(OWN)))["status"]["status_str"] == "success"
        async with aiohttp.ClientSession(headers=bearer(team.bob)) as session:
            bob = Client(session, team.url)
            assert OWN not in await menu(bob)
            assert OWN not in (await bob.get("models/loras"))[1]
            status, refused = await bob.post("prompt", {"prompt": with_lora(OWN)})
            assert status == 400
            assert (
                OWN not in refused["node_errors"]["10"]["errors"][0]["details"].split("not in")[1]
            )


async def test_what_no_single_account_has_is_refused(simulator: Simulator, both: Client) -> None:
    simulator.account.import_model("vae", "of one.safetensors")
    graph = with_lora(OWN)
    graph["11"] = {"class_type": "VAELoader", "inputs": {"vae_name": "of one.safetensors"}}
    graph["8"]["inputs"]["vae"] = ["11", 0]
    status, refused = await both.post("prompt", {"prompt": graph})
    assert (status, refused["error"]["type"]) == (400, "models_of_several_accounts")


async def test_imports_of_an_account_that_gives_no_list_now_stay(
    simulator: Simulator, both: Client
) -> None:
    assert OWN in await menu(both)
    key = "comfyui-key-of-two"
    simulator.faults.add(HttpFault("GET /api/object_info", key=key, status=403), times=None)
    await both.post("prompt", {"prompt": with_lora(LATER)})
    assert OWN in await menu(both)
    await both.run(with_lora(OWN))
    assert len(simulator.tenants[1].account.jobs) == 1
