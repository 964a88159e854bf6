"""Which release a deployment runs, and whether its list of nodes is older."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from proxy.cloud.observations import AccountObservations
from proxy.cloud.v2.catalog import NodeList
from proxy.runtime import clock

log = structlog.get_logger(__name__)

#: The facts: the release of the last job, and since when (ms) it is another than before.
_RELEASE, _SINCE = "release", "release_since"


def outdated(version: int, since: int) -> str:
    """Return what to do about a list of nodes that is older than a release, which runs since then
    (ms since 1970)."""
    day = datetime.fromtimestamp(since / 1000).astimezone().date().isoformat()
    return f"Runs release {version} since {day}: renew object_info"


@dataclass(eq=False, repr=False)
class Releases:
    """Notes the release that jobs report.

    The first one that is seen may be as old as the list; one that comes later is newer than a list
    that was saved before.
    """

    observations: AccountObservations
    nodes: NodeList

    def learn(self, job: Mapping[str, Any]) -> None:
        """Take what a job says of its release."""
        version = job.get("release_version")
        if not isinstance(version, int) or isinstance(version, bool):
            return
        known = self.observations.facts.get(_RELEASE)
        if known == str(version):
            return
        self.observations.learn(_RELEASE, str(version))
        if known is not None:
            self.observations.learn(_SINCE, str(clock.now()))
            log.warning("catalog_outdated", account=self.observations.account, release=version)

    async def notice(self) -> str:
        """Return what to do if the release came after the list of nodes was saved, else an empty
        text."""
        version, since = map(self.observations.number, (_RELEASE, _SINCE))
        saved = await self.nodes.saved_at()
        if version is None or since is None or saved is None or saved * 1000 >= since:
            return ""
        return outdated(version, since)
