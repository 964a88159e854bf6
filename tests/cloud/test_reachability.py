"""Whether the cloud answers at all."""

from __future__ import annotations

import pytest
from cluster.forwarder import forwarding
from servers import free_port
from yarl import URL

from proxy.cloud.connections import is_reachable
from proxy.simulator import Simulator
from tests.cloud.conftest import Serve, answer, hang_up


@pytest.mark.parametrize("status", [200, 401, 429, 502, 503])
async def test_any_answer_shows_that_it_is_reachable(serve: Serve, status: int) -> None:
    cloud = await serve(answer({}, status))
    assert await is_reachable(cloud.url, 30.0)


async def test_the_question_carries_no_key(serve: Serve) -> None:
    cloud = await serve(answer({}))
    await is_reachable(cloud.url, 30.0)
    (seen,) = cloud.seen
    assert (seen.method, seen.target) == ("GET", "/api/system_stats")
    assert not {"x-api-key", "authorization", "cookie"} & {name.lower() for name in seen.headers}


async def test_a_lost_connection_is_no_answer(serve: Serve) -> None:
    cloud = await serve(hang_up)
    assert not await is_reachable(cloud.url, 30.0)


async def test_a_refused_connection_is_no_answer() -> None:
    url = URL(f"http://127.0.0.1:{free_port()}")
    assert not await is_reachable(url, 30.0)


async def test_silence_is_no_answer(simulator: Simulator) -> None:
    async with forwarding(simulator.base_url.port or 0) as way:
        url = URL(f"http://127.0.0.1:{way.port}")
        assert await is_reachable(url, 30.0)
        way.hole()
        assert not await is_reachable(url, 0.2)
