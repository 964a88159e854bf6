"""The secret of a webhook is shown once, and is nowhere in the clear after that."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from quiet import logging_restored
from receiver import receiving
from stack import Client
from team import bearer, running_team

from proxy import logging as logs
from proxy.simulator import Simulator
from proxy.storage.backup import backup

pytestmark = pytest.mark.sqlite


async def test_a_secret_is_in_no_log_answer_record_or_backup(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    stream, folder = io.StringIO(), tmp_path / "data"
    answers: list[str] = []
    with logging_restored():
        logs.configure(log_format="json", log_level="debug", stream=stream)
        settings: dict[str, Any] = {"webhook_networks": "127.0.0.1"}
        async with receiving() as receiver, running_team(simulator, folder, **settings) as team:
            async with aiohttp.ClientSession(headers=bearer(team.bob)) as own:
                client = Client(own, team.url)
                url = str(receiver.url / "hook")
                status, made = await client.post("proxy/api/webhooks", {"url": url})
                assert status == 201
                _, renewed = await client.post(f"proxy/api/webhooks/{made['id']}/secret")
                secrets = {made["secret"], renewed["secret"]}
                await client.run(graphs.plain(1))
                await client.post(f"proxy/api/webhooks/{made['id']}/test")
                answers += [received.body.decode() for received in await receiver.until(2)]
                paths: tuple[str, ...] = (
                    "proxy/api/webhooks",
                    f"proxy/api/webhooks/{made['id']}/deliveries",
                    "proxy/api/state",
                    "internal/logs",
                    "history",
                )
                answers += [str(await client.get(path)) for path in paths]
                answers.append(str(await client.post("proxy/api/webhooks", {"url": url, "x": 1})))
            async with aiohttp.ClientSession(headers=bearer(team.ann)) as admins:
                client = Client(admins, team.url)
                paths = ("proxy/api/webhooks", "proxy/api/audit", "metrics")
                answers += [str(await client.get(path)) for path in paths]
            backup(folder, tmp_path / "copy.tar")
    assert "webhook_attempted" in stream.getvalue()
    with tarfile.open(tmp_path / "copy.tar") as archive:
        copied = b"".join(
            file.read() for entry in archive if (file := archive.extractfile(entry)) is not None
        )
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert made["id"].encode() in copied
    for secret in secrets:
        bare = secret.removeprefix("whsec_")
        assert bare not in stream.getvalue()
        assert not [answer for answer in answers if bare in answer]
        assert bare.encode() not in copied
        assert bare.encode() not in stored


def test_a_log_line_loses_what_looks_like_a_secret() -> None:
    line = "signed with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw= and more"
    assert logs.scrub(line) == f"signed with {logs.REMOVED} and more"
