"""A key that stops working, and the one that takes its place."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import gated
import graphs
import pytest
from lives import assert_whole
from process import serving
from stack import TIMEOUT, Client, running_proxy

from proxy.cloud.event_socket import Timeouts
from proxy.cloud.resilience import RetryPolicy
from proxy.runtime.backoff import Backoff
from proxy.simulator import Simulator

OTHER = "comfyui-another-key-0123456789"
QUICK = Timeouts(
    retries=RetryPolicy(budget=0.5),
    socket_backoff=Backoff(first=0.01, longest=60.0),
    socket_timeout=0.1,
    key_interval=0.02,
    ready_age=0.0,
)


@dataclass
class Account:
    """The account behind the proxy, and the file from which the proxy has its key."""

    simulator: Simulator
    file: Path

    async def withdraw_key(self) -> None:
        """From now on the account has another key, and old connections are closed."""
        self.simulator.account.key = OTHER
        self.simulator.drop_sockets()
        await self.simulator.wait_for_sockets(0)

    async def provide_key(self) -> None:
        """Write the account's key as it is now into the file."""
        await asyncio.to_thread(self.file.write_text, f"{self.simulator.key}\n")


@pytest.fixture
async def simulator(opened: asyncio.Event) -> AsyncIterator[Simulator]:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as running:
        yield running


@pytest.fixture
async def account(simulator: Simulator, tmp_path: Path) -> Account:
    account = Account(simulator, tmp_path / "key")
    await account.provide_key()
    return account


@pytest.fixture
async def client(
    account: Account, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Client]:
    options = {"api_key_file": account.file, "timeouts": QUICK}
    async with running_proxy(account.simulator, tmp_path / "data", **options) as proxy:
        await account.simulator.wait_for_sockets()
        yield Client(session, proxy.url)


async def test_a_submission_is_refused_in_one_clear_sentence(
    account: Account, client: Client
) -> None:
    await account.withdraw_key()
    for _ in range(3):
        status, answer = await client.post("prompt", {"prompt": graphs.plain()})
        assert (status, answer["error"]["type"]) == (503, "UNAUTHORIZED")
        assert "the API key of this proxy; its admin must set" in answer["error"]["message"]
    assert (await client.get("queue"))[1] == {"queue_running": [], "queue_pending": []}
    assert account.simulator.calls["POST /api/prompt"] <= 2


async def test_it_is_shown_at_readyz(account: Account, client: Client) -> None:
    await client.until_ready()
    await account.withdraw_key()
    async with asyncio.timeout(TIMEOUT):
        status, answer = await client.get("readyz")
        while "does not accept the API key" not in answer.get("reason", ""):
            status, answer = await client.get("readyz")
    assert (status, answer["status"], answer["checks"]["store"]) == (503, "not ready", "ok")
    await account.provide_key()
    await client.until_ready()


async def test_a_job_in_flight_is_kept_and_followed_to_its_end_with_another_key(
    account: Account, client: Client, opened: asyncio.Event
) -> None:
    async with client.listening() as listener:
        prompt_id = await client.submit(gated.GRAPH)
        await listener.until("executing", node="1")
        await account.withdraw_key()
        opened.set()
        await account.simulator.wait_for_end(next(iter(account.simulator.jobs)))
        await asyncio.sleep(0.2)
        _, queue = await client.get("queue")
        assert [item[1] for item in queue["queue_running"]] == [prompt_id]
        await account.provide_key()
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id)


async def test_with_another_key_everything_goes_on(account: Account, client: Client) -> None:
    await client.run(graphs.plain(1))
    await account.withdraw_key()
    await client.post("prompt", {"prompt": graphs.plain(2)})
    await account.provide_key()
    await account.simulator.wait_for_sockets()
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id)
    lent = list(account.simulator.jobs.values())[-1].extra_data["api_key_comfy_org"]
    assert lent == OTHER


@pytest.mark.parametrize("text", ["", "two words\n"])
async def test_a_file_without_a_key_changes_nothing(
    account: Account, client: Client, text: str
) -> None:
    account.file.write_text(text)
    await asyncio.sleep(0.1)
    await client.run(graphs.plain())


async def test_hangup_makes_a_process_read_its_settings_file_again(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'api_key = "{simulator.key}"\n')
    environment = {"COMFY_CLOUD_BASE_URL": str(simulator.base_url)}
    options = ["--config", str(config)]
    async with serving(tmp_path / "data", *options, environment=environment) as process:
        client = Client(session, process.url)
        await client.until_ready()
        simulator.account.key = OTHER
        config.write_text(f'api_key = "{OTHER}"\n')
        status, _ = await client.post("prompt", {"prompt": graphs.plain()})
        assert status == 503
        process.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(TIMEOUT):
            while status != 200:
                await asyncio.sleep(0.02)
                status, _ = await client.post("prompt", {"prompt": graphs.plain()})
        assert await process.stop() == 0
        assert not any(OTHER.encode() in line for line in process.said)
