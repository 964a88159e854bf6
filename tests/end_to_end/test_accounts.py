"""Two accounts behind one proxy: jobs use both, files go where they are needed, one may fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from pydantic import SecretStr
from stack import TIMEOUT, Client, running_proxy
from waiting import until

from proxy.cloud.event_socket import Timeouts
from proxy.cloud.resilience import RetryPolicy
from proxy.engine import accounts as health
from proxy.runtime.backoff import Backoff
from proxy.settings import AccountSettings
from proxy.simulator import HttpFault, Simulator
from proxy.simulator.account import SimulatedAccount
from proxy.simulator.jobs import SimulatedJob

QUICK = Timeouts(
    retries=RetryPolicy(budget=0.5),
    socket_backoff=Backoff(first=0.01, longest=0.1),
    socket_timeout=0.5,
    key_interval=0.02,
    ready_age=0.05,
)
OTHER = "comfyui-another-key-0123456789"


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in health.RESTS:
        monkeypatch.setitem(health.RESTS, reason, Backoff(0.2, 0.5))


@dataclass
class Studio:
    """A simulator that is the accounts `one` and `two`, each of which runs one job at once."""

    simulator: Simulator
    folder: Path
    session: aiohttp.ClientSession
    accounts: dict[str, SimulatedAccount] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one, two = self.simulator.account, self.simulator.add_account("comfyui-key-of-two")
        self.accounts = {"one": one, "two": two}
        for name, account in self.accounts.items():
            self.key_file(name).write_text(account.key)

    def key_file(self, name: str) -> Path:
        return self.folder / f"key of {name}"

    @asynccontextmanager
    async def proxy(self, **settings: Any) -> AsyncIterator[Client]:
        """A client of a proxy before both; again is a restart."""
        url = self.simulator.base_url
        tables = tuple(
            AccountSettings(name=name, key_file=self.key_file(name), slots=1, base_url=url)
            for name in self.accounts
        )
        settings = {"accounts": tables, "timeouts": QUICK, **settings}
        async with running_proxy(self.simulator, self.folder / "data", **settings) as proxy:
            await self.simulator.wait_for_sockets(2)
            yield Client(self.session, proxy.url)

    def jobs(self, name: str) -> list[SimulatedJob]:
        """What an account has been given."""
        return list(self.accounts[name].jobs.values())

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until the simulator is in a state."""
        await self.simulator.signal.until(reached, TIMEOUT)

    async def until_running(self, count: int) -> None:
        """Wait until so many jobs of both accounts run."""
        await self.until(
            lambda: (
                sum(job.status == "in_progress" for job in self.simulator.jobs.values()) == count
            )
        )


@pytest.fixture
async def simulator(opened: asyncio.Event) -> AsyncIterator[Simulator]:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as running:
        yield running


@pytest.fixture
def studio(simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path) -> Studio:
    return Studio(simulator, tmp_path, session)


