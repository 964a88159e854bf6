"""Growing, jittered, bounded."""

from __future__ import annotations

import pytest

from proxy.cloud.errors import (
    CloudAmbiguous,
    CloudDown,
    CloudGarbage,
    CloudUnreachable,
    refusal,
)
from proxy.cloud.waits import Patience, Waits, may_pass


def test_waits_double_up_to_the_longest_and_are_jittered_by_half() -> None:
    waits = Waits(first=1.0, longest=4.0)
    for failures, most in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (10_000, 4.0)]:
        drawn = [waits.after(failures) for _ in range(50)]
        assert all(most / 2 <= wait <= most for wait in drawn)
        assert len(set(drawn)) > 1


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


async def test_a_wait_that_would_end_beyond_the_budget_is_not_begun() -> None:
    tries = 0

    async def read() -> None:
        nonlocal tries
        async for attempt in Patience(budget=5.0).attempts():
            with attempt:
                tries += 1
                raise CloudUnreachable("x", retry_after=3600.0)

    with pytest.raises(CloudUnreachable):
        await read()
    assert tries == 1
