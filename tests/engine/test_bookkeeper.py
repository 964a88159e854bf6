"""What the cloud has booked is read once an hour, in a bounded number of requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs
from waiting import until

from proxy.clock import now
from proxy.cloud.client import CloudClient
from proxy.cloud.resilience import RetryPolicy
from proxy.engine import bookkeeper as module
from proxy.engine.accounts import Account
from proxy.engine.bookkeeper import MAX_EVENTS, MAX_REQUESTS, OVERLAP, Bookkeeper
from proxy.engine.term import Term
from proxy.metrics import Metrics
from proxy.simulator import HttpFault, Simulator
from proxy.storage.billing import BillingRepository
from proxy.storage.database import Database
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.usage import day_of
from proxy.supervisor import Supervisor
from proxy.translate.plans import AccountPlan
from proxy.translate.times import rfc3339

HOUR, DAY = 3_600_000, 86_400_000
#: A minute before a noon, by the clock of the tests.
NOON = 1_795_608_000_000

Make = Callable[..., Awaitable[Bookkeeper]]


class Clock:
    """The time in ms."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> int:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "now", clock)
    return clock


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        running.switches.billing_for_keys = True
        yield running


@pytest.fixture
async def account(simulator: Simulator) -> AsyncIterator[Account]:
    client = CloudClient(simulator.base_url, simulator.key, retries=RetryPolicy(budget=0.0))
    await client.start()
    yield Account("main", client, simulator.key)
    await client.close()


@pytest.fixture
def repository(database: Database) -> BillingRepository:
    return BillingRepository(database)


@pytest.fixture
async def make(database: Database, account: Account) -> Make:
    lease = await LeaseRepository(database).acquire(ENGINE, "test", 600.0, alone=True)
    assert lease is not None

    async def make(metrics: Metrics | None = None, **times: float) -> Bookkeeper:
        times = {"delay": 3600.0, "interval": 3600.0, **times}
        accounts, term = {"main": account}, Term(lease)
        chosen = metrics or Metrics()
        return Bookkeeper(BillingRepository(database), accounts, term, chosen, **times)

    return make


def spent(simulator: Simulator, id_: str, at: int, usd: float = 1.0, **more: Any) -> None:
    simulator.account.events_elsewhere.append(
        {
            "event_id": id_,
            "event_type": "gpu_usage",
            "createdAt": rfc3339(at * 1000),
            "params": {"amount": usd * 100},
            "api_key_prefix": simulator.key[:16],
            **more,
        }
    )