def held(image: str) -> dict[str, Any]:
    """An uploaded picture that is saved, in a job that does not end before the gate is opened."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": gated.GRAPH["1"],
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


async def ended(client: Client, *prompt_ids: str) -> list[dict[str, Any]]:
    """The history entries of jobs, when all have ended."""
    return [await client.ended(prompt_id) for prompt_id in prompt_ids]


def succeeded(entries: list[dict[str, Any]]) -> bool:
    return all(entry["status"]["status_str"] == "success" for entry in entries)


async def test_jobs_run_on_both_accounts_at_once(studio: Studio) -> None:
    async with studio.proxy() as client:
        for _ in range(2):
            await client.submit(graphs.waiting())
        await studio.until_running(2)
        assert [len(studio.jobs(name)) for name in ("one", "two")] == [1, 1]
        await client.post("interrupt")


async def test_a_job_has_its_events_and_previews_whichever_account_runs_it(studio: Studio) -> None:
    async with studio.proxy() as client, client.listening() as listener:
        for number in range(6):
            prompt_id = await client.submit(graphs.sampled(number))
            await listener.until_end(prompt_id)
        assert listener.types().count("execution_success") == 6
        assert "binary" in listener.types()
    assert min(len(studio.jobs(name)) for name in ("one", "two")) >= 2


async def test_an_upload_named_in_jobs_of_both_is_sent_to_both(
    studio: Studio, opened: asyncio.Event
) -> None:
    async with studio.proxy() as client:
        await client.upload("cat.png", graphs.png())
        assert studio.simulator.calls["POST /api/upload/image"] == 1
        jobs = [await client.submit(held("cat.png")) for _ in range(2)]
        await studio.until_running(2)
        opened.set()
        entries = await ended(client, *jobs)
        assert succeeded(entries)
        assert [len(studio.jobs(name)) for name in ("one", "two")] == [1, 1]
        assert studio.simulator.calls["POST /api/upload/image"] == 2
        for entry in entries:
            assert (await client.view(entry["outputs"]["3"]["images"][0])).startswith(b"\x89PNG")


async def test_an_output_of_one_is_an_input_on_the_other(
    studio: Studio, opened: asyncio.Event
) -> None:
    async with studio.proxy(prefetch="off") as client:
        entry = await client.run(graphs.plain(0x00FF00))
        name = entry["outputs"]["2"]["images"][0]["filename"]
        opened.set()
        jobs = [await client.submit(held(f"{name} [output]")) for _ in range(2)]
        assert succeeded(await ended(client, *jobs))
        assert min(len(studio.jobs(name)) for name in ("one", "two")) >= 1
        assert studio.simulator.calls["POST /api/upload/image"] == 1


async def test_waiting_jobs_move_from_an_account_whose_key_dies(studio: Studio) -> None:
    async with studio.proxy() as client:
        await client.run(graphs.plain(1))
        studio.accounts["two"].key = OTHER
        jobs = [await client.submit(graphs.plain(2 + number)) for number in range(6)]
        assert succeeded(await ended(client, *jobs))
        assert studio.jobs("two") == []
        status, two = 0, ""
        async with asyncio.timeout(TIMEOUT):
            while (status, "does not accept the API key" in two) != (200, True):
                status, answer = await client.get("readyz")
                two = answer["checks"]["accounts"]["two"]["key"]
        assert answer["status"] == "ready"
        assert answer["checks"]["accounts"]["one"] == {"key": "ok", "socket": "ok"}


async def test_an_account_that_does_not_answer_holds_up_nobody_who_asks_whether_it_is_ready(
    studio: Studio,
) -> None:
    fault = HttpFault("GET /api/user", key=studio.accounts["two"].key, delay=60.0)
    studio.simulator.faults.add(fault, times=None)
    async with studio.proxy() as client, asyncio.timeout(TIMEOUT):
        status, answer = await client.get("readyz")
        while status != 200:
            status, answer = await client.get("readyz")
        assert answer["checks"]["accounts"]["one"]["key"] == "ok"
        assert "has not answered yet" in answer["checks"]["accounts"]["two"]["key"]


async def test_an_account_with_another_key_takes_jobs_again(studio: Studio) -> None:
    async with studio.proxy() as client:
        studio.accounts["two"].key = OTHER
        await ended(client, *[await client.submit(graphs.plain(number)) for number in range(4)])
        assert studio.jobs("two") == []
        studio.key_file("two").write_text(OTHER)
        async with asyncio.timeout(TIMEOUT):
            number = 4
            while not studio.jobs("two"):
                number += 2
                both = [await client.submit(graphs.plain(number + index)) for index in range(2)]
                assert succeeded(await ended(client, *both))
        lent = studio.jobs("two")[0].extra_data["api_key_comfy_org"]
        assert lent == OTHER


async def test_an_account_without_credits_rests_and_the_other_runs_all(studio: Studio) -> None:
    studio.accounts["one"].credits = 0
    async with studio.proxy() as client:
        jobs = [await client.submit(graphs.plain(number)) for number in range(4)]
        assert succeeded(await ended(client, *jobs))
    assert (len(studio.jobs("one")), len(studio.jobs("two"))) == (0, 4)


async def test_an_account_that_is_down_alone_is_passed_over(studio: Studio) -> None:
    key = studio.accounts["one"].key
    async with studio.proxy() as client:
        fault = HttpFault("*", key=key, status=503)
        studio.simulator.faults.add(fault, times=None)
        await client.upload("cat.png", graphs.png())
        jobs = [await client.submit(graphs.inverted("cat.png")) for _ in range(3)]
        assert succeeded(await ended(client, *jobs))
    assert studio.jobs("one") == []


@pytest.mark.parametrize(("members", "status"), [((), 200), (("ann",), 403)])
async def test_jobs_and_files_go_only_to_accounts_of_the_member(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    members: tuple[str, ...],
    status: int,
) -> None:
    """There are no members, so it is `local` who asks."""
    url, key = simulator.base_url, simulator.add_account("comfyui-key-of-everybody").key
    tables = (
        AccountSettings(name="anns", key=SecretStr(simulator.key), base_url=url, members=("ann",)),
        AccountSettings(name="other", key=SecretStr(key), base_url=url, members=members),
    )
    async with running_proxy(
        simulator, tmp_path / "data", accounts=tables, timeouts=QUICK
    ) as proxy:
        client = Client(session, proxy.url)
        answer, _ = await client.post("prompt", {"prompt": graphs.plain()})
        form = aiohttp.FormData({"type": "input"})
        form.add_field("image", graphs.png(), filename="cat.png", content_type="image/png")
        async with session.post(client.url / "upload/image", data=form) as uploaded:
            assert (answer, uploaded.status) == (status, status)
    assert not simulator.account.jobs
    assert not list(simulator.account.library)


async def test_after_a_restart_every_job_is_on_its_account(studio: Studio) -> None:
    async with studio.proxy() as client:
        jobs = [await client.submit(graphs.waiting(1.0 + number / 100)) for number in range(4)]
        await studio.until_running(2)
        given = {name: {job.id for job in studio.jobs(name)} for name in ("one", "two")}
    async with studio.proxy() as client:
        assert succeeded(await ended(client, *jobs))
        for name, before in given.items():
            assert before <= {job.id for job in studio.jobs(name)}
        assert len(studio.simulator.jobs) == len(jobs)
        assert studio.simulator.calls["POST /api/prompt"] == len(jobs)


async def test_accounts_may_be_at_different_clouds(
    simulator: Simulator, opened: asyncio.Event, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as other:
        clouds = {"here": simulator, "there": other}
        tables = tuple(
            AccountSettings(name=name, key=SecretStr(cloud.key), slots=1, base_url=cloud.base_url)
            for name, cloud in clouds.items()
        )
        async with running_proxy(
            simulator, tmp_path / "data", accounts=tables, timeouts=QUICK
        ) as proxy:
            client = Client(session, proxy.url)
            await client.upload("cat.png", graphs.png())
            jobs = [await client.submit(held("cat.png")) for _ in range(2)]
            await until(lambda: simulator.jobs and other.jobs)
            opened.set()
            assert succeeded(await ended(client, *jobs))
        assert [len(cloud.jobs) for cloud in (simulator, other)] == [1, 1]
        assert [cloud.calls["GET /api/object_info"] for cloud in (simulator, other)] == [1, 1]
