"""A data folder that version 0.1.0 has left, served by this one."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import aiohttp
from stack import Client, running_proxy

from proxy.simulator import Simulator

HERE = Path(__file__).parent.parent / "storage"
TOLD = json.loads((HERE / "data-0.1.0.json").read_bytes())


async def test_members_find_everything_where_it_was(simulator: Simulator, tmp_path: Path) -> None:
    """The cloud is another one, so that jobs which were on it are not found there."""
    with tarfile.open(HERE / "data-0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    async with running_proxy(simulator, tmp_path) as proxy:
        for name, member in (("Anna", "anna"), ("ben", "ben")):
            told = TOLD[member]
            headers = {"Authorization": f"Bearer {TOLD['tokens'][name]}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                client = Client(session, proxy.url)
                _, history = await client.get("history")
                assert {id_: history[id_] for id_ in told["history"]} == told["history"]
                _, files = await client.get("internal/files/output")
                assert set(told["output"]) <= set(files)
                _, page = await client.get("api/assets", tags_any="output", limit="500")
                records = {one["display_name"]: one for one in page["assets"]}
                assert set(records) == set(files)
                for id_, entry in told["history"].items():
                    for item in _pictures(entry):
                        if item["type"] == "output":
                            path = f"{item['subfolder']}/{item['filename']}".lstrip("/")
                            assert records[path]["job_id"] == id_
                        assert (await client.view(item)).startswith(b"\x89PNG")
        async with aiohttp.ClientSession() as session:
            status, _ = await Client(session, proxy.url).get("queue")
            assert status == 401


def _pictures(entry: dict[str, Any]) -> list[dict[str, str]]:
    return [item for output in entry["outputs"].values() for item in output.get("images", ())]
