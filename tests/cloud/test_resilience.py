"""Errors, repetitions, the breaker, the rate limiter, and what all calls know."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.cloud.errors import (
    CloudAmbiguous,
    CloudDown,
    CloudGarbage,
    CloudRefused,
    CloudUnauthorized,
    CloudUnreachable,
    may_pass,
    refusal,
)
from proxy.cloud.resilience import (
    ApiKey,
    Attempts,
    CallGate,
    CircuitBreaker,
    RateLimiter,
    RetryPolicy,
    retry_after,
)
from proxy.cloud.upstream import Prompt
from proxy.runtime.backoff import Backoff
from tests.cloud.conftest import Connect, Serve, answer


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (CloudUnreachable("x"), True),
        (CloudGarbage("x"), True),
        (CloudDown("x"), False),
        (CloudAmbiguous("x"), False),
        (refusal("x", 429, "", None), True),
        (refusal("x", 503, "", None), True),
        (refusal("x", 500, "", None), True),
        (refusal("x", 401, "", None), False),
        (refusal("x", 404, "", None), False),
        (refusal("x", 501, "", None), False),
    ],
)
def test_which_failures_of_a_read_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_a_wait_that_would_end_beyond_the_budget_is_not_begun() -> None:
    attempts = Attempts(RetryPolicy(budget=5.0))
    with pytest.raises(CloudUnreachable):
        attempts.failed(CloudUnreachable("x", retry_after=3600.0))
    assert attempts.number == 1


def opened(at: float = 10.0) -> CircuitBreaker:
    breaker = CircuitBreaker(failures=3, silence=5.0, backoff=Backoff(2.0, 6.0))
    breaker.failed(at - 5.0)
    breaker.failed(at - 1.0)
    assert breaker.failed(at)
    return breaker


def test_opens_after_failures_in_a_row_over_some_time() -> None:
    breaker = opened(10.0)
    assert breaker.failing
    assert breaker.wait(10.0) == 2.0


def test_a_burst_of_failures_is_not_silence() -> None:
    breaker = CircuitBreaker(failures=3, silence=5.0)
    assert not any(breaker.failed(1.0 + n / 100) for n in range(50))
    assert breaker.wait(2.0) == 0.0


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = CircuitBreaker(failures=2, silence=5.0)
    breaker.failed(1.0)
    breaker.succeeded()
    assert not breaker.failed(9.0)
    assert breaker.wait(9.0) == 0.0


def test_lets_one_try_and_holds_the_others_back() -> None:
    breaker = opened(10.0)
    assert breaker.wait(12.0) == 0.0
    assert breaker.wait(12.0) == 2.0


def test_a_try_that_fails_doubles_the_wait_up_to_the_longest() -> None:
    breaker = opened(10.0)
    waits = []
    now = 12.0
    for _ in range(3):
        assert breaker.wait(now) == 0.0
        assert not breaker.failed(now)
        waits.append(breaker.wait(now))
        now += waits[-1]
    assert waits == [4.0, 6.0, 6.0]


def test_calls_that_were_under_way_when_it_opened_do_not_lengthen_the_wait() -> None:
    breaker = opened(10.0)
    breaker.failed(10.5)
    breaker.failed(10.6)
    assert breaker.wait(12.6) == 0.0


def test_closes_by_a_try_that_is_answered() -> None:
    breaker = opened(10.0)
    assert breaker.wait(12.0) == 0.0
    breaker.succeeded()
    assert not breaker.failing
    assert [breaker.wait(12.0), breaker.wait(12.0)] == [0.0, 0.0]


def test_a_try_that_never_reports_back_blocks_no_longer_than_a_failure() -> None:
    breaker = opened(10.0)
    breaker.wait(12.0)
    assert breaker.wait(14.0) == 0.0


def test_a_trial_is_let_through_once_a_second() -> None:
    breaker = opened(10.0)
    assert [breaker.wait(10.5, trial=True), breaker.wait(11.0, trial=True)] == [0.5, 0.0]
    assert [breaker.wait(11.5, trial=True), breaker.wait(12.0, trial=True)] == [0.5, 0.0]


def test_a_trial_that_fails_lengthens_no_wait() -> None:
    breaker = opened(10.0)
    breaker.wait(11.0, trial=True)
    breaker.failed(11.0)
    assert breaker.wait(11.5) == 0.5


def test_an_attempt_of_another_call_puts_the_next_trial_off() -> None:
    breaker = opened(10.0)
    breaker.wait(12.0)
    assert breaker.wait(12.25, trial=True) == 0.75


def test_a_429_without_a_word_holds_back_longer_each_time() -> None:
    limiter = RateLimiter(Backoff(1.0, 3.0))
    now = 10.0
    for pause in (1.0, 2.0, 3.0, 3.0):
        limiter.slowed(now, None)
        assert limiter.pause(now) == pause
        now += pause
        assert limiter.pause(now) == 0.0


def test_an_answer_makes_the_next_pause_short_again() -> None:
    limiter = RateLimiter(Backoff(1.0, 30.0))
    limiter.slowed(0.0, None)
    limiter.slowed(1.0, None)
    limiter.succeeded()
    limiter.slowed(5.0, None)
    assert limiter.pause(5.0) == 1.0


def test_an_answer_to_an_earlier_call_does_not_end_the_pause() -> None:
    limiter = RateLimiter(Backoff(1.0, 30.0))
    limiter.slowed(0.0, None)
    limiter.succeeded()
    assert limiter.pause(0.5) == 0.5


def test_a_burst_of_429_is_one() -> None:
    limiter = RateLimiter(Backoff(1.0, 30.0))
    for moment in range(5):
        limiter.slowed(moment / 100, None)
    assert limiter.pause(0.0) == 1.0


def test_retry_after_is_obeyed() -> None:
    limiter = RateLimiter()
    limiter.slowed(0.0, 7.0)
    limiter.slowed(0.0, 5.0)
    assert limiter.pause(0.0) == 7.0


ONCE = RetryPolicy(budget=0.0)
THROTTLED = {"code": "RATE_LIMITED", "message": "too many requests"}


async def test_after_a_429_no_call_is_made_for_a_while(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(THROTTLED, 429), answer({}))
    client = await connect(cloud.url, retries=ONCE, limiter=RateLimiter(Backoff(30.0, 30.0)))
    for call in (client.user, client.system_stats, lambda: client.submit(Prompt({}, {}))):
        with pytest.raises(CloudRefused) as caught:
            await call()
        assert (caught.value.status, caught.value.body) == (429, THROTTLED)
    assert 10.0 < (caught.value.retry_after or 0.0) <= 30.0
    assert len(cloud.seen) == 1


async def test_reads_wait_out_the_429_of_another(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(THROTTLED, 429), answer({}))
    retries = RetryPolicy(budget=5.0, backoff=Backoff(first=0.001, longest=0.002))
    client = await connect(cloud.url, retries=retries, limiter=RateLimiter(Backoff(0.1, 30.0)))
    async with asyncio.TaskGroup() as group:
        group.create_task(client.user())
        await asyncio.sleep(0.05)
        for _ in range(20):
            group.create_task(client.user())
    assert len(cloud.seen) == 22


async def test_a_call_is_not_made_before_those_that_wait_for_their_turns() -> None:
    limiter = RateLimiter()
    gate, key = CallGate(CircuitBreaker(), limiter), ApiKey("key")
    gate.failed(refusal("GET /x", 429, THROTTLED, 0.0), key)
    turns = [limiter.turn(time.monotonic(), 10.0) for _ in range(20)]
    assert turns[-1] > 2.0
    for _ in range(20):
        gate.answered("/x", key)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await gate.enter("GET /x", key)


async def test_a_429_about_the_queue_holds_nothing_back(serve: Serve, connect: Connect) -> None:
    full = {"error": {"type": "QUEUE_LIMIT", "message": "too many jobs"}}
    cloud = await serve(answer(full, 429), answer({}))
    client = await connect(cloud.url, retries=ONCE, limiter=RateLimiter(Backoff(30.0, 30.0)))
    with pytest.raises(CloudRefused):
        await client.submit(Prompt({}, {}))
    await client.user()


async def test_a_refused_key_is_not_offered_again_at_once(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({"code": "UNAUTHORIZED", "message": "bad key"}, 401))
    client = await connect(cloud.url)
    for _ in range(5):
        with pytest.raises(CloudUnauthorized, match="bad key"):
            await client.user()
    assert len(cloud.seen) == 2


@pytest.mark.parametrize("other", [200, 403, 404])
async def test_a_single_401_may_be_a_mistake(serve: Serve, connect: Connect, other: int) -> None:
    once, again = answer({}, 401), answer({}, other)
    client = await connect((await serve(once, again, once, again, once, answer({}))).url)
    for status in (401, other, 401, other, 401, 200):
        if status == 200:
            await client.user()
        else:
            with pytest.raises(CloudRefused) as caught:
                await client.user()
            assert caught.value.status == status


async def test_another_key_is_offered_at_once(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({}, 401), answer({}, 401), answer({}))
    client = await connect(cloud.url)
    for _ in range(3):
        with pytest.raises(CloudUnauthorized):
            await client.user()
    client.use_key("comfyui-other")
    await client.user()


async def test_a_late_401_of_the_old_key_says_nothing_of_the_new_one(
    serve: Serve, connect: Connect
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def refuse_late(request):
        asked.set()
        await go_on.wait()
        return await answer({}, 401)(request)

    client = await connect((await serve(refuse_late, refuse_late, answer({}))).url)
    old = [asyncio.create_task(client.user()) for _ in range(2)]
    await asked.wait()
    client.use_key("comfyui-other")
    go_on.set()
    for call in old:
        with pytest.raises(CloudUnauthorized):
            await call
    await client.user()


async def test_a_late_answer_to_the_old_key_says_nothing_of_the_new_one() -> None:
    gate, old, new = CallGate(CircuitBreaker(), RateLimiter()), ApiKey("old"), ApiKey("new")
    refused = refusal("GET /x", 401, "", None)
    gate.failed(refused, new)
    gate.answered("/x", old)
    gate.answered("/x", new)
    gate.failed(refused, new)
    await gate.enter("GET /x", new)
    gate.failed(refused, new)
    gate.answered("/x", old)
    with pytest.raises(CloudUnauthorized):
        await gate.enter("GET /x", new)
    await gate.enter("GET /x", old)


async def test_a_silent_cloud_is_left_alone_and_comes_back_by_itself(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({}, 503), answer({}, 503), answer({}))
    breaker = CircuitBreaker(failures=2, silence=0.0, backoff=Backoff(1.0, 30.0))
    client = await connect(cloud.url, retries=ONCE, breaker=breaker)
    for _ in range(2):
        with pytest.raises(CloudRefused):
            await client.user()
    with pytest.raises(CloudDown) as caught:
        await client.user()
    assert len(cloud.seen) == 2
    assert caught.value.status == 503
    await asyncio.sleep(caught.value.retry_after or 0.0)
    await client.user()


async def test_a_recovery_is_an_answer_after_a_call_that_had_none(
    serve: Serve, connect: Connect
) -> None:
    client = await connect((await serve(answer({}), answer({}, 503), answer({}))).url, retries=ONCE)
    await client.user()
    recovery = client.http.gate.recovery
    with pytest.raises(CloudRefused):
        await client.user()
    assert not recovery.is_set()
    await client.user()
    assert recovery.is_set()
    assert not client.http.gate.recovery.is_set()


async def test_details_of_many_jobs_are_read_a_few_at_a_time(
    serve: Serve, connect: Connect
) -> None:
    under_way = limit = 0

    async def count(request):
        nonlocal under_way, limit
        under_way += 1
        limit = max(limit, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return await answer({"status": "pending"})(request)

    client = await connect((await serve(count)).url)
    snapshots = await asyncio.gather(*(client.job(f"job-{n}") for n in range(40)))
    assert len(snapshots) == 40
    assert 1 < limit <= 8


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("soon", None),
        ("inf", None),
        ("-3", None),
        ("nan", None),
        ("\u0663", None),
        ("86400", 60.0),
        ("9" * 5000, 60.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=1000.0) == seconds


def test_calls_behind_a_429_come_one_after_the_other_until_they_are_answered() -> None:
    limiter = RateLimiter(Backoff(1.0, 30.0))
    assert [limiter.turn(0.0, 10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    limiter.slowed(0.0, None)
    assert [limiter.turn(1.0, 10.0) for _ in range(4)] == [0.0, 0.125, 0.25, 0.375]
    limiter.slowed(2.0, None)
    assert limiter.pause(2.0) == 2.0
    assert [limiter.turn(4.0, 10.0) for _ in range(3)] == [0.0, 0.25, 0.5]
    for _ in range(50):
        limiter.succeeded()
    assert [limiter.turn(9.0, 10.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_turn_that_is_too_far_off_is_not_taken() -> None:
    limiter = RateLimiter(Backoff(8.0, 30.0))
    limiter.slowed(0.0, None)
    assert [limiter.turn(8.0, 1.5) for _ in range(4)] == [0.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (
            {"error": {"type": "PAYMENT_REQUIRED", "message": "No credits"}},
            "PAYMENT_REQUIRED No credits",
        ),
        ({"code": "NOT_FOUND", "message": "no such job"}, "NOT_FOUND no such job"),
        ({"error": "plain words"}, "plain words"),
        ("two\nlines", "two lines"),
        ("<html>a gateway's page</html>", ""),
        ([1], ""),
    ],
)
def test_a_refusal_has_the_clouds_message_in_one_line(body: object, output: str) -> None:
    error = refusal("GET /x", 402, body, None)
    assert str(error) == (f"GET /x: 402: {output}" if output else "GET /x: 402")
    assert (error.status, error.body) == (402, body)


def test_401_has_its_own_class() -> None:
    assert type(refusal("GET /x", 401, "", None)) is CloudUnauthorized
    assert type(refusal("GET /x", 403, "", None)) is CloudRefused
