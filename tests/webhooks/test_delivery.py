"""Messages on their way to endpoints that fail, hang, move and are gone, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from backend import open_database
from msgspec.structs import replace
from receiver import TIMEOUT, Receiver, receiving
from stopped_clock import stopped
from waiting import until

from proxy.metrics import Metrics
from proxy.runtime.backoff import Backoff
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import Database
from proxy.storage.encryption import Cipher
from proxy.storage.leases import ENGINE, Fence, LeaseRepository
from proxy.storage.webhook_deliveries import WebhookDeliveryRepository
from proxy.storage.webhooks import (
    GATEWAY,
    StoredDelivery,
    StoredWebhook,
    WebhookRepository,
    add_messages,
)
from proxy.translate.errors import LocalError
from proxy.webhooks import delivery
from proxy.webhooks.addresses import WebhookAddresses
from proxy.webhooks.delivery import MAX_CONCURRENT, RetrySchedule, WebhookCleanup, WebhookDelivery
from proxy.webhooks.endpoints import NewWebhook, WebhookFields, Webhooks, new_secret
from proxy.webhooks.messages import message
from proxy.webhooks.outbox import Outbox
from proxy.webhooks.sender import WebhookSender

HERE = WebhookAddresses((ip_network("127.0.0.0/8"),))
QUICK = RetrySchedule(timeout=10.0, backoff=Backoff(0.02, 0.1))


@dataclass
class Post:
    """The endpoints of a database, and engines that deliver to them."""

    database: Database
    receiver: Receiver
    sender: WebhookSender
    cipher: Cipher = field(default_factory=Cipher)
    outbox: Outbox = field(default_factory=Outbox)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.repository = WebhookRepository(self.database)
        self.deliveries = WebhookDeliveryRepository(self.database)
        self.webhooks = Webhooks(
            self.repository,
            self.cipher,
            HERE,
            changed=self.outbox.news.set,
        )
        self.secrets: dict[str, str] = {}

    async def add(self, path: str, owner: str = "anna", *types: Any) -> str:
        wanted = NewWebhook(str(self.receiver.url / path), types or ("job.completed",))
        secret, webhook = await self.webhooks.add(owner, wanted)
        self.secrets[path] = secret
        return webhook.id

    async def tell(self, member: str = "anna", type_: str = "job.completed") -> str:
        made = message(type_, member, {})
        await self.database.write(lambda connection: add_messages(connection, [made]))
        self.outbox.news.set()
        return made.id

    async def fence(self, holder: str) -> Fence:
        lease = await LeaseRepository(self.database).acquire(ENGINE, holder, 600, alone=True)
        assert lease is not None
        return lease.fence

    async def delivering(
        self, schedule: RetrySchedule = QUICK, holder: str = "engine"
    ) -> Supervisor:
        delivery = WebhookDelivery(
            await self.fence(holder),
            deliveries=self.deliveries,
            outbox=self.outbox,
            sender=self.sender,
            cipher=self.cipher,
            metrics=self.metrics,
            schedule=schedule,
        )
        cleanup = WebhookCleanup(
            self.repository,
            self.deliveries,
            outbox=self.outbox,
            cipher=self.cipher,
            schedule=schedule,
        )
        supervisor = Supervisor()
        supervisor.keep(delivery.run, "deliver")
        supervisor.keep(cleanup.run, "clean up")
        return supervisor

    async def last(self, id_: str) -> StoredDelivery:
        (newest, *_) = await self.repository.log(id_, 1)
        return newest

    async def until(self, id_: str, outcome: str) -> StoredDelivery:
        async def ended() -> bool:
            return (await self.last(id_)).outcome == outcome

        await until(ended)
        return await self.last(id_)


@pytest.fixture
async def post(tmp_path: Path) -> AsyncIterator[Post]:
    database = await open_database(tmp_path)
    sender = WebhookSender(HERE.check)
    await sender.start()
    async with receiving() as receiver:
        yield Post(database, receiver, sender)
    await sender.close()
    await database.close()


async def test_a_message_is_delivered_and_signed_with_the_secret_of_its_endpoint(
    post: Post,
) -> None:
    one, two = await post.add("one"), await post.add("two", GATEWAY)
    engine = await post.delivering()
    id_ = await post.tell()
    for path in ("one", "two"):
        (received,) = await post.receiver.until(1, f"/{path}")
        assert received.id == id_
        received.verified(post.secrets[path])
    for endpoint in (one, two):
        assert (await post.until(endpoint, "delivered")).status == 204
    await engine.close()


async def test_an_endpoint_that_fails_gets_it_again_with_the_same_id(post: Post) -> None:
    post.receiver.answer("/one", 500)
    endpoint = await post.add("one")
    engine = await post.delivering()
    id_ = await post.tell()
    await post.receiver.until(3)
    del post.receiver.answers["/one"]
    delivery = await post.until(endpoint, "delivered")
    assert {received.id for received in post.receiver.got} == {id_}
    assert delivery.attempts == len(post.receiver.got) >= 4
    assert delivery.note == ""
    webhook = await post.repository.get(endpoint)
    assert webhook is not None
    assert webhook.failing_since is None
    await engine.close()


async def test_an_endpoint_that_hangs_delays_no_other(post: Post) -> None:
    """Not even with more messages than may be under way at once."""
    post.receiver.hang("/hangs")
    await post.add("hangs")
    await post.add("works", "ben")
    for _ in range(120):
        await post.tell()
    engine = await post.delivering(RetrySchedule(timeout=30.0))
    await post.receiver.until(4, "/hangs")
    await post.tell("ben")
    async with asyncio.timeout(10):
        await post.receiver.until(1, "/works")
    assert len(post.receiver.at("/hangs")) == 4
    await engine.close()


async def test_an_endpoint_that_times_out_is_attempted_again(post: Post) -> None:
    post.receiver.hang("/one")
    endpoint = await post.add("one")
    engine = await post.delivering(RetrySchedule(timeout=0.1, backoff=Backoff(0.02, 0.1)))
    await post.tell()
    await post.receiver.until(2)
    assert (await post.last(endpoint)).note == "No answer within 0.1 s."
    await engine.close()


async def test_an_endpoint_that_is_gone_is_disabled_at_once(post: Post) -> None:
    post.receiver.answer("/one", 410)
    endpoint = await post.add("one")
    engine = await post.delivering()
    await post.tell()
    assert (await post.until(endpoint, "failed")).attempts == 1
    ((shown, _),) = await post.webhooks.endpoints("anna")
    assert shown.disabled == "The endpoint is gone (410)."
    assert shown.disabled_at is not None
    await post.tell()
    assert len(await post.repository.log(endpoint, 9)) == 1
    await engine.close()


async def test_an_endpoint_that_has_moved_is_noted_as_moved(post: Post) -> None:
    post.receiver.answer("/one", 308, Location="https://new.example/hook")
    endpoint = await post.add("one")
    engine = await post.delivering()
    await post.tell()
    await post.receiver.until(2)
    last = await post.last(endpoint)
    assert last.outcome == "waiting"
    assert "Moved to https://new.example/hook" in last.note
    await engine.close()


async def test_a_long_failure_disables_an_endpoint_and_its_owner_enables_it_again(
    post: Post,
) -> None:
    post.receiver.answer("/one", 500)
    endpoint = await post.add("one")
    engine = await post.delivering(
        RetrySchedule(timeout=10.0, backoff=Backoff(0.02, 0.1), max_age=0.8)
    )
    await post.tell()
    await post.until(endpoint, "failed")
    ((shown, _),) = await post.webhooks.endpoints("anna")
    assert shown.disabled == "It failed for too long. The endpoint answered 500."
    webhook = await post.repository.get(endpoint)
    assert webhook is not None
    changed, _ = await post.webhooks.change(webhook, WebhookFields(disabled=False))
    assert (changed.disabled, changed.failing_since) == (None, None)
    del post.receiver.answers["/one"]
    await post.tell()
    await post.until(endpoint, "delivered")
    await engine.close()


async def test_an_endpoint_that_is_changed_is_shown_with_its_last_attempt(post: Post) -> None:
    endpoint = await post.add("one")
    engine = await post.delivering()
    await post.tell()
    await post.until(endpoint, "delivered")
    await engine.close()
    webhook = await post.repository.get(endpoint)
    assert webhook is not None
    changed = await post.webhooks.change(webhook, WebhookFields(types=("job.failed",)))
    _, last = changed
    assert last is not None
    assert last.outcome == "delivered"
    assert await post.webhooks.endpoints("anna") == [changed]


async def test_a_test_is_attempted_once_and_disables_nothing(post: Post) -> None:
    post.receiver.answer("/one", 410)
    endpoint = await post.add("one")
    webhook = await post.repository.get(endpoint)
    assert webhook is not None
    engine = await post.delivering()
    id_ = await post.webhooks.test(webhook, "anna")
    delivery = await post.until(endpoint, "failed")
    assert (delivery.message, delivery.type, delivery.attempts) == (id_, "webhook.test", 1)
    ((shown, _),) = await post.webhooks.endpoints("anna")
    assert shown.disabled is None
    await engine.close()


async def test_a_member_tests_webhooks_ten_times_at_once_and_then_each_six_seconds(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = stopped(monkeypatch, 0.0)
    webhooks = [await post.repository.get(await post.add(name)) for name in ("one", "two")]

    async def test(number: int, member: str = "anna") -> None:
        webhook = webhooks[number % 2]
        assert webhook is not None
        await post.webhooks.test(webhook, member)

    for number in range(10):
        await test(number)
    with pytest.raises(LocalError) as refused:
        await test(10)
    assert (refused.value.kind, refused.value.retry_after) == ("rate_limited", 6)
    assert refused.value.message.endswith("wait 6 s, then test again.")
    await test(0, "ben")
    clock.at += 6.0
    await test(0)
    with pytest.raises(LocalError):
        await test(0)


async def test_a_message_of_more_than_a_day_ago_is_attempted_once(post: Post) -> None:
    """As after a day in which the proxy was off."""
    post.receiver.answer("/one", 500)
    endpoint = await post.add("one")
    old = msgspec.structs.replace(message("job.completed", "anna", {}), created=1_000)
    await post.database.write(lambda connection: add_messages(connection, [old]))
    engine = await post.delivering()
    delivery = await post.until(endpoint, "failed")
    assert (delivery.message, delivery.attempts) == (old.id, 1)
    await engine.close()


async def test_the_next_engine_goes_on_where_the_last_one_ended(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is sent by it, with the same id, and what was delivered is not sent again."""
    monkeypatch.setattr(delivery, "_MARGIN", 0.2)
    schedule = replace(QUICK, timeout=1.0)
    endpoint = await post.add("one")
    first = await post.delivering(schedule)
    done = await post.tell()
    await post.until(endpoint, "delivered")
    post.receiver.answer("/one", 500)
    waits = await post.tell()
    await post.receiver.until(2)
    await first.close()
    del post.receiver.answers["/one"]
    second = await post.delivering(schedule, holder="another")
    await post.until(endpoint, "delivered")
    ids = [received.id for received in post.receiver.got]
    assert ids.count(done) == 1
    assert set(ids) == {done, waits}
    await second.close()


