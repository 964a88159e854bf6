"""A message becomes a delivery for each endpoint that wants it, which one engine attempts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import create_engine

from proxy.storage import webhooks as module
from proxy.storage.database import Database, FencedError
from proxy.storage.leases import ENGINE, Fence, LeaseRepository
from proxy.storage.members import MemberRepository, StoredMember
from proxy.storage.webhooks import (
    GATEWAY,
    Attempted,
    Claimed,
    StoredWebhook,
    TooManyWebhooksError,
    WebhookMessage,
    WebhookRepository,
    add_message,
)

DELIVERED = Attempted("delivered", 204)
AGAIN = Attempted("waiting", 500, "The endpoint answered 500.", 60.0)


def endpoint(id_: str, member: str = "anna", *types: str, url: str = "http://h/") -> StoredWebhook:
    wanted = json.dumps(types or ("job.completed",)).encode()
    return StoredWebhook(id_, member, url, wanted, b"secret", 1)


def message(id_: str, member: str = "anna", type_: str = "job.completed") -> WebhookMessage:
    return WebhookMessage(id_, type_, member, b"{}", 1)


class Room:
    """The repository under the lease of an engine."""

    def __init__(self, database: Database, fence: Fence) -> None:
        self.database, self.fence = database, fence
        self.webhooks = WebhookRepository(database)

    async def tell(self, *messages: WebhookMessage) -> None:
        for message in messages:
            await self.database.write(
                lambda connection, message=message: add_message(connection, message)
            )

    async def claim(self, limit: int = 99, hold: float = 60.0, **under_way: int) -> list[Claimed]:
        return await self.webhooks.claim(limit, under_way, hold=hold, fence=self.fence)

    async def settle(self, claimed: Claimed, attempted: Attempted) -> bool:
        return await self.webhooks.settle(claimed, attempted)

    async def log(self, id_: str = "one") -> list[tuple[str, str, int]]:
        found = await self.webhooks.log(id_, 99)
        return [(row.message, row.outcome, row.attempts) for row in found]

    async def of(self, id_: str = "one") -> StoredWebhook:
        found = await self.webhooks.get(id_)
        assert found is not None
        return found


async def _room(database: Database, holder: str = "engine") -> Room:
    lease = await LeaseRepository(database).acquire(ENGINE, holder, 600, alone=True)
    assert lease is not None
    return Room(database, lease.fence)


@pytest.fixture
async def room(database: Database) -> Room:
    return await _room(database)


async def _add(room: Room, *webhooks: StoredWebhook) -> None:
    for webhook in webhooks:
        await room.webhooks.add(webhook, limit=99)


async def test_a_message_goes_to_the_endpoints_of_its_member_and_of_the_gateway(
    room: Room,
) -> None:
    await _add(
        room,
        endpoint("mine"),
        endpoint("all", GATEWAY),
        endpoint("bens", "ben"),
        endpoint("starts", "anna", "job.started"),
        replace(endpoint("off"), disabled="gone"),
    )
    await room.tell(message("m"))
    assert {attempt.webhook for attempt in await room.claim()} == {"mine", "all"}


async def test_a_message_about_the_gateway_goes_to_nobody_else(room: Room) -> None:
    await _add(room, endpoint("mine"), endpoint("all", GATEWAY))
    await room.tell(message("m", GATEWAY))
    assert [attempt.webhook for attempt in await room.claim()] == ["all"]


async def test_the_url_of_a_job_has_an_endpoint_of_its_member_which_is_made_once(
    room: Room,
) -> None:
    for number in "12":
        named = replace(message(f"msg_{number}"), url=f"http://job/{number}", new_secret=b"new")
        await room.tell(named)
    claimed = await room.claim()
    assert {attempt.url for attempt in claimed} == {"http://job/1", "http://job/2"}
    assert {(attempt.secret, attempt.of_job, attempt.member) for attempt in claimed} == {
        (b"new", True, "anna")
    }
    (made,) = await room.webhooks.endpoints("anna")
    assert made.url == ""
    # What one of these URLs answers says nothing about the others.
    gone = Attempted("failed", 410, disabled="gone")
    assert not await room.settle(claimed[0], gone)
    assert (await room.of(made.id)).disabled is None


async def test_a_claimed_delivery_is_held(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    assert len(await room.claim()) == 1
    assert await room.claim() == []
    outlook = await room.webhooks.outlook()
    assert outlook.wait is not None
    assert 0 < outlook.wait <= 60


async def test_what_a_dead_engine_held_is_claimed_again_with_its_id(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    await room.claim(hold=0.0)
    (again,) = await room.claim()
    assert (again.message, again.attempts) == ("m", 2)


async def test_an_engine_without_the_lease_claims_nothing(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    newer = await _room(room.database, "another")
    with pytest.raises(FencedError):
        await room.claim()
    assert [attempt.message for attempt in await newer.claim()] == ["m"]


async def test_an_engine_writes_the_end_of_its_attempt_behind_its_lease(room: Room) -> None:
    """So that a change of the engine repeats nothing that was delivered."""
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    newer = await _room(room.database, "another")
    await room.settle(claimed, DELIVERED)
    assert await newer.claim() == []
    assert await room.log() == [("m", "delivered", 1)]


async def test_a_late_end_of_an_attempt_changes_nothing(room: Room) -> None:
    """Another engine has claimed the delivery since."""
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim(hold=0.0)
    newer = await _room(room.database, "another")
    await newer.claim()
    gone = Attempted("failed", 410, disabled="gone")
    assert not await room.settle(claimed, gone)
    assert await room.log() == [("m", "waiting", 2)]
    assert (await room.of()).disabled is None


async def test_each_endpoint_gets_a_few_attempts_at_once_and_one_while_it_fails(
    room: Room,
) -> None:
    await _add(room, endpoint("one"), endpoint("two"))
    await room.tell(*(message(f"m{number}") for number in range(6)))
    first = await room.claim(one=3)
    assert sorted(attempt.webhook for attempt in first) == ["one", *["two"] * 4]
    for attempt in first:
        await room.settle(attempt, AGAIN if attempt.webhook == "one" else DELIVERED)
    assert sorted(attempt.webhook for attempt in await room.claim()) == ["one", "two", "two"]
    assert await room.claim(one=4, two=4) == []


async def test_endpoints_that_work_are_claimed_before_those_that_fail(room: Room) -> None:
    await _add(room, endpoint("fails"), endpoint("works", "ben"))
    await room.webhooks.change("fails", failing_since=1)
    await room.tell(message("m1"), replace(message("m2", "ben"), created=2))
    assert [claimed.webhook for claimed in await room.claim(limit=1)] == ["works"]
    assert [claimed.webhook for claimed in await room.claim(limit=1)] == ["fails"]


async def test_what_a_clock_that_was_ahead_has_put_off_is_brought_forward(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    await room.settle(claimed, replace(AGAIN, wait=3600.0))
    await room.webhooks.bring_forward(3700.0)
    assert await room.claim() == []
    await room.webhooks.bring_forward(3500.0)
    assert [claimed.message for claimed in await room.claim()] == ["m"]


async def test_no_more_is_claimed_than_there_is_room_for(room: Room) -> None:
    await _add(room, endpoint("one"), endpoint("two"))
    await room.tell(*(message(f"m{number}") for number in range(6)))
    assert len(await room.claim(limit=3)) == 3


async def test_a_delivery_that_failed_is_due_again_after_its_wait(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    await room.settle(claimed, AGAIN)
    (entry,) = await room.webhooks.log("one", 9)
    assert (entry.outcome, entry.status, entry.note) == ("waiting", 500, AGAIN.note)
    wait = (await room.webhooks.outlook()).wait
    assert wait is not None
    assert 50 < wait <= 60
    assert (await room.of()).failing_since is not None


async def test_a_success_ends_the_failure_of_an_endpoint(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    await room.settle(claimed, replace(AGAIN, wait=0.0))
    (claimed,) = await room.claim()
    await room.settle(claimed, DELIVERED)
    assert (await room.of()).failing_since is None
    assert await room.log() == [("m", "delivered", 2)]
    assert (await room.webhooks.outlook()).wait is None


async def test_an_endpoint_that_is_gone_gets_nothing_more(room: Room) -> None:
    await _add(room, endpoint("one"), endpoint("two"))
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
    await _add(room, endpoint("one"))
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
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    (claimed,) = await room.claim()
    await room.settle(claimed, AGAIN)
    since = (await room.of()).failing_since
    assert since is not None
    await room.webhooks.change("one", failing_since=since - failed_for * 3_600_000)
    gave_up = Attempted("failed", 500, disabled="It failed for long.", disabled_after=12 * 3600)
    assert await room.settle(claimed, gave_up) is off
    assert ((await room.of()).disabled is not None) is off


async def test_a_disabled_endpoint_can_be_tested(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.webhooks.change("one", disabled="off")
    await room.webhooks.send("one", message("m", type_="webhook.test"))
    assert [attempt.message for attempt in await room.claim()] == ["m"]


async def test_the_types_that_are_wanted_are_those_of_enabled_endpoints(room: Room) -> None:
    assert (await room.webhooks.outlook()).types == frozenset()
    await _add(
        room,
        endpoint("one", "anna", "job.failed", "job.started"),
        endpoint("two", "ben", "job.failed"),
        replace(endpoint("off", "ben", "job.cancelled"), disabled="off"),
    )
    assert (await room.webhooks.outlook()).types == {"job.failed", "job.started"}


async def test_an_owner_has_a_bounded_number_of_endpoints(room: Room) -> None:
    await room.webhooks.add(endpoint("one"), limit=1)
    await room.webhooks.add(endpoint("bens", "ben"), limit=1)
    with pytest.raises(TooManyWebhooksError):
        await room.webhooks.add(endpoint("two"), limit=1)


async def test_the_log_is_bounded_in_number_and_time(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    await _add(room, endpoint("one"))
    for number in range(5):
        await room.tell(replace(message(f"m{number}"), created=number))
        (claimed,) = await room.claim()
        await room.settle(claimed, DELIVERED)
    await room.tell(replace(message("waits"), created=0))
    await room.webhooks.forget(4)
    assert [id_ for id_, *_ in await room.log()] == ["m4", "waits"]
    await room.webhooks.forget(0)
    assert len(await room.log()) == 2


async def test_a_removed_endpoint_leaves_nothing(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.tell(message("m"))
    assert await room.webhooks.remove("one")
    assert not await room.webhooks.remove("one")
    assert await room.log() == []
    assert await room.claim() == []


async def test_the_endpoints_of_a_removed_member_are_removed(room: Room) -> None:
    await _add(room, endpoint("one"), endpoint("bens", "ben"))
    await room.tell(message("m"))
    anna = StoredMember("anna", "anna", True, b"{}")
    await MemberRepository(room.database).change(None, members=[anna])
    assert [stored.id for stored in await room.webhooks.endpoints()] == ["bens"]
    assert await room.log() == []


async def test_a_message_is_written_once_to_an_endpoint(room: Room) -> None:
    await _add(room, endpoint("one"))
    await room.tell(message("m"), message("m"))
    assert len(await room.log()) == 1


async def test_what_was_told_of_accounts_is_kept_with_its_messages(room: Room) -> None:
    await _add(room, endpoint("all", GATEWAY, "account.unavailable"))
    assert await room.webhooks.sent_accounts() == {}
    sent: dict[str, Any] = {"main": "no_credits"}
    down = message("m", GATEWAY, "account.unavailable")
    await room.webhooks.tell_accounts(sent, [down], fence=room.fence)
    assert await room.webhooks.sent_accounts() == sent
    assert [attempt.message for attempt in await room.claim()] == ["m"]


async def test_a_secret_is_replaced_unless_it_is_another_one_meanwhile(room: Room) -> None:
    await _add(room, endpoint("one"), endpoint("two"))
    await room.webhooks.replace_secrets(
        {"one": (b"secret", b"anew"), "two": (b"an older one", b"anew")}
    )
    assert (await room.of("one")).secret == b"anew"
    assert (await room.of("two")).secret == b"secret"


async def test_the_last_attempt_of_each_endpoint_is_found(room: Room) -> None:
    await _add(room, endpoint("one"), endpoint("bens", "ben"))
    await room.tell(message("m1"))
    (claimed,) = await room.claim()
    await room.settle(claimed, AGAIN)
    await room.tell(message("m2"))
    last = await room.webhooks.last("anna")
    assert {id_: value.message for id_, value in last.items()} == {"one": "m1"}
    assert await room.webhooks.last("ben") == {}


def test_a_claim_reads_no_more_of_an_endpoint_than_it_claims(tmp_path: Path) -> None:
    """However many deliveries wait for it."""
    engine = create_engine(f"sqlite:///{tmp_path / 'plans'}")
    module.webhooks.create(engine)
    module.deliveries.create(engine)
    every = {"full": ["one"], "busy": ["one"], "now": 1, "limit": 1, "w": "one"}
    with engine.connect() as connection:
        for query in (module._DUE, module._DUE_OF):
            known = {name: every[name] for name in query.compile().params if name in every}
            literal = query.params(known).compile(engine, compile_kwargs={"literal_binds": True})
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {literal}").all()
            steps = [row[-1] for row in plan if "webhook_deliveries" in row[-1]]
            assert steps
            assert all("ix_webhook_deliveries_webhook_due_created" in step for step in steps)
    engine.dispose()
