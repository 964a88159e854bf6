"""The cloud's refusals in ComfyUI's form."""

from __future__ import annotations

import weakref

import msgspec
import pytest

from proxy.api import bodies
from proxy.translate.errors import LocalError, fill_node_errors, from_cloud, is_retryable, kept


def test_a_refusal_in_comfyuis_form_is_completed() -> None:
    body = {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed"},
        "node_errors": {"3": {"errors": [{"type": "value_not_in_list", "message": "no"}]}},
    }
    refusal = from_cloud(400, body)
    assert refusal.kind == "invalid"
    assert refusal.body() == {
        "error": {
            "type": "prompt_outputs_failed_validation",
            "message": "Prompt outputs failed",
            "details": "",
            "extra_info": {},
        },
        "node_errors": {
            "3": {
                "errors": [
                    {
                        "type": "value_not_in_list",
                        "message": "no",
                        "details": "",
                        "extra_info": {},
                    }
                ],
                "dependent_outputs": [],
                "class_type": "",
            }
        },
    }


def test_code_and_message_become_an_error() -> None:
    refusal = from_cloud(400, {"code": "BAD_REQUEST", "message": "no such thing"})
    assert refusal.body()["error"]["type"] == "BAD_REQUEST"
    assert refusal.body()["error"]["message"] == "no such thing"
    assert refusal.body()["node_errors"] == {}


@pytest.mark.parametrize(
    ("status", "type_", "local", "says"),
    [
        (402, "PAYMENT_REQUIRED", 400, "credits"),
        (402, "CLOUD_SUBSCRIPTION_REQUIRED", 400, "plan"),
        (403, "PARTNER_NODE_DISABLED", 400, "remove the node"),
        (429, "QUEUE_LIMIT", 503, "have ended"),
        (429, "FREE_TIER_EXHAUSTED", 400, "allowance"),
        (401, "UNAUTHORIZED", 503, "the API key of this proxy; its admin must set a valid one"),
        (413, "TOO_LARGE", 413, "smaller"),
        (500, "INTERNAL", 503, "again"),
    ],
)
def test_a_refusal_names_the_way_out(status: int, type_: str, local: int, says: str) -> None:
    refusal = from_cloud(status, {"error": {"type": type_, "message": "No."}})
    assert bodies.status_of(refusal) == local
    assert refusal.type == type_
    assert says in refusal.message


@pytest.mark.parametrize(("asked", "messages"), [(None, "10"), (3.0, "3")])
def test_a_busy_cloud_says_when_to_ask_again(asked: float | None, messages: str) -> None:
    refusal = from_cloud(429, {"error": {"type": "QUEUE_LIMIT"}}, asked)
    assert refusal.kind == "unavailable"
    assert bodies.headers_of(refusal) == {"Retry-After": messages}


def test_what_the_cloud_adds_is_passed_on() -> None:
    body = {"error": {"type": "PARTNER_NODE_DISABLED", "message": "No", "class_types": ["Veo"]}}
    assert from_cloud(403, body).extra_info == {"class_types": ["Veo"]}


def test_an_html_page_is_not_shown() -> None:
    assert "<" not in from_cloud(502, "<html>Bad gateway</html>").message


def test_retry_after_is_passed_on_in_whole_seconds() -> None:
    assert bodies.headers_of(from_cloud(429, {}, 0.2)) == {"Retry-After": "1"}


@pytest.mark.parametrize(
    ("status", "body", "retryable"),
    [
        (429, {"error": {"type": "QUEUE_LIMIT"}}, True),
        (429, {"error": {"type": "BILLING_UNAVAILABLE"}}, True),
        (429, {}, True),
        (429, {"error": {"type": "SUBSCRIPTION_INACTIVE"}}, True),
        (429, {"code": "rate_limit_exceeded", "message": "slow down"}, True),
        (429, "Too Many Requests", True),
        (429, {"error": {"type": "PAYMENT_REQUIRED"}}, False),
        (429, {"error": {"type": "InactiveSubscriptionError"}}, False),
        (402, {"error": {"type": "PAYMENT_REQUIRED"}}, False),
        (503, "", True),
        (500, "", False),
        (400, {}, False),
    ],
)
def test_only_what_may_pass_later_is_worth_waiting(
    status: int, body: object, retryable: bool
) -> None:
    assert is_retryable(status, body) is retryable


def test_node_errors_that_are_none_are_empty() -> None:
    assert fill_node_errors(None) == {}
    assert fill_node_errors([]) == {}
    assert fill_node_errors({"1": "odd"}) == {}


def test_errors_of_a_node_that_are_no_list_are_none() -> None:
    assert fill_node_errors({"1": {"errors": True}})["1"]["errors"] == []


def test_the_body_is_comfyuis() -> None:
    assert LocalError("no_prompt", "No prompt provided").body() == {
        "error": {
            "type": "no_prompt",
            "message": "No prompt provided",
            "details": "",
            "extra_info": {},
        },
        "node_errors": {},
    }


def test_an_error_is_made_again_from_its_fields() -> None:
    refusal = from_cloud(429, {"error": {"type": "QUEUE_LIMIT", "details": "5 jobs", "more": [1]}})
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(refusal.fields()))
    again = LocalError(**fields)
    assert (again.fields(), again.body()) == (refusal.fields(), refusal.body())
    assert (again.kind, again.retry_after, str(again)) == ("unavailable", 10.0, str(refusal))


class Seen:
    """What a frame sees."""


@pytest.mark.parametrize(
    "error",
    [
        LocalError("a", "b", kind="unavailable", details="c", retry_after=1.5),
        OSError(28, "full"),
        ExceptionGroup("several", [ValueError("one")]),
    ],
    ids=["refusal", "system", "group"],
)
def test_an_error_that_is_kept_holds_nothing_but_its_words(error: Exception) -> None:
    def fail() -> weakref.ref[Seen]:
        seen = Seen()
        try:
            try:
                raise KeyError("cause")
            except KeyError as cause:
                raise error from cause
        except Exception as raised:  # noqa: BLE001 (any kind)
            held.append(kept(raised))
        return weakref.ref(seen)

    held: list[Exception] = []
    seen = fail()
    error.__traceback__ = error.__cause__ = error.__context__ = None
    assert seen() is None
    (found,) = held
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
    assert (found.__traceback__, found.__cause__, found.__context__) == (None, None, None)
