"""The commands in place of a data folder: PostgreSQL and a folder of blobs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import aiohttp
import gated
import graphs
import pytest
import servers as server_processes
from cluster import load
from cluster.replicas import TIMEOUT, Servers, running_cluster
from process import before, command, serving
from stack import Client, bare
from waiting import ids, running

from proxy.simulator import Simulator, Switches
from proxy.storage.start import HEAD


@pytest.fixture
def environment(servers: Servers, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        **servers.settings(),
        "COMFY_PROXY_BLOBS": str(tmp_path / "blobs"),
        "COMFY_PROXY_DATA_DIR": str(tmp_path / "data"),
    }


async def run(environment: dict[str, str], *words: str) -> str:
    code, out, err = await command(*words, environment=environment)
    assert code == 0, (out, err)
    return out


async def checks(environment: dict[str, str]) -> dict[str, tuple[bool, str]]:
    """What `check` says of what replicas share."""
    _, out, _ = await command("check", "--simulate", "--json", environment=environment)
    rows = {row["check"]: (row["ok"], row["message"]) for row in json.loads(out)["checks"]}
    return {name: rows[name] for name in ("database", "blobs")}


async def test_members_and_tokens_are_in_the_database(
    environment: dict[str, str], tmp_path: Path
) -> None:
    await run(environment, "member", "add", "anna", "--role", "admin")
    token = json.loads(await run(environment, "token", "new", "anna", "--json"))["token"]
    elsewhere = {**environment, "COMFY_PROXY_DATA_DIR": str(tmp_path / "other")}
    assert "anna" in await run(elsewhere, "member", "list")
    assert token[:12] in await run(elsewhere, "token", "list")
    await run(elsewhere, "token", "revoke", token[:12])
    assert token[:12] not in await run(environment, "token", "list")


async def test_a_database_is_migrated_once_and_checked_without_a_change(
    environment: dict[str, str], tmp_path: Path
) -> None:
    before = await checks(environment)
    assert before["database"][1].endswith("answers and has no tables yet.")
    output = await run(environment, "migrate")
    assert output == f"The PostgreSQL database is now at the schema {HEAD}.\n"
    output = await run(environment, "migrate")
    assert output == f"The PostgreSQL database is at the schema {HEAD}.\n"
    after = await checks(environment)
    assert after["database"][1].endswith(f"answers and has the schema {HEAD}.")
    assert after["blobs"] == (True, f"{tmp_path / 'blobs'} can be written and read.")
    assert all(ok for ok, _ in after.values())


async def test_a_database_behind_a_pooler_is_migrated(
    environment: dict[str, str], servers: Servers
) -> None:
    with server_processes.pgbouncer(servers.postgresql) as pooler:
        name = environment["COMFY_PROXY_DATABASE"].rpartition("/")[2]
        pooled = {
            **environment,
            "COMFY_PROXY_DATABASE": servers.postgresql.url(name, port=pooler.port),
        }
        await run(pooled, "migrate")
        await run(pooled, "member", "add", "anna")
        assert (await checks(pooled))["database"][0]


async def test_a_secret_of_the_database_is_rotated(environment: dict[str, str]) -> None:
    output = await run(environment, "rotate-secret")
    assert output.startswith("There is a new secret.")
    file = Path(environment["COMFY_PROXY_DATA_DIR"]).parent / "secret"
    file.write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
    environment["COMFY_PROXY_SECRET_FILE"] = str(file)
    code, _, err = await command("rotate-secret", environment=environment)
    assert (code, "add a new first line to secret_file" in err) == (2, True)


async def test_a_process_with_a_data_folder_grows_into_replicas(
    environment: dict[str, str], servers: Servers, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    shared = {name: environment[f"COMFY_PROXY_{name.upper()}"] for name in ("database", "blobs")}
    async with (
        Simulator(
            switches=Switches(cache_nodes=False), extra_nodes=[gated.gate(gate)]
        ) as simulator,
        aiohttp.ClientSession() as session,
    ):
        async with serving(tmp_path / "alone", environment=before(simulator)) as process:
            client = Client(session, process.url)
            entry = await client.run(graphs.plain(1))
            picture = await client.view(entry["outputs"]["2"]["images"][0])
            uploaded = await client.upload("mine.png", graphs.png((1, 2, 3)))
            await client.post("settings", {"a.setting": 7})
            async with client.listening() as listener:
                on_the_cloud = await client.submit(gated.GRAPH)
                await listener.until("executing", node="1")
            waits = await client.submit(graphs.inverted(uploaded["name"]))
            last = (await client.get("queue"))[1]["queue_pending"][-1][0]
            assert await process.stop() == 0
        output = await run(environment, "migrate", "--from", str(tmp_path / "alone"))
        assert output.endswith("0 members, 1 entries of the history, 2 jobs.\n")
        async with running_cluster(tmp_path, servers, simulator, count=2, **shared) as cluster:
            clients = [cluster.client(number, client.client_id) for number in range(2)]
            for other in clients:
                assert (await other.history(entry["prompt"][1])) == entry
                assert await other.view(entry["outputs"]["2"]["images"][0]) == picture
                assert await other.view({**bare(uploaded), "filename": uploaded["name"]})
                assert (await other.get("settings"))[1]["a.setting"] == 7
                assert await running(other) == [on_the_cloud]
                assert await ids(other) == [waits]
            async with clients[1].listening() as listener:
                _, taken = await clients[0].post("prompt", {"prompt": graphs.plain(2)})
                assert taken["number"] > last
                gate.set()
                await listener.until_end(waits)
            async with asyncio.timeout(TIMEOUT):
                while len((await clients[1].get("history"))[1]) < 4:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        everything = [entry["prompt"][1], on_the_cloud, waits, taken["prompt_id"]]
        load.only_these_ran(simulator, everything)


async def test_the_records_of_a_data_folder_are_copied_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "alone"
    alone = {
        name: value for name, value in environment.items() if not name.startswith("COMFY_PROXY")
    }
    alone["COMFY_PROXY_DATA_DIR"] = str(folder)
    await run(alone, "member", "add", "anna", "--role", "admin")
    output = await run(environment, "migrate", "--from", str(folder))
    assert output.endswith("1 members, 0 entries of the history, 0 jobs.\n")
    assert "anna" in await run(environment, "member", "list")
    again = await command("migrate", "--from", str(folder), environment=environment)
    assert again[:2] == (1, "")
    assert again[2].startswith("Nothing was copied: the database is not empty")
    for words, output in (
        (("--from", str(folder)), "set database to its address"),
        (("--from", str(tmp_path / "nowhere")), "set database to its address"),
    ):
        code, out, err = await command("migrate", *words, environment=alone)
        assert (code, out, output in err) == (2, "", True)
    nowhere = ("migrate", "--from", str(tmp_path / "nowhere"))
    assert (await command(*nowhere, environment=environment))[0] == 2
