"""A proxy whose webhooks are attempted again within seconds: Python imports this at its start.

Otherwise a run would wait for minutes at its end, and meanwhile have few attempts.
"""

from __future__ import annotations

from msgspec.structs import replace

import proxy.app
from proxy.app.process import policy_of
from proxy.engine.policy import Policy
from proxy.runtime.backoff import Backoff
from proxy.settings import Settings
from proxy.webhooks.delivery import RetrySchedule

_QUICK = RetrySchedule(timeout=3.0, backoff=Backoff(0.2, 2.0))


def _policy_of(settings: Settings) -> Policy:
    return replace(policy_of(settings), webhooks=_QUICK)


proxy.app.policy_of = _policy_of
