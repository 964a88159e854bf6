"""The JSON of webhooks: `/proxy/api/webhooks`."""

from __future__ import annotations

from typing import TypedDict


class DeliveryShown(TypedDict):
    """A message to a webhook: its last attempt, and when the `next` one is. `url` is that of a job;
    `outcome` is `waiting`, `delivered`, `failed` or `dropped`."""

    message: str
    type: str
    url: str | None
    created: int
    outcome: str
    attempts: int
    attempted: int | None
    status: int | None
    note: str
    next: int | None


class WebhookShown(TypedDict):
    """A webhook, without its secret. One without a `member` is of the gateway, one without a `url`
    is for those that jobs name. `disabled` says why it gets nothing more, `last` is its last
    attempt."""

    id: str
    member: str | None
    url: str | None
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
