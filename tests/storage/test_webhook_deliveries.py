"""One engine attempts the deliveries that are due."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import create_engine, select
from storage.webhook_room import AGAIN, DELIVERED, Room, add, endpoint, leading_room, message

from proxy.storage import webhook_deliveries as module
from proxy.storage.database import Database, FencedError
from proxy.storage.webhook_deliveries import Attempted
from proxy.storage.webhooks import GATEWAY, stored_messages


@pytest.fixture
async def room(database: Database) -> Room:
    return await leading_room(database)


async def test_a_claimed_delivery_is_held(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    assert len(await room.claim()) == 1
    assert await room.claim() == []
    outlook = await room.deliveries.outlook()
    assert outlook.wait is not None
    assert 0 < outlook.wait <= 60


async def test_what_a_dead_engine_held_is_claimed_again_with_its_id(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    await room.claim(hold=0.0)
    (again,) = await room.claim()
    assert (again.message, again.attempts) == ("m", 2)


async def test_an_engine_without_the_lease_claims_nothing(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    newer = await leading_room(room.database, "another")
    with pytest.raises(FencedError):
        await room.claim()
    assert [attempt.message for attempt in await newer.claim()] == ["m"]


async def test_an_engine_writes_the_end_of_its_attempt_behind_its_lease(room: Room) -> None:
    """So that a change of the engine repeats nothing that was delivered."""
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    newer = await leading_room(room.database, "another")
    await room.settle(claimed, DELIVERED)
    assert await newer.claim() == []
    assert await room.log() == [("m", "delivered", 1)]


async def test_a_late_end_of_an_attempt_changes_nothing(room: Room) -> None:
    """Another engine has claimed the delivery since."""
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim(hold=0.0)
    newer = await leading_room(room.database, "another")
    await newer.claim()
    gone = Attempted("failed", 410, disabled="gone")
    assert not await room.settle(claimed, gone)
    assert await room.log() == [("m", "waiting", 2)]
    assert (await room.of()).disabled is None


async def test_each_endpoint_gets_a_few_attempts_at_once_and_one_while_it_fails(
    room: Room,
) -> None:
    await add(room, endpoint("one"), endpoint("two"))
    await room.tell(*(message(f"m{number}") for number in range(6)))
    first = await room.claim(one=3)
    assert sorted(attempt.webhook for attempt in first) == ["one", *["two"] * 4]
    for attempt in first:
        await room.settle(attempt, AGAIN if attempt.webhook == "one" else DELIVERED)
    assert sorted(attempt.webhook for attempt in await room.claim()) == ["one", "two", "two"]
    assert await room.claim(one=4, two=4) == []


async def test_endpoints_that_work_are_claimed_before_those_that_fail(room: Room) -> None:
    await add(room, endpoint("fails"), endpoint("works", "ben"))
    await room.webhooks.change("fails", failing_since=1)
    await room.tell(message("m1"), replace(message("m2", "ben"), created=2))
    assert [claimed.webhook for claimed in await room.claim(limit=1)] == ["works"]
    assert [claimed.webhook for claimed in await room.claim(limit=1)] == ["fails"]


async def test_what_a_clock_that_was_ahead_has_put_off_is_brought_forward(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    await room.settle(claimed, replace(AGAIN, wait=3600.0))
    await room.deliveries.bring_forward(3700.0)
    assert await room.claim() == []
    await room.deliveries.bring_forward(3500.0)
    assert [claimed.message for claimed in await room.claim()] == ["m"]


async def test_no_more_is_claimed_than_there_is_room_for(room: Room) -> None:
    await add(room, endpoint("one"), endpoint("two"))
    await room.tell(*(message(f"m{number}") for number in range(6)))
    assert len(await room.claim(limit=3)) == 3


async def test_a_delivery_that_failed_is_due_again_after_its_wait(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    await room.settle(claimed, AGAIN)
    (entry,) = await room.webhooks.log("one", 9)
    assert (entry.outcome, entry.status, entry.note) == ("waiting", 500, AGAIN.note)
    wait = (await room.deliveries.outlook()).wait
    assert wait is not None
    assert 50 < wait <= 60
    assert (await room.of()).failing_since is not None


async def test_a_success_ends_the_failure_of_an_endpoint(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    await room.settle(claimed, replace(AGAIN, wait=0.0))
    (claimed,) = await room.claim()
    await room.settle(claimed, DELIVERED)
    assert (await room.of()).failing_since is None
    assert await room.log() == [("m", "delivered", 2)]
    assert (await room.deliveries.outlook()).wait is None


async def test_an_endpoint_that_is_gone_gets_nothing_more(room: Room) -> None:
    await add(room, endpoint("one"), endpoint("two"))
    await room.tell(message("m1"), message("m2"))
    claimed = next(attempt for attempt in await room.claim() if attempt.webhook == "one")
    assert await room.settle(claimed, Attempted("failed", 410, disabled="It is gone."))
    await room.tell(message("m3"))
    outcomes = {id_: outcome for id_, outcome, _ in await room.log()}
    assert outcomes == {"m1": "failed", "m2": "dropped"} or outcomes == {
        "m1": "dropped",
        "m2": "failed",
    }
    assert (await room.of()).disabled == "It is gone."
    assert await room.webhooks.disabled(["anna"]) == 1
    assert await room.webhooks.disabled(["ben", GATEWAY]) == 0
    assert (await room.of("two")).disabled is None


async def test_what_was_under_way_when_its_endpoint_was_disabled_is_not_sent_again(
    room: Room,
) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m1"), message("m2"))
    again, delivered = await room.claim()
    await room.webhooks.change("one", disabled="Its owner has disabled it.")
    await room.settle(again, replace(AGAIN, wait=0.0))
    await room.settle(delivered, DELIVERED)
    assert await room.claim() == []
    outcomes = {id_: outcome for id_, outcome, _ in await room.log()}
    assert outcomes == {again.message: "dropped", delivered.message: "delivered"}


@pytest.mark.parametrize(("failed_for", "off"), [(5, False), (20, True)])
async def test_an_endpoint_is_disabled_after_a_long_failure_alone(
    room: Room, failed_for: int, off: bool
) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    await room.settle(claimed, AGAIN)
    since = (await room.of()).failing_since
    assert since is not None
    await room.webhooks.change("one", failing_since=since - failed_for * 3_600_000)
    gave_up = Attempted("failed", 500, disabled="It failed for too long.", disabled_after=12 * 3600)
    assert await room.settle(claimed, gave_up) is off
    assert ((await room.of()).disabled is not None) is off


async def test_the_types_that_are_wanted_are_those_of_enabled_endpoints(room: Room) -> None:
    assert (await room.deliveries.outlook()).types == frozenset()
    await add(
        room,
        endpoint("one", "anna", "job.failed", "job.started"),
        endpoint("two", "ben", "job.failed"),
        replace(endpoint("off", "ben", "job.cancelled"), disabled="off"),
    )
    assert (await room.deliveries.outlook()).types == {"job.failed", "job.started"}


async def test_the_log_is_bounded_in_number_and_time(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    await add(room, endpoint("one"))
    for number in range(5):
        await room.tell(replace(message(f"m{number}"), created=number))
        (claimed,) = await room.claim()
        await room.settle(claimed, DELIVERED)
    await room.tell(replace(message("waits"), created=0))
    await room.deliveries.forget(4)
    assert [id_ for id_, *_ in await room.log()] == ["m4", "waits"]
    await room.deliveries.forget(0)
    assert len(await room.log()) == 2


def test_a_claim_reads_no_more_of_an_endpoint_than_it_claims(tmp_path: Path) -> None:
    """However many deliveries wait for it."""
    engine = create_engine(f"sqlite:///{tmp_path / 'plans'}")
    module.webhooks.create(engine)
    module.deliveries.create(engine)
    every = {"owners": ["bob"], "full": ["one"], "busy": ["one"], "now": 1, "limit": 1, "w": "one"}
    with engine.connect() as connection:
        for query in (module._DUE, module._DUE_OF):
            known = {name: every[name] for name in query.compile().params if name in every}
            literal = query.params(known).compile(engine, compile_kwargs={"literal_binds": True})
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {literal}").all()
            steps = [row[-1] for row in plan if "webhook_deliveries" in row[-1]]
            assert steps
            assert all("ix_webhook_deliveries_webhook_due_created" in step for step in steps)
    engine.dispose()


async def bodies(room: Room) -> list[str]:
    """The ids of the messages whose bodies are stored."""
    rows = await room.database.read(
        lambda connection: connection.execute(select(stored_messages.c.id)).scalars().all()
    )
    return sorted(rows)


async def test_the_body_of_a_message_is_stored_once_until_its_last_delivery_is_over(
    room: Room,
) -> None:
    await add(room, endpoint("one"), endpoint("two"))
    await room.tell(message("a"))
    assert await bodies(room) == ["a"]
    first, second = await room.claim()
    assert first.body == second.body == b"{}"
    await room.settle(first, DELIVERED)
    assert await bodies(room) == ["a"]
    await room.settle(second, DELIVERED)
    assert await bodies(room) == []


async def test_a_body_is_forgotten_with_the_endpoint_that_it_was_for(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("a"))
    await room.webhooks.remove("one")
    await room.deliveries.forget(0)
    assert await bodies(room) == []


async def test_attempts_whose_endpoints_are_gone_are_known(room: Room) -> None:
    await add(room, endpoint("one"))
    outlook = await room.deliveries.outlook(["one", "two"])
    assert outlook.gone == {"two"}


async def test_nothing_is_claimed_of_an_owner_that_is_excluded(room: Room) -> None:
    await add(room, endpoint("one"), endpoint("two", "bob"))
    await room.tell(message("a"), message("b", "bob"))
    claimed = await room.claim(excluded=["anna"])
    assert [delivery.webhook for delivery in claimed] == ["two"]
