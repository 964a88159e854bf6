"""The JSON of webhooks: `/proxy/api/webhooks`."""

from __future__ import annotations

from typing import TypedDict

from proxy.storage.webhooks import StoredDelivery, StoredWebhook
from proxy.webhooks.endpoints import types_of


class DeliveryShown(TypedDict):
    """A message to a webhook: its last attempt, and when the `next` one is. `outcome` is
    `waiting`, `delivered`, `failed` or `dropped`."""

    message: str
    type: str
    created: int
    outcome: str
    attempts: int
    attempted: int | None
    status: int | None
    note: str
    next: int | None


class WebhookShown(TypedDict):
    """A webhook, without its secret. One without a `member` is of the gateway. `disabled` says why
    it gets nothing more, `last` is its last attempt."""

    id: str
    member: str | None
    url: str
    types: list[str]
    created: int
    disabled: str | None
    disabled_at: int | None
    failing_since: int | None
    last: DeliveryShown | None


class WebhookList(TypedDict):
    """Webhooks."""

    webhooks: list[WebhookShown]


class MadeWebhook(WebhookShown):
    """A new webhook with its `secret`, this once."""

    secret: str


class WebhookSecret(TypedDict):
    """The new secret of a webhook, this once."""

    id: str
    secret: str


class WebhookTested(TypedDict):
    """The id of the message that tests a webhook."""

    message: str


class Deliveries(TypedDict):
    """The newest deliveries to a webhook."""

    deliveries: list[DeliveryShown]


def webhook_shown(webhook: StoredWebhook, last: StoredDelivery | None) -> WebhookShown:
    """Return an endpoint with its last attempt, and without its secret."""
    return {
        "id": webhook.id,
        "member": webhook.member or None,
        "url": webhook.url,
        "types": types_of(webhook),
        "created": webhook.created,
        "disabled": webhook.disabled,
        "disabled_at": webhook.disabled_at,
        "failing_since": webhook.failing_since,
        "last": None if last is None else delivery_shown(last),
    }


def delivery_shown(delivery: StoredDelivery) -> DeliveryShown:
    """Return a delivery. `next` is when it is attempted again."""
    return {
        "message": delivery.message,
        "type": delivery.type,
        "created": delivery.created,
        "outcome": delivery.outcome,
        "attempts": delivery.attempts,
        "attempted": delivery.attempted,
        "status": delivery.status,
        "note": delivery.note,
        "next": delivery.due,
    }