async def test_an_engine_that_has_lost_its_lease_sends_nothing_more(post: Post) -> None:
    await post.add("one")
    first = await post.delivering()
    await post.tell()
    await post.receiver.until(1)
    await post.fence("another")
    await post.tell()
    second = await post.delivering(holder="another")
    await post.receiver.until(2)
    await until(lambda: _is_idle(post))
    assert len(post.receiver.got) == 2
    await first.close()
    await second.close()


async def _is_idle(post: Post) -> bool:
    return (await post.deliveries.outlook()).wait is None


async def test_a_secret_that_cannot_be_read_is_noted(post: Post) -> None:
    endpoint = await post.add("one")
    post.cipher.use(_other_key())
    engine = await post.delivering()
    await post.tell()

    async def attempted() -> bool:
        return (await post.last(endpoint)).note != ""

    await until(attempted)
    assert "make a new secret" in (await post.last(endpoint)).note
    assert post.receiver.got == []
    await engine.close()


def _other_key() -> str:
    return "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


async def test_secrets_follow_the_newest_secret_of_the_proxy(post: Post) -> None:
    post.cipher.use(_other_key())
    endpoint = await post.add("one")
    before = await post.repository.get(endpoint)
    newer = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
    post.cipher.use(f"{newer}\n{_other_key()}")
    engine = await post.delivering()

    async def renewed() -> bool:
        return await post.repository.get(endpoint) != before

    await until(renewed)
    post.cipher.use(newer)
    await post.tell()
    (received,) = await post.receiver.until(1)
    received.verified(post.secrets["one"])
    await engine.close()


