"""Whether jobs can be taken: the store can be written, the key works, the event socket is open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from proxy.cloud.errors import CloudError, CloudRefused, CloudUnauthorized
from proxy.store.base import Store, StoreError

#: The collection of the one document that is written to see whether it can be.
_COLLECTION = "readiness"


class Cloud(Protocol):
    """What the question needs of the cloud."""

    async def user(self) -> None:
        """Raises `CloudUnauthorized` if the key does not work."""


class Socket(Protocol):
    """What the question needs of the event socket."""

    refused: int | None

    @property
    def connected(self) -> bool:
        """Whether it is open."""


class Readiness:
    """Answers from what was found at most `max_age` seconds ago.

    However many ask, the cloud is asked once in that time, and not waited for longer than
    `patience` seconds.
    """

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        socket: Socket,
        *,
        max_age: float = 3.0,
        patience: float = 5.0,
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._socket = socket
        self._max_age = max_age
        self._patience = patience
        self._asking = asyncio.Lock()
        self._checks: dict[str, str | None] = {}
        self._checked_at: float | None = None

    async def checks(self) -> Mapping[str, str | None]:
        """What is wrong with `store`, `key` and `socket`, in a sentence each; `None` is nothing."""
        async with self._asking:
            now = time.monotonic()
            if self._checked_at is None or now - self._checked_at > self._max_age:
                self._checks = {
                    "store": await self._store_problem(),
                    "key": await self._key_problem(),
                    "socket": self._socket_problem(),
                }
                self._checked_at = time.monotonic()
            return self._checks

    async def _store_problem(self) -> str | None:
        try:
            await self._store.put(_COLLECTION, "probe", b"")
        except StoreError as error:
            return f"The data folder cannot be written ({error}): free or repair the disk."
        return None

    async def _key_problem(self) -> str | None:
        try:
            async with asyncio.timeout(self._patience):
                await self._cloud.user()
        except CloudUnauthorized:
            return (
                "Comfy Cloud does not take the API key: put one that works into the file of "
                "COMFY_CLOUD_API_KEY_FILE, or set COMFY_CLOUD_API_KEY and start anew."
            )
        except CloudRefused as error:
            if error.status == 403:
                return (
                    "Comfy Cloud knows the API key but refuses it (403): the account needs a plan "
                    "with API access (Standard, Creator or Pro)."
                )
            return f"Comfy Cloud does not say whether it takes the API key (status {error.status})."
        except (CloudError, TimeoutError):
            return "Comfy Cloud cannot be reached: check the network of this machine."
        return None

    def _socket_problem(self) -> str | None:
        if self._socket.connected:
            return None
        if self._socket.refused is not None:
            return f"Comfy Cloud refuses the event socket (status {self._socket.refused})."
        return "The event socket to Comfy Cloud is not open; until it is, jobs have no progress."
