"""Chaos with an accounting: faults everywhere, kills of the proxy, and every job's one true end.

What jobs cost and what webhooks got is counted as well.

    PYTHONPATH=tests python -m chaos.run --jobs 300 --clients 30 --kills 5 [--seed N]

The simulator runs in this process and outlives every kill of the proxy, which is a process of its
own. What happens is drawn from the seed; only the machine's timing is not. Ends with 1 if a
number that should be zero is not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
from backend import settings_of
from chaos.accounting import Results, Sums, account
from chaos.clients import LONG_NODE, ChaosClient, SpendingClient
from chaos.gateway import MEMBERS, QUICK, SPENDER, Gateway
from chaos.receiver import FailingReceiver, receiving
from process import before, command, serving
from servers import free_port
from team import bearer
from yarl import URL

from proxy.settings import Settings
from proxy.simulator import HttpFault, JobFault, Simulator, SocketFault, Switches

#: How the cloud ails, each with the chance that an occasion is hit.
FAULTS: list[tuple[HttpFault | SocketFault, float]] = [
    (HttpFault("POST /api/prompt", reset=True), 0.03),
    (HttpFault("POST /api/prompt", reset=True, processed=True), 0.05),
    (HttpFault("POST /api/prompt", status=503), 0.03),
    (HttpFault("POST /api/prompt", status=504, processed=True), 0.03),
    (HttpFault("POST /api/prompt", delay=0.2), 0.05),
    (HttpFault("POST /api/jobs/*", status=500), 0.1),
    (HttpFault("POST /api/jobs/*", reset=True, processed=True), 0.1),
    (HttpFault("GET /api/jobs*", status=500), 0.03),
    (HttpFault("GET /api/jobs*", status=429), 0.01),
    (HttpFault("GET /api/jobs*", reset=True), 0.03),
    (HttpFault("GET /api/jobs*", cut=20), 0.03),
    (HttpFault("GET /api/jobs*", delay=0.1), 0.05),
    (HttpFault("GET /api/view", status=500), 0.03),
    (HttpFault("GET storage", status=403), 0.03),
    (HttpFault("GET storage", cut=40), 0.05),
    (HttpFault("GET storage", cut=40, ending="reset"), 0.05),
    (HttpFault("GET storage", corrupt=True), 0.03),
    (SocketFault("lose"), 0.05),
    (SocketFault("duplicate"), 0.05),
    (SocketFault("reorder"), 0.05),
    (SocketFault("garbage"), 0.01),
    (SocketFault("drop"), 0.002),
    (SocketFault("close"), 0.002),
    (SocketFault("refuse"), 0.2),
    (SocketFault("delay", seconds=0.05), 0.01),
]

#: Clients of the member with a hard budget, whose jobs are beside the others'.
SPENDERS = 4


class Chaos:
    """One run. `jobs` are shared among `clients`; the proxy is disturbed `kills` times: killed.

    `done` counts what was done to the proxy.
    """

    #: Seconds that a client waits for an answer.
    timeout = 60.0
    #: What should not have been, beside what clients see.
    broken_promises = 0

    def __init__(self, *, jobs: int, clients: int, kills: int, seed: int, folder: Path) -> None:
        self._jobs = jobs
        self._clients = clients
        self._kills = kills
        self._rng = random.Random(seed)
        self._folder = folder
        self._port = free_port()
        self._receiver = FailingReceiver(random.Random(self._rng.random()))
        self._gateway: Gateway | None = None
        self._open = asyncio.Event()
        self._done = asyncio.Event()
        self._submitted = asyncio.Event()
        self.done: Counter[str] = Counter()

    async def run(self) -> Results:
        """Run to the end of the last job and count."""
        switches = Switches(pace=0.01, dispatch=0.01, late_detail=0.02)
        async with (
            Simulator(plan="pro", switches=switches, extra_nodes=[LONG_NODE]) as simulator,
            receiving(self._receiver),
            AsyncExitStack() as sessions,
            asyncio.TaskGroup() as tasks,  # where the proxy fails, clients do not wait for it
        ):
            tasks.create_task(self.keep_running(simulator))
            await self._open.wait()
            ran_before = set(simulator.jobs)
            self._plan_faults(simulator)
            tasks.create_task(self._receiver.come_and_go())
            clients, spenders = await self._clients_with(sessions)
            await self._run_clients(clients, spenders)
            everybody = [*clients, *spenders]
            submissions = [job for client in everybody for job in client.submissions]
            others: list[Sums] = []
            if self._gateway is not None:
                refused = sum(client.over_budget for client in spenders)
                others = await self._gateway.account(submissions, refused)
            self._receiver.heal()
            self._done.set()
        jobs = account(
            submissions,
            [job.extra_data for id_, job in simulator.jobs.items() if id_ not in ran_before],
            sum(client.errors for client in everybody),
            sum(client.impatient for client in everybody),
            self.broken_promises,
        )
        return Results(jobs, tuple(others))

    async def _clients_with(
        self, sessions: AsyncExitStack
    ) -> tuple[list[ChaosClient], list[ChaosClient]]:
        """Return the clients, and those of the member with a hard budget."""
        colors = itertools.count(1)
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        gateway, found = self._gateway, dict[str, aiohttp.ClientSession]()
        for member, token in ({"": ""} if gateway is None else gateway.tokens).items():
            connector = aiohttp.TCPConnector(limit=0)
            headers = bearer(token) if token else {}
            session = aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers)
            found[member] = await sessions.enter_async_context(session)

        def client(kind: type[ChaosClient], number: int, member: str) -> ChaosClient:
            return kind(
                found[member],
                self.url,
                random.Random(self._rng.random()),
                lambda: next(colors),
                partial(self.listens_at, number),
                member,
            )

        members = MEMBERS if gateway is not None else ("",)
        spenders = range(SPENDERS if gateway is not None else 0)
        return (
            [
                client(ChaosClient, number, members[number % len(members)])
                for number in range(self._clients)
            ],
            [client(SpendingClient, number, SPENDER) for number in spenders],
        )

    async def _run_clients(
        self, clients: Sequence[ChaosClient], spenders: Sequence[ChaosClient]
    ) -> None:
        """Let all clients submit, those with a budget until the others have ended."""
        shares = [
            self._jobs // self._clients + (number < self._jobs % self._clients)
            for number in range(self._clients)
        ]
        async with asyncio.TaskGroup() as spending:
            for spender in spenders:
                spending.create_task(spender.run(0, self._submitted.is_set))
            await asyncio.gather(
                *(
                    client.run(share, self.is_over)
                    for client, share in zip(clients, shares, strict=True)
                )
            )
            self._submitted.set()
        await asyncio.gather(*(client.settle() for client in (*clients, *spenders)))

    async def open_gateway(self, token: str, urls: Sequence[URL], settings: Settings) -> None:
        """Let clients begin, as members whom the proxies at `urls` know."""
        budget = 100.0 + self._jobs
        gateway = Gateway(token, self.url, self._receiver, settings, budget)
        await gateway.open(urls)
        self._gateway = gateway
        self._open.set()

    def faults(self, results: Results) -> dict[str, int]:
        """What should be zero and is not."""
        return results.faults()

    def url(self) -> URL:
        """Where a client asks next."""
        return URL(f"http://127.0.0.1:{self._port}")

    def listens_at(self, number: int) -> URL:
        """Where the client of this number opens its socket."""
        return self.url()

    def is_over(self) -> bool:
        """Whether clients that have had their share of the jobs may end."""
        return True

    def _plan_faults(self, simulator: Simulator) -> None:
        simulator.faults.random.seed(self._rng.random())
        for fault, chance in FAULTS:
            simulator.faults.add(fault, times=None, chance=chance)
        for _ in range(self._jobs // 50):
            simulator.faults.add(JobFault("lost"), skip=self._rng.randrange(self._jobs))

    async def keep_running(self, simulator: Simulator) -> None:
        """The proxy, killed and started again; at the end asked to stop, which it must do."""
        options = ("--data-dir", str(self._folder))
        await _command("member", "add", "admin", "--role", "admin", *options)
        token = (await _command("token", "new", "admin", *options)).split()[0]
        settings = {"log_level": "error", **Gateway.settings_of_proxies()}
        environment = {
            **before(simulator),
            "PYTHONPATH": str(QUICK),
            **{f"COMFY_PROXY_{name.upper()}": value for name, value in settings.items()},
        }
        while True:
            async with serving(self._folder, environment=environment, port=self._port) as process:
                if self._gateway is None:
                    await self.open_gateway(token, [self.url()], settings_of(self._folder))
                if await self.is_to_be_disturbed():
                    process.process.kill()
                    self.done["killed"] += 1
                    continue
                code = await process.stop()
                if code != 0:
                    raise RuntimeError(f"the proxy ended with {code}")
                return

    async def is_to_be_disturbed(self) -> bool:
        """Wait for the time of the next disturbance, or for the end of everything."""
        if self.done.total() < self._kills:
            try:
                async with asyncio.timeout(self._rng.uniform(1.0, 4.0)):
                    await self._submitted.wait()
            except TimeoutError:
                return True
        await self._done.wait()
        return False


async def _command(*words: str) -> str:
    """What a command has written."""
    code, out, err = await command(*words)
    if code != 0:
        raise RuntimeError(err)
    return out


def main(
    chaos: type[Chaos] = Chaos,
    *,
    jobs: int = 300,
    clients: int = 30,
    kills: int = 5,
    bound: float = 1800,
) -> int:
    """Run for at most `bound` seconds, and print the seed, the time and the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=jobs)
    parser.add_argument("--clients", type=int, default=clients)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = chaos(**vars(given), folder=Path(folder))
        results = asyncio.run(asyncio.wait_for(run.run(), bound))
    print(results.table())
    for what, count in sorted(run.done.items()):
        print(f"{what:<28}{count:>8}")
    print(f"{'seconds':<28}{time.perf_counter() - begun:>8.0f}")
    faults = run.faults(results)
    for name, count in faults.items():
        print(f"NOT ZERO: {name.replace('_', ' ')} {count}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