async def test_attempts_are_counted(post: Post) -> None:
    endpoint = await post.add("one")
    engine = await post.delivering()
    await post.tell()
    await post.until(endpoint, "delivered")
    labels = {"member": "anna", "result": "delivered"}
    name = "comfy_cloud_proxy_webhook_attempts_total"
    assert post.metrics.registry.get_sample_value(name, labels) == 1
    await engine.close()


async def test_endpoints_of_a_member_that_hang_do_not_delay_those_of_others(post: Post) -> None:
    bob = await post.add("bob", "bob")
    engine = await post.delivering()
    for number in range(MAX_CONCURRENT):
        post.receiver.hang(f"/{number}")
        webhook = StoredWebhook(
            f"wh_{number}",
            "anna",
            str(post.receiver.url / str(number)),
            b'["job.completed"]',
            post.cipher.encrypt(new_secret().encode()),
            1,
        )
        await post.repository.add(webhook, limit=MAX_CONCURRENT)
    await post.tell()
    await post.receiver.until(MAX_CONCURRENT // 2)
    await post.tell("bob")
    await post.receiver.until(1, "/bob")
    assert (await post.until(bob, "delivered")).attempts == 1
    assert len(post.receiver.got) == MAX_CONCURRENT // 2 + 1
    await engine.close()


async def test_an_endpoint_that_is_removed_gives_its_place_back_at_once(post: Post) -> None:
    ended = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await until(lambda: request.transport is None)
        ended.set()
        return web.Response()

    post.receiver.answers["/one"] = hang
    endpoint = await post.add("one")
    engine = await post.delivering(RetrySchedule(timeout=1000.0))
    await post.tell()
    await post.receiver.until(1)
    webhook = await post.repository.get(endpoint)
    assert webhook is not None
    await post.webhooks.remove(webhook)
    async with asyncio.timeout(TIMEOUT):
        await ended.wait()
    await engine.close()


async def test_a_member_that_has_sent_its_bytes_of_an_hour_waits(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "MAX_BYTES_AN_HOUR", 10)
    await post.add("one")
    bob = await post.add("bob", "bob")
    engine = await post.delivering()
    await post.tell()
    await post.receiver.until(1, "/one")
    await post.tell()
    await post.tell("bob")
    await post.until(bob, "delivered")
    assert len(post.receiver.at("/one")) == 1
    await engine.close()