async def booked(repository: BillingRepository) -> dict[str, int]:
    """The whole credits by day."""
    record = await repository.record("2026-10-01", "2027-01-31")
    return {day: amount // 1_000_000 for (day, _), amount in record.booked.items()}


async def test_what_the_key_has_spent_is_booked_by_day(
    simulator: Simulator, account: Account, repository: BillingRepository, make: Make, clock: Clock
) -> None:
    spent(simulator, "early", NOON - DAY)
    spent(simulator, "1", NOON - HOUR)
    spent(simulator, "2", NOON - 2 * HOUR, 0.5)
    spent(simulator, "browser", NOON - HOUR, api_key_prefix=None)
    spent(simulator, "other key", NOON - HOUR, api_key_prefix="comfyui-another")
    spent(simulator, "payment", NOON - HOUR, event_type="credit_added")
    account.plan = AccountPlan(balance_cents=1234, currency="USD")
    await (await make()).read(account)
    assert await booked(repository) == {"2026-11-25": 211 + 105}
    known = await repository.account("main")
    assert (known.access, known.read_from, known.read_to) == ("allowed", NOON - NOON % DAY, NOON)
    assert (known.balance_cents, known.currency) == (1234, "USD")


async def test_the_next_reading_continues_with_an_overlap(
    simulator: Simulator, account: Account, repository: BillingRepository, make: Make, clock: Clock
) -> None:
    keeper = await make()
    spent(simulator, "1", NOON - HOUR)
    await keeper.read(account)
    spent(simulator, "late", NOON - OVERLAP)
    spent(simulator, "too late", NOON - OVERLAP - 1)
    spent(simulator, "2", NOON + 30 * HOUR)
    for hours in (31, 32, 33):
        clock.at = NOON + hours * HOUR
        await keeper.read(account)
    assert await booked(repository) == {"2026-11-25": 422, "2026-11-26": 211}


async def test_events_of_the_key_before_are_still_its_own(
    simulator: Simulator, account: Account, repository: BillingRepository, make: Make, clock: Clock
) -> None:
    keeper, before = await make(), simulator.key
    await keeper.read(account)
    spent(simulator, "1", NOON, api_key_prefix=before[:16])
    clock.at += HOUR
    account.key = "comfyui-its-next-key"
    await keeper.read(account)
    assert await booked(repository) == {"2026-11-25": 211}


async def test_busy_hours_are_read_in_pieces(
    simulator: Simulator, account: Account, repository: BillingRepository, make: Make, clock: Clock
) -> None:
    for number in range(MAX_EVENTS + 500):
        spent(simulator, str(number), NOON - 2 * HOUR + 2000 * number)
    await (await make()).read(account)
    assert await booked(repository) == {"2026-11-25": 211 * (MAX_EVENTS + 500)}


async def test_a_cloud_that_has_no_end_is_read_no_further_than_the_bound(
    simulator: Simulator, account: Account, repository: BillingRepository, make: Make, clock: Clock
) -> None:
    for number in range(MAX_EVENTS + 500):
        spent(simulator, str(number), NOON - HOUR)
    with capture_logs() as logs:
        await (await make()).read(account)
    assert await booked(repository) == {"2026-11-25": 211 * MAX_EVENTS}
    assert "billing_events_truncated" in [line["event"] for line in logs]
    asked = [call for call in simulator.record.requests if call.path == "/api/billing/events"]
    assert len(asked) <= MAX_REQUESTS


async def test_a_refused_key_is_noted_once_and_nothing_else_happens(
    simulator: Simulator, account: Account, repository: BillingRepository, make: Make, clock: Clock
) -> None:
    simulator.switches.billing_for_keys = False
    keeper = await make()
    with capture_logs() as logs:
        for _ in range(3):
            await keeper.read(account)
    assert [line["event"] for line in logs] == ["billing_refused"]
    known = await repository.account("main")
    assert (known.access, known.read_to, known.tried_at) == ("refused", None, NOON)
    assert account.health.well
    simulator.switches.billing_for_keys = True
    await keeper.read(account)
    assert (await repository.account("main")).access == "allowed"


@pytest.mark.parametrize(
    "trouble",
    [
        HttpFault("GET /api/billing/events", status=500),
        HttpFault("GET /api/billing/events", status=429),
        HttpFault("GET /api/billing/events", status=200, body="[]"),
        HttpFault("GET /api/billing/events", reset=True),
    ],
    ids=["500", "429", "list", "reset"],
)
async def test_a_failed_reading_is_made_up_for(
    simulator: Simulator,
    account: Account,
    repository: BillingRepository,
    make: Make,
    clock: Clock,
    trouble: HttpFault,
) -> None:
    keeper = await make()
    spent(simulator, "1", NOON - HOUR)
    simulator.faults.add(trouble, times=None)
    await keeper.read(account)
    assert (await repository.account("main")).access == "unknown"
    assert await booked(repository) == {}
    assert account.health.well
    simulator.faults.clear()
    await keeper.read(account)
    assert await booked(repository) == {"2026-11-25": 211}


async def test_it_reads_by_itself_and_exports_what_it_finds(
    simulator: Simulator, repository: BillingRepository, make: Make
) -> None:
    spent(simulator, "1", now() - now() % DAY)
    metrics, supervisor = Metrics(), Supervisor()
    supervisor.keep((await make(metrics, delay=0.01, interval=0.05)).run, "read")

    def exported() -> bool:
        page = generate_latest(metrics.registry).decode()
        return 'account_credits_booked{account="main"} 211.0' in page

    await until(exported)
    page = generate_latest(metrics.registry).decode()
    assert 'account_credits_difference{account="main"} 211.0' in page
    assert (await repository.record(day_of(0), "2100-01-01")).booked
    await supervisor.close()
    assert "account_credits_booked{" not in generate_latest(metrics.registry).decode()


async def test_a_new_engine_does_not_read_again_within_the_hour(
    simulator: Simulator, account: Account, make: Make, clock: Clock
) -> None:
    keeper = await make(delay=10.0)
    assert 5.0 <= await keeper.due_in() <= 10.0
    await keeper.read(account)
    clock.at += HOUR // 4
    again = await make(delay=10.0)
    assert await again.due_in() == pytest.approx(2700.0)
    clock.at += 2 * HOUR
    assert 5.0 <= await again.due_in() <= 10.0
    clock.at -= 10 * HOUR
    assert await again.due_in() == 3600.0
