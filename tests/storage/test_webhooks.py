"""A message becomes a delivery for each endpoint that wants it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from storage.webhook_room import AGAIN, Room, add, endpoint, leading_room, message

from proxy.storage.database import Database
from proxy.storage.members import MemberRepository, StoredMember
from proxy.storage.webhooks import GATEWAY, TooManyWebhooksError


@pytest.fixture
async def room(database: Database) -> Room:
    return await leading_room(database)


async def test_a_message_goes_to_the_endpoints_of_its_member_and_of_the_gateway(
    room: Room,
) -> None:
    await add(
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
    await add(room, endpoint("mine"), endpoint("all", GATEWAY))
    await room.tell(message("m", GATEWAY))
    assert [attempt.webhook for attempt in await room.claim()] == ["all"]


async def test_a_disabled_endpoint_can_be_tested(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.webhooks.change("one", disabled="off")
    await room.webhooks.send("one", message("m", type_="webhook.test"))
    assert [attempt.message for attempt in await room.claim()] == ["m"]


async def test_no_text_of_a_client_is_more_than_an_unknown_id(room: Room) -> None:
    await add(room, endpoint("one"))
    assert await room.webhooks.get("\0") is None
    assert await room.webhooks.get("one") == endpoint("one")


async def test_an_owner_has_a_bounded_number_of_endpoints(room: Room) -> None:
    await room.webhooks.add(endpoint("one"), limit=1)
    await room.webhooks.add(endpoint("bens", "ben"), limit=1)
    with pytest.raises(TooManyWebhooksError):
        await room.webhooks.add(endpoint("two"), limit=1)


async def test_a_removed_endpoint_leaves_nothing(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"))
    assert await room.webhooks.remove("one")
    assert not await room.webhooks.remove("one")
    assert await room.log() == []
    assert await room.claim() == []


async def test_the_endpoints_of_a_removed_member_are_removed(room: Room) -> None:
    await add(room, endpoint("one"), endpoint("bens", "ben"))
    await room.tell(message("m"))
    anna = StoredMember("anna", "anna", True, b"{}")
    await MemberRepository(room.database).change(None, members=[anna])
    assert [stored.id for stored in await room.webhooks.endpoints()] == ["bens"]
    assert await room.log() == []


async def test_a_message_is_written_once_to_an_endpoint(room: Room) -> None:
    await add(room, endpoint("one"))
    await room.tell(message("m"), message("m"))
    assert len(await room.log()) == 1


async def test_what_was_sent_about_accounts_is_kept_with_its_messages(room: Room) -> None:
    await add(room, endpoint("all", GATEWAY, "account.unavailable"))
    assert await room.webhooks.sent_accounts() == {}
    sent: dict[str, Any] = {"main": "no_credits"}
    down = message("m", GATEWAY, "account.unavailable")
    assert await room.webhooks.send_account_messages({}, sent, [down], fence=room.fence)
    assert await room.webhooks.sent_accounts() == sent
    assert [attempt.message for attempt in await room.claim()] == ["m"]


async def test_a_secret_is_replaced_unless_it_is_another_one_meanwhile(room: Room) -> None:
    await add(room, endpoint("one"), endpoint("two"))
    await room.webhooks.replace_secrets(
        {"one": (b"secret", b"anew"), "two": (b"an older one", b"anew")}
    )
    assert (await room.of("one")).secret == b"anew"
    assert (await room.of("two")).secret == b"secret"


async def test_the_last_attempt_of_each_endpoint_is_found(room: Room) -> None:
    await add(room, endpoint("one"), endpoint("bens", "ben"))
    await room.tell(message("m1"))
    (claimed,) = await room.claim()
    await room.settle(claimed, AGAIN)
    await room.tell(message("m2"))
    last = await room.webhooks.last("anna")
    assert {id_: value.message for id_, value in last.items()} == {"one": "m1"}
    assert await room.webhooks.last("ben") == {}
