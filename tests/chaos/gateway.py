"""The members of a run with their webhooks and budgets, and the accounting of both at its end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from chaos.accounting import Submission, Sums
from chaos.ledger import Cost, Ledger, Spent, account_costs, cost_of
from chaos.messages import Message, account_messages
from chaos.receiver import FailingReceiver
from sqlalchemy import Connection, func, select
from stack import Client
from team import bearer
from yarl import URL

from proxy.costs.credits import MILLIONTHS
from proxy.settings import Settings
from proxy.storage.job_tables import history, jobs
from proxy.storage.start import opened_database
from proxy.storage.webhooks import deliveries

#: Members without a budget, and one with a hard budget of a day.
MEMBERS, SPENDER = ("anna", "ben"), "carl"
#: Credits that a second costs: a job of the run costs about a dozen.
RATE = 1000.0
#: Where the Python of the proxies finds that webhooks are attempted again within seconds.
QUICK = Path(__file__).parent / "quick"
ENDS = ("job.completed", "job.failed", "job.cancelled")
#: What each endpoint gets: that of the gateway, and those of members by their names.
TYPES = {
    "gateway": ("job.started", *ENDS, "budget.reached"),
    "anna": ("job.started", *ENDS),
    "ben": ENDS,
    SPENDER: (*ENDS, "budget.reached"),
}
#: Seconds until everything is delivered once nothing fails, with the waits between attempts.
_DELIVERED_WITHIN = 60.0
#: Seconds in which a proxy that is up again answers, and between two questions.
_ANSWERED_WITHIN, _PAUSE = 90.0, 0.2
#: Jobs that are read at once.
_READS = 8


@dataclass
class Gateway:
    """What a run knows of its members: their `tokens`, and the `budget` of `SPENDER` in credits.

    `admin` is the token of an admin, `url` returns the address of a proxy, `settings` say where the
    storage is.
    """

    admin: str
    url: Callable[[], URL]
    receiver: FailingReceiver
    settings: Settings
    budget: float
    tokens: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def settings_of_proxies() -> dict[str, str]:
        """The settings of the proxies."""
        return {
            "webhook_networks": "127.0.0.1",
            "credits_per_second": str(RATE),
        }

    # --- at the beginning ------------------------------------------------------------------

    async def open(self, urls: Iterable[URL]) -> None:
        """Add the members and the webhooks, at proxies that are well."""
        for member in (*MEMBERS, SPENDER):
            limits = {}
            if member == SPENDER:
                limits = {
                    "credits_per_day": self.budget,
                    "soft_credits_per_day": self.budget / 4,
                }
            await self._post("members", {"name": member, "limits": limits})
            self.tokens[member] = (await self._post("tokens", {"member": member}))["token"]
            async with aiohttp.ClientSession(headers=bearer(self.tokens[member])) as session:
                for url in urls:
                    await _let_in(session, url)
                await self._open_member(member, Client(session, self.url()))
        body = {"url": str(self.receiver.url / "gateway"), "types": TYPES["gateway"]}
        made = await self._post("webhooks", {**body, "gateway": True})
        self.receiver.secrets["/gateway"] = made["secret"]

    async def _open_member(self, member: str, client: Client) -> None:
        body = {"url": str(self.receiver.url / member), "types": TYPES[member]}
        status, made = await client.post("proxy/api/webhooks", body)
        assert status == 201, made
        self.receiver.secrets[f"/{member}"] = made["secret"]

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with aiohttp.ClientSession(headers=bearer(self.admin)) as session:
            status, made = await Client(session, self.url()).post(f"proxy/api/{path}", body)
            assert status in (200, 201), made
            return dict(made)

    # --- at the end ------------------------------------------------------------------------

    async def account(self, submissions: Iterable[Submission], refused: int) -> list[Sums]:
        """Count when all jobs have ended and all messages are delivered, which is waited for a
        while. The budget has `refused` so many jobs."""
        accepted = {job.prompt_id: job for job in submissions if job.accepted}
        costs = await self._costs({id_: job.member for id_, job in accepted.items()})
        due, allowed = messages_of(costs, round(self.budget * MILLIONTHS), refused)
        self.receiver.heal()
        undelivered = await self._until_delivered(due)
        spent = [
            Spent(cost.day, accepted[cost.prompt_id].sent, accepted[cost.prompt_id].seen, cost.cost)
            for cost in costs
            if cost.member == SPENDER
        ]
        return [
            account_messages(due, self.receiver.attempts, allowed=allowed, undelivered=undelivered),
            account_costs(
                costs,
                await self._ledger(),
                budget=round(self.budget * MILLIONTHS),
                spent=spent,
                refused=refused,
            ),
        ]

    async def _costs(self, members: Mapping[str, str]) -> list[Cost]:
        """Return all jobs with their costs, as an admin sees them."""
        turn = asyncio.Semaphore(_READS)

        async def read(prompt_id: str, member: str) -> Cost:
            async with turn:
                return cost_of(await self._get(f"jobs/{prompt_id}", member=member))

        return await asyncio.gather(*(read(*job) for job in members.items()))

    async def _until_delivered(self, due: Iterable[Message]) -> int:
        """Wait until all that is due has come and nothing waits; return how many deliveries have
        not ended well."""
        wanted = set(due)
        loop = asyncio.get_running_loop()
        until = loop.time() + _DELIVERED_WITHIN
        while True:
            undelivered = await _read(self.settings, _undelivered)
            got = {attempt.message for attempt in self.receiver.attempts if attempt.accepted}
            if (wanted <= got and not undelivered) or loop.time() > until:
                return undelivered
            await asyncio.sleep(_PAUSE)

    async def _ledger(self) -> Ledger:
        days = {"from": _day(-1), "to": _day(1)}
        usage = (await self._get("usage", **days))["usage"]
        costs = (await self._get("usage", **days, rows="costs"))["costs"]
        found = await _read(self.settings, _recorded)
        return Ledger([row for row in usage if _counts_jobs(row)], costs, *found)

    async def _get(self, path: str, **query: str) -> dict[str, Any]:
        """Ask as the admin, until there is an answer: what was disturbed last may be starting."""
        async with (
            aiohttp.ClientSession(headers=bearer(self.admin)) as session,
            asyncio.timeout(_ANSWERED_WITHIN),
        ):
            while True:
                try:
                    url = (self.url() / "proxy/api" / path).with_query(query)
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return dict(await answer.json())
                except (aiohttp.ClientError, OSError):
                    pass
                await asyncio.sleep(_PAUSE)


def messages_of(
    run: Iterable[Cost], budget: int, refused: int = 0
) -> tuple[set[Message], set[Message]]:
    """Return the messages that are due for jobs that have ended, and those that may come: a job
    that has failed or was cancelled may have begun to run, or not, and a budget that has `refused`
    jobs is told of although some of it is left.
    """
    due, allowed = set[Message](), set[Message]()
    spent = 0
    for job in run:
        ended = Message("", f"job.{job.state}", job.prompt_id)
        paths = ["/gateway", f"/{job.member}"]
        due |= {ended._replace(path=path) for path in paths}
        started = {
            Message(path, "job.started", job.prompt_id)
            for path in paths
            if "job.started" in TYPES[path[1:]]
        }
        if job.state == "completed":
            due |= started
        else:
            allowed |= started
        spent += job.cost if job.member == SPENDER else 0
    for name, limit in (("soft_credits_per_day", budget // 4), ("credits_per_day", budget)):
        reached = {
            Message(path, "budget.reached", f"{name} of {SPENDER}")
            for path in ("/gateway", f"/{SPENDER}")
        }
        due |= reached if spent >= limit else set()
        allowed |= reached if refused else set()
    return due, allowed


async def _let_in(session: aiohttp.ClientSession, url: URL) -> None:
    """Ask a proxy until it knows the token."""
    async with asyncio.timeout(_ANSWERED_WITHIN):
        while True:
            async with session.get(url / "queue") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(_PAUSE)


async def _read(settings: Settings, work: Callable[[Connection], Any]) -> Any:
    """Read the storage beside the proxies."""
    async with opened_database(settings) as database:
        return await database.read(work)


def _undelivered(connection: Connection) -> int:
    waiting = select(func.count()).where(deliveries.c.outcome != "delivered")
    return int(connection.execute(waiting).scalar_one())


def _recorded(connection: Connection) -> tuple[Counter[str], dict[str, int], int]:
    """Return the ids of the history, what is reserved by member, and the number of live jobs."""
    ids = Counter(connection.execute(select(history.c.prompt_id)).scalars())
    estimates = select(jobs.c.member, func.sum(jobs.c.estimate)).group_by(jobs.c.member)
    reserved = {member: int(amount) for member, amount in connection.execute(estimates)}
    live = connection.execute(select(func.count()).select_from(jobs)).scalar_one()
    return ids, reserved, int(live)


def _counts_jobs(row: Mapping[str, Any]) -> bool:
    """Whether a row of usage is of a member of the run."""
    return row["member"] in (*MEMBERS, SPENDER)


def _day(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).date().isoformat()
