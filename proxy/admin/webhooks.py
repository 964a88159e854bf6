"""`/proxy/api/webhooks`: the webhooks of the caller, and for admins those of everybody."""

from __future__ import annotations

from aiohttp import web

from proxy.admin.members import is_admin, read_as, requested_member, require_admin
from proxy.admin.schema.webhooks import (
    Deliveries,
    MadeWebhook,
    WebhookList,
    WebhookSecret,
    WebhookShown,
    WebhookTested,
    delivery_shown,
    webhook_shown,
)
from proxy.api import bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.keys import WEBHOOKS
from proxy.api.middleware import record_action
from proxy.api.requests import member_of
from proxy.storage.webhooks import GATEWAY, StoredWebhook
from proxy.webhooks.endpoints import NewWebhook, WebhookFields


async def list_webhooks(request: web.Request) -> JsonAnswer[WebhookList]:
    """Return the webhooks with the last attempt of each, without secrets; members get their own.

    Admins get all, or those of a `member`.
    """
    found = await request.app[WEBHOOKS].endpoints(requested_member(request))
    return bodies.json({"webhooks": [webhook_shown(*endpoint) for endpoint in found]})


async def add_webhook(request: web.Request) -> JsonAnswer[MadeWebhook]:
    """Add a webhook of one's own with a `url` and the `types` of messages that it gets.

    With `gateway`, for admins, it gets the messages of all members and those about accounts. The
    answer has the `secret` that signs the messages, this once.
    """
    wanted = await read_as(request, NewWebhook)
    if wanted.gateway:
        require_admin(request)
    owner = GATEWAY if wanted.gateway else member_of(request)
    secret, webhook = await request.app[WEBHOOKS].add(owner, wanted)
    record_action(request, "webhook_added", name=owner, webhook=webhook.id)
    made: MadeWebhook = {**webhook_shown(webhook, None), "secret": secret}
    return bodies.secret_json(made, 201)


async def change_webhook(request: web.Request) -> JsonAnswer[WebhookShown]:
    """Change a webhook: its `url`, its `types`, and whether it is `disabled`."""
    webhook = await _mine(request)
    wanted = await read_as(request, WebhookFields)
    changed = await request.app[WEBHOOKS].change(webhook, wanted)
    record_action(request, "webhook_changed", name=webhook.member, webhook=webhook.id)
    return bodies.json(webhook_shown(*changed))


async def remove_webhook(request: web.Request) -> web.Response:
    """Remove a webhook and its log."""
    webhook = await _mine(request)
    await request.app[WEBHOOKS].remove(webhook)
    record_action(request, "webhook_removed", name=webhook.member, webhook=webhook.id)
    return bodies.empty(204)


async def replace_webhook_secret(request: web.Request) -> JsonAnswer[WebhookSecret]:
    """Give a webhook another `secret`, and return it once. The old one signs nothing more."""
    webhook = await _mine(request)
    secret = await request.app[WEBHOOKS].replace_secret(webhook)
    record_action(request, "webhook_secret_replaced", name=webhook.member, webhook=webhook.id)
    return bodies.secret_json({"id": webhook.id, "secret": secret})


async def send_test(request: web.Request) -> JsonAnswer[WebhookTested]:
    """Send a message of the type `webhook.test`, once; the log of deliveries has the outcome.

    A webhook that is disabled gets it, too. Each member may send ten at once, then one each 6 s.
    """
    webhook = await _mine(request)
    message = await request.app[WEBHOOKS].test(webhook, member_of(request))
    record_action(request, "webhook_tested", name=webhook.member, webhook=webhook.id)
    return bodies.json({"message": message}, 202)


async def list_deliveries(request: web.Request) -> JsonAnswer[Deliveries]:
    """Return the newest deliveries to a webhook, with the last attempt and the next one of each."""
    webhook = await _mine(request)
    found = await request.app[WEBHOOKS].log(webhook)
    return bodies.json({"deliveries": list(map(delivery_shown, found))})


async def _mine(request: web.Request) -> StoredWebhook:
    """Return the webhook of the path. Raises `LocalError` (404), also for one of somebody else."""
    owner = None if is_admin(request) else member_of(request)
    return await request.app[WEBHOOKS].find(request.match_info["id"], owner)
