"""Whether the keys of accounts can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.cloud.errors import (
    UNAVAILABLE_STATUSES,
    CloudDown,
    CloudError,
    CloudRefused,
    CloudUnauthorized,
)

if TYPE_CHECKING:
    from proxy.cloud.upstream import Upstream

#: Seconds that a call may take while the cloud does not answer.
_TRIAL_TIMEOUT = 2.0


@dataclass(slots=True, eq=False)
class KeyChecks:
    """Asks accounts whether they accept their keys.

    The `clouds` are clients of the accounts, by name, and the `sources` say where people set the
    keys. A call may take `timeout` seconds. Accounts that did not answer are `silent`.
    """

    clouds: Mapping[str, Upstream]
    sources: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 5.0
    silent: set[str] = field(init=False, default_factory=set)

    async def check(self, account: str) -> str | None:
        """Ask an account, and return why its key cannot be used."""
        cloud, timeout = self.clouds[account], self.timeout
        if account in self.silent:
            timeout = min(timeout, _TRIAL_TIMEOUT)
        self.silent.discard(account)
        try:
            async with asyncio.timeout(timeout):
                await cloud.check_key()
        except CloudUnauthorized:
            return (
                "Comfy Cloud does not accept the API key of this proxy. Its admin must create one "
                f"at https://platform.comfy.org, and {self._remedy(account)}."
            )
        except CloudRefused as error:
            if error.status == 403:
                return (
                    "The API key of this proxy is valid, but its account needs a plan with API "
                    "access (403): its admin must subscribe to Standard, Creator or Pro."
                )
            if error.status in UNAVAILABLE_STATUSES:
                self.silent.add(account)
                return _unavailable(error.status)
            return f"Comfy Cloud did not check the API key (status {error.status})."
        except (CloudError, TimeoutError) as error:
            self.silent.add(account)
            if isinstance(error, CloudDown) and error.status is not None:
                return _unavailable(error.status)
            return "Comfy Cloud cannot be reached: check the network of this machine."
        return None

    def _remedy(self, account: str) -> str:
        source = self.sources.get(account, "COMFY_CLOUD_API_KEY")
        if source.startswith("`"):
            return f"set {source} to it and send SIGHUP"
        if source == "COMFY_CLOUD_API_KEY":
            return f"set {source} to it and restart"
        return f"put it into {source}"


def _unavailable(status: int) -> str:
    return f"Comfy Cloud is unavailable (status {status}): try again later."
