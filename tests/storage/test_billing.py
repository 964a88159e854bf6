"""What the cloud has booked: each event counts once, beside the ledger and the balances."""

from __future__ import annotations

from functools import partial

import pytest

from proxy.storage.billing import AccountBilling, BillingRepository, Booking
from proxy.storage.costs import CostRow, add_costs
from proxy.storage.database import Database, FencedError
from proxy.storage.leases import Fence

HOUR, DAY = 3_600_000, 86_400_000
#: The midnight before 2026-11-25.
START = 1_795_564_800_000


def booking(id_: str, at: int, amount: int = 1_000_000, type_: str = "gpu_usage") -> Booking:
    return Booking(id_, type_, at, amount)


@pytest.fixture
def repository(database: Database) -> BillingRepository:
    return BillingRepository(database)


async def booked(repository: BillingRepository) -> dict[tuple[str, str], int]:
    return dict((await repository.record("2026-11-01", "2026-12-31")).booked)


async def test_an_event_counts_once_however_often_it_is_read(repository: BillingRepository) -> None:
    events = [booking("1", START + HOUR), booking("2", START + 2 * HOUR), booking("2", START)]
    for until in (3 * HOUR, 4 * HOUR):
        await repository.book("main", events, START, START + until, forget=START)
    again = [*events, booking("3", START + 4 * HOUR, type_="api_node_usage")]
    await repository.book("main", again, START + 2 * HOUR, START + 5 * HOUR, forget=START)
    await repository.book("other", events[:1], START, START + HOUR, forget=START)
    assert await booked(repository) == {
        ("2026-11-25", "main"): 3_000_000,
        ("2026-11-25", "other"): 1_000_000,
    }


async def test_amounts_are_of_the_day_of_their_event(repository: BillingRepository) -> None:
    events = [booking("1", START - 1, 2**60), booking("2", START), booking("3", START + DAY - 1)]
    await repository.book("main", events, START - DAY, START + DAY, forget=0)
    assert await booked(repository) == {
        ("2026-11-24", "main"): 2**60,
        ("2026-11-25", "main"): 2_000_000,
    }


async def test_ids_are_kept_while_their_events_may_be_read_again(
    repository: BillingRepository,
) -> None:
    late = [booking("1", START + HOUR)]
    await repository.book("main", late, START, START + 2 * HOUR, forget=START + HOUR)
    await repository.book("main", late, START, START + 3 * HOUR, forget=START + HOUR + 1)
    assert sum((await booked(repository)).values()) == 1_000_000
    await repository.book("main", late, START, START + 4 * HOUR, forget=START)
    assert sum((await booked(repository)).values()) == 2_000_000


async def test_a_thousand_events_are_one_unit(
    repository: BillingRepository, database: Database
) -> None:
    events = [booking(f"{number}\0", START + number) for number in range(1200)]
    units = database.units
    await repository.book("main", events, START, START + HOUR, forget=START)
    await repository.book("main", events[600:], START, START + HOUR, forget=START)
    assert sum((await booked(repository)).values()) == 1_200_000_000
    assert database.units == units + 2


async def test_what_is_known_of_an_account(repository: BillingRepository) -> None:
    assert await repository.account("main") == AccountBilling("main")
    await repository.tried("main", "refused", START)
    await repository.balance("main", -7, "USD")
    await repository.enter("main", 500_000_000, START + HOUR)
    assert await repository.account("main") == AccountBilling(
        "main", "refused", None, None, START, -7, "USD", 500_000_000, START + HOUR, 0
    )
    await repository.book("main", [], START, START + HOUR, forget=0)
    await repository.book("main", [], START + HOUR, START + 2 * HOUR, forget=0)
    await repository.balance("main", None, "")
    await repository.enter("main", None, START)
    assert await repository.account("main") == AccountBilling(
        "main", "allowed", START, START + 2 * HOUR, START + 2 * HOUR
    )


def cost(day: str, amount: int, account: str = "main", node_class: str = "") -> CostRow:
    return CostRow(day, "anna", account, node_class, "estimated", amount)


async def test_the_ledger_stands_beside_it_by_account(
    repository: BillingRepository, database: Database
) -> None:
    rows = [
        cost("2026-11-24", 1),
        cost("2026-11-25", 2),
        cost("2026-11-25", 4, node_class="Flux"),
        cost("2026-11-25", 8, account="other"),
        cost("2026-11-26", 16),
    ]
    await database.write(partial(add_costs, rows=rows))
    record = await repository.record("2026-11-24", "2026-11-25")
    assert record.ledger == {
        ("2026-11-24", "main"): 1,
        ("2026-11-25", "main"): 6,
        ("2026-11-25", "other"): 8,
    }


async def test_costs_after_the_balance_was_entered_are_spent(
    repository: BillingRepository, database: Database
) -> None:
    async def charge(*rows: CostRow) -> None:
        await database.write(partial(add_costs, rows=rows))

    async def spent() -> dict[str, int]:
        return dict((await repository.record("2026-11-01", "2026-11-01")).spent)

    await charge(cost("2026-11-24", 1000), cost("2026-11-25", 100), cost("2026-11-25", 9, "other"))
    assert await spent() == {}
    await repository.enter("main", 5000, START + HOUR)
    assert await spent() == {"main": 0}
    await charge(cost("2026-11-25", 10), cost("2026-11-26", 5), cost("2026-11-26", 7, "other"))
    assert await spent() == {"main": 15}
    await repository.enter("main", 5000, START + DAY + HOUR)
    assert await spent() == {"main": 0}


async def test_an_engine_whose_term_is_over_writes_nothing(repository: BillingRepository) -> None:
    fence = Fence("engine", 7)
    events = [booking("1", START)]
    for write in (
        partial(repository.book, "main", events, 0, START, forget=0),
        partial(repository.tried, "main", "refused", START),
        partial(repository.balance, "main", 1, "USD"),
    ):
        with pytest.raises(FencedError):
            await write(fence=fence)
    assert await repository.account("main") == AccountBilling("main")
    assert await booked(repository) == {}
