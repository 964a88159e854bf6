"""What one call meets, all calls know."""

from __future__ import annotations

import asyncio

import pytest

from proxy.cloud.brake import Brake
from proxy.cloud.circuit import Circuit
from proxy.cloud.errors import CloudDown, CloudRefused, CloudUnauthorized
from proxy.cloud.waits import Patience, Waits
from tests.cloud.conftest import Connect, Serve, answer

ONCE = Patience(budget=0.0)
THROTTLED = {"code": "RATE_LIMITED", "message": "too many requests"}


async def test_after_a_429_no_call_is_made_for_a_while(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(THROTTLED, 429), answer({}))
    client = await connect(cloud.url, patience=ONCE, brake=Brake(first_wait=30.0))
    for call in (client.user, client.system_stats, lambda: client.submit({}, extra_data={})):
        with pytest.raises(CloudRefused) as caught:
            await call()
        assert (caught.value.status, caught.value.body) == (429, THROTTLED)
    assert 10.0 < (caught.value.retry_after or 0.0) <= 30.0
    assert len(cloud.seen) == 1


async def test_reads_wait_out_the_429_of_another(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(THROTTLED, 429), answer({}))
    patience = Patience(budget=5.0, waits=Waits(first=0.001, longest=0.002))
    client = await connect(cloud.url, patience=patience, brake=Brake(first_wait=0.1))
    async with asyncio.TaskGroup() as group:
        group.create_task(client.user())
        await asyncio.sleep(0.05)
        for _ in range(20):
            group.create_task(client.user())
    assert len(cloud.seen) == 22


async def test_a_429_about_the_queue_holds_nothing_back(serve: Serve, connect: Connect) -> None:
    full = {"error": {"type": "QUEUE_LIMIT", "message": "too many jobs"}}
    cloud = await serve(answer(full, 429), answer({}))
    client = await connect(cloud.url, patience=ONCE, brake=Brake(first_wait=30.0))
    with pytest.raises(CloudRefused):
        await client.submit({}, extra_data={})
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


async def test_a_silent_cloud_is_left_alone_and_comes_back_by_itself(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(answer({}, 503), answer({}, 503), answer({}))
    circuit = Circuit(failures=2, silence=0.0, first_wait=1.0)
    client = await connect(cloud.url, patience=ONCE, circuit=circuit)
    for _ in range(2):
        with pytest.raises(CloudRefused):
            await client.user()
    with pytest.raises(CloudDown) as caught:
        await client.user()
    assert len(cloud.seen) == 2
    assert caught.value.status == 503
    await asyncio.sleep(caught.value.retry_after or 0.0)
    await client.user()


async def test_details_of_many_jobs_are_read_a_few_at_a_time(
    serve: Serve, connect: Connect
) -> None:
    under_way = most = 0

    async def count(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return await answer({"status": "pending"})(request)

    client = await connect((await serve(count)).url)
    snapshots = await asyncio.gather(*(client.job(f"job-{n}") for n in range(40)))
    assert len(snapshots) == 40
    assert 1 < most <= 8
