"""Refusals in the shapes that the cloud uses."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from typing import Any

from proxy.simulator.switches import AccountRefusal, PromptRefusal, Switches


class Refusal(Exception):  # noqa: N818 - it is an answer
    """An answer with a status of 400 or more: a JSON body, or text where `body` is a string."""

    def __init__(
        self, status: int, body: dict[str, Any] | str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def flat(status: int, code: str, message: str) -> Refusal:
    """Return a refusal with `{"code", "message"}`, the shape of nearly all routes."""
    return Refusal(status, {"code": code, "message": message})


def bad_request(message: str) -> Refusal:
    """Return a 400, also for what the validation in front of a route finds."""
    return flat(400, "BAD_REQUEST", message)


def not_found(message: str = "not found") -> Refusal:
    """Return a 404; a thing of another account is not found either, except for single jobs."""
    return flat(404, "NOT_FOUND", message)


def unauthorized() -> Refusal:
    """Return a 401: there is no credential, or a bad one."""
    return flat(401, "UNAUTHORIZED", "authentication required: no valid X-API-Key, Bearer or token")


def too_large(message: str) -> Refusal:
    """Return a 413."""
    return flat(413, "PAYLOAD_TOO_LARGE", message)


_PROMPT: dict[str, tuple[int, str, dict[str, Any]]] = {
    "PAYMENT_REQUIRED": (402, "Insufficient credits to run this workflow.", {}),
    "CLOUD_SUBSCRIPTION_REQUIRED": (402, "A subscription is required to run workflows.", {}),
    "FREE_TIER_EXHAUSTED": (402, "The free allowance of this month is used up.", {}),
    "PARTNER_NODE_PAYMENT_REQUIRED": (402, "Partner nodes need credits.", {}),
    "MODEL_PAYMENT_REQUIRED": (402, "This model needs a paid plan.", {}),
    "PARTNER_NODE_DISABLED": (
        403,
        "Partner nodes are switched off for this workspace.",
        {"class_types": ["FluxProUltraImageNode"], "providers": ["bfl"]},
    ),
    "QUEUE_LIMIT": (429, "Too many jobs are waiting.", {}),
    "FREE_TIER_UNAVAILABLE": (429, "The free tier has no room at the moment.", {}),
    "BILLING_UNAVAILABLE": (
        429,
        "Billing cannot be reached at the moment.",
        {"reason": "funds_unavailable"},
    ),
    "PLATFORM_REFUSED": (
        429,
        "The platform does not take this job now.",
        {"details": "deployment_not_ready"},
    ),
}
_WITH_RETRY_AFTER = ("BILLING_UNAVAILABLE", "PLATFORM_REFUSED")


def prompt_refusal(name: PromptRefusal, switches: Switches) -> Refusal:
    """Return the answer of `POST /api/prompt` for `error.type` = `name`.

    `INTERNAL` and `UNAVAILABLE` are 500 and 503 in the flat shape.
    """
    retry_after = switches.retry_after
    if name == "INTERNAL":
        return flat(500, "INTERNAL_SERVER_ERROR", "internal error")
    if name == "UNAVAILABLE":
        return flat(503, "SERVICE_UNAVAILABLE", "the service is not available")
    status, message, more = _PROMPT[name]
    if status == 402:
        status = switches.billing_status
    headers = {}
    if retry_after and name in _WITH_RETRY_AFTER:
        headers["Retry-After"] = str(retry_after)
    return Refusal(status, {"error": {"type": name, "message": message, **more}}, headers)


def rate_limited(switches: Switches) -> Refusal:
    """Return a 429 for too many requests, in one of the forms that it may have."""
    message, code = "too many requests", switches.rate_limit_code
    named = {"message": message}
    match switches.rate_limit_form:
        case "flat":
            body: dict[str, Any] | str = {"code": code, **named} if code else named
        case "nested":
            body = {"error": {"type": code, **named} if code else named}
        case "text":
            body = f"{code} {message}".strip()
        case "empty":
            body = ""
    headers = {"Retry-After": "1"} if switches.rate_limit_retry_after else {}
    return Refusal(429, body, headers)


def account_refusal(name: AccountRefusal) -> Refusal:
    """Return a 403 that hits every authenticated route."""
    if name == "auth_type_not_allowed":
        error = {"type": name, "message": "this kind of credential is not taken here"}
        return Refusal(403, {"error": error, "accepted": ["session"]})
    body: dict[str, Any] = {"code": name, "message": f"access refused: {name}"}
    if name == "sso_required":
        body["organization_id"] = "org_simulator"
    return Refusal(403, body)


def no_api_access() -> Refusal:
    """Return what an account on the free plan gets on the routes that cost."""
    return flat(403, "FORBIDDEN", "API access needs a Standard, Creator or Pro plan")


# --- exceptions of nodes, as ComfyUI tells them without the paths of the machine ------------------

_PATH = re.compile(r'File "[^"]*?(proxy/simulator/[^"]+|[^"/\\]+)"')


def type_name(error: BaseException) -> str:
    """Return the class of an exception, with its module where it is not built in."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def frames(error: BaseException) -> list[str]:
    """Return the traceback, a string for each frame."""
    return [_PATH.sub(r'File "\1"', frame) for frame in traceback.format_tb(error.__traceback__)]
