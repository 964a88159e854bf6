"""Endpoints: what owners of webhooks do with them.

A member has its own endpoints, for messages about its jobs. Those of the gateway get the messages
of all members, and those about accounts. A secret is shown when it is made, and never again.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from proxy.members.rates import Buckets
from proxy.runtime import clock, randomness
from proxy.storage.encryption import Cipher
from proxy.storage.webhooks import (
    GATEWAY,
    StoredDelivery,
    StoredWebhook,
    TooManyWebhooksError,
    WebhookRepository,
)
from proxy.translate import codec
from proxy.translate.errors import LocalError
from proxy.webhooks.addresses import MAX_URL, WebhookAddresses, WebhookUrlError
from proxy.webhooks.messages import MEMBER_TYPES, TYPES, MessageType, make_test_message

#: Endpoints of an owner, and deliveries of a log.
MAX_WEBHOOKS, MAX_LOG = 10, 100
#: Tests that a member may have sent at once, and the seconds until it may have another one sent.
MAX_TESTS, TEST_INTERVAL = 10, 6.0

#: What an endpoint gets if its owner chooses nothing.
DEFAULT_TYPES: tuple[MessageType, ...] = ("job.completed", "job.failed", "job.cancelled")

Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL)]
Types = Annotated[tuple[MessageType, ...], Meta(min_length=1, max_length=20)]


class NewWebhook(Struct, forbid_unknown_fields=True):
    """An endpoint to add: its URL, the types of messages that it gets, and whether it is one of the
    gateway, for admins."""

    url: Url
    types: Types = DEFAULT_TYPES
    gateway: bool = False


class WebhookFields(Struct, forbid_unknown_fields=True):
    """Fields of an endpoint to set."""

    url: Url | UnsetType = UNSET
    types: Types | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class Webhooks:
    """The endpoints of everybody. `changed` is called after each change."""

    def __init__(
        self,
        repository: WebhookRepository,
        cipher: Cipher,
        addresses: WebhookAddresses,
        *,
        changed: Callable[[], object] = bool,
    ) -> None:
        self.addresses = addresses
        self._repository = repository
        self._cipher = cipher
        self._changed = changed
        self._tests = Buckets(1 / TEST_INTERVAL, MAX_TESTS)

    async def endpoints(
        self, owner: str | None
    ) -> list[tuple[StoredWebhook, StoredDelivery | None]]:
        """Return the endpoints of an owner, or of all, with the last attempt of each. Raises
        `StorageError`."""
        found = await self._repository.endpoints(owner)
        last = await self._repository.last(owner) if found else {}
        return [(webhook, last.get(webhook.id)) for webhook in found]

    async def find(self, id_: str, owner: str | None) -> StoredWebhook:
        """Return an endpoint of an owner, or of anybody. Raises `LocalError` (404), also for one of
        somebody else."""
        webhook = await self._repository.get(id_)
        if webhook is None or owner not in (None, webhook.member):
            raise LocalError("unknown", "There is no such webhook.", kind="not_found")
        return webhook

    async def add(self, owner: str, wanted: NewWebhook) -> tuple[str, StoredWebhook]:
        """Add an endpoint, and return its secret and what is stored of it.

        Raises `LocalError` for a URL that cannot be one (400), and if the owner has `MAX_WEBHOOKS`
        (409).
        """
        self._check(owner, wanted.url, wanted.types)
        secret = new_secret()
        webhook = StoredWebhook(
            new_id(),
            owner,
            wanted.url,
            codec.dump_bytes(_sorted(wanted.types)),
            self._cipher.encrypt(secret.encode()),
            clock.now(),
        )
        try:
            await self._repository.add(webhook, limit=MAX_WEBHOOKS)
        except TooManyWebhooksError:
            raise LocalError(
                "too_many_webhooks",
                f"There are {MAX_WEBHOOKS} webhooks, which is the maximum: remove one that is not "
                "used.",
                kind="conflict",
            ) from None
        self._changed()
        return secret, webhook

    async def change(
        self, webhook: StoredWebhook, wanted: WebhookFields
    ) -> tuple[StoredWebhook, StoredDelivery | None]:
        """Change an endpoint, and return it with its last attempt. One that is enabled begins anew.
        Raises `LocalError`."""
        url = webhook.url if wanted.url is UNSET else wanted.url
        types: Sequence[str] = types_of(webhook) if wanted.types is UNSET else wanted.types
        self._check(webhook.member, url, types)
        values: dict[str, Any] = {"url": url, "types": codec.dump_bytes(_sorted(types))}
        if wanted.disabled is False:
            values |= {"disabled": None, "disabled_at": None, "failing_since": None}
        elif wanted.disabled is True and webhook.disabled is None:
            values |= {"disabled": "Its owner has disabled it.", "disabled_at": clock.now()}
        await self._repository.change(webhook.id, **values)
        self._changed()
        changed = await self.find(webhook.id, None)
        last = await self._repository.last(changed.member)
        return changed, last.get(changed.id)

    async def replace_secret(self, webhook: StoredWebhook) -> str:
        """Give an endpoint another secret and return it; the old one signs nothing more."""
        secret = new_secret()
        await self._repository.change(webhook.id, secret=self._cipher.encrypt(secret.encode()))
        return secret

    async def remove(self, webhook: StoredWebhook) -> None:
        """Remove an endpoint with its log."""
        await self._repository.remove(webhook.id)
        self._changed()

    async def test(self, webhook: StoredWebhook, member: str) -> str:
        """Have a message delivered to an endpoint, and return the id of the message. It is
        attempted once.

        Raises `LocalError` (429) if the member that asks has had too many sent.
        """
        wait = math.ceil(self._tests.spend(member, clock.monotonic()))
        if wait:
            raise LocalError(
                "too_many_webhook_tests",
                f"You have tested webhooks {MAX_TESTS} times in a short time; wait {wait} s, then "
                "test again.",
                kind="rate_limited",
                retry_after=wait,
            )
        message = make_test_message(webhook.member, webhook.id)
        await self._repository.send(webhook.id, message)
        self._changed()
        return message.id

    async def log(self, webhook: StoredWebhook) -> Sequence[StoredDelivery]:
        """Return the newest deliveries to an endpoint, the newest first."""
        return await self._repository.log(webhook.id, MAX_LOG)

    async def disabled(self, owners: Sequence[str]) -> int:
        """Return how many endpoints of owners get nothing more. Raises `StorageError`."""
        return await self._repository.disabled(owners)

    def _check(self, owner: str, url: str, types: Sequence[str]) -> None:
        """Raise `LocalError` (400) for what an endpoint cannot be."""
        try:
            self.addresses.check_url(url)
        except WebhookUrlError as error:
            raise LocalError("invalid_webhook_url", str(error)) from None
        foreign = [name for name in types if owner != GATEWAY and name not in MEMBER_TYPES]
        if foreign:
            raise LocalError(
                "invalid_webhook_types",
                f"Only webhooks of the gateway get {', '.join(foreign)}: choose from "
                f"{', '.join(MEMBER_TYPES)}.",
            )


def types_of(webhook: StoredWebhook) -> list[str]:
    """Return the types of messages that an endpoint gets."""
    return msgspec.json.decode(webhook.types, type=list[str])


def _sorted(types: Sequence[str]) -> list[str]:
    """Return types once each, in the order of the table."""
    return [name for name in TYPES if name in types]


PREFIX = "whsec_"
_BYTES = 32


def new_secret() -> str:
    """Return a new secret: `whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(randomness.token_bytes(_BYTES)).decode()


def new_id() -> str:
    """Return the id of a new endpoint."""
    return f"wh_{randomness.token_hex(8)}"
