"""What the proxy learns of each account's cloud, beyond its documents.

*Facts* are measured (by the command `probe`, or by the way) and decide where the proxy otherwise
has to guess. *Surprises* are answers and events of a form that nobody has listed: they are counted,
and one example of each is kept without its secrets.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog
from yarl import URL

from proxy.logging import scrub
from proxy.metrics import Metrics
from proxy.storage.database import Database, StorageError
from proxy.storage.usage import FACT, Observation, ObservationRepository
from proxy.translate import codec

log = structlog.get_logger(__name__)

#: Different surprises that a process keeps of one account; more are counted as `other`.
MOST = 200

#: Seconds in which what is new is gathered, and after which what other processes wrote is read.
_GATHER, _READ = 1.0, 60.0

#: Text that may be shown: a word of an interface, and no sentence, address, id or hash.
_WORD = re.compile(r"[A-Za-z][A-Za-z_.-]*(?:\d{1,4}[A-Za-z_.-]*){0,3}")
_LONGEST_WORD = 48
_DEEPEST, _ITEMS, _KEYS = 5, 2, 24

#: The key of the account that is set by itself.
_DEFAULT = "default"


def identity_of(account: str, base_url: URL) -> str:
    """An account's name at another cloud is another account; older stores had one for each."""
    return str(base_url) if account == _DEFAULT else f"{base_url} {account}"


class AccountObservations:
    """What is known of one account's cloud. `facts` are observations of the probe by point."""

    def __init__(self, account: str = "", metrics: Metrics | None = None) -> None:
        self.account = account
        self.facts: dict[str, str] = {}
        self.news = asyncio.Event()
        self._metrics = metrics or Metrics()
        self._surprises: dict[tuple[str, str], Observation] = {}
        self._learnt: set[str] = set()
        self._counts: Counter[tuple[str, str]] = Counter()

    def number(self, name: str) -> int | None:
        """A fact that is a whole number."""
        value = self.facts.get(name, "")
        return int(value) if re.fullmatch("[0-9]{1,15}", value) else None

    def learn(self, name: str, value: str) -> None:
        """A fact was measured."""
        if self.facts.get(name) != value:
            self.facts[name] = value
            self._learnt.add(name)
            self.news.set()
            log.info("cloud_fact_learned", account=self.account, name=name, value=value)

    def surprise(self, kind: str, name: str, example: object = None) -> None:
        """Something of a form came that nobody has listed.

        `name` says which: what the cloud has chosen in it went through `word`.
        """
        key, now = (kind, name), _now()
        if key not in self._surprises and len(self._surprises) >= MOST:
            key, example = ("other", ""), None
        known = self._surprises.get(key)
        if known is None:
            value = codec.dump_bytes(without_secrets(example))
            known = Observation("", *key, value, count=0, first_at=now, last_at=now)
            log.warning("cloud_surprised", account=self.account, kind=kind, name=name)
        self._surprises[key] = replace(known, last_at=now)
        self._counts[key] += 1
        self.news.set()
        self._metrics.surprised(self.account, key[0])

    def take(self) -> list[Observation]:
        """What is new since the last call; counts are those since then."""
        rows = [replace(self._surprises[key], count=count) for key, count in self._counts.items()]
        for name in self._learnt:
            value, now = codec.dump_bytes(self.facts[name]), _now()
            rows.append(Observation("", FACT, name, value, count=1, first_at=now, last_at=now))
        self._learnt.clear()
        self._counts.clear()
        return rows

    def give_back(self, rows: Iterable[Observation]) -> None:
        """Rows that were taken could not be written: they are new still."""
        for row in rows:
            if row.kind == FACT:
                self._learnt.add(row.name)
            else:
                self._counts[row.kind, row.name] += row.count

    def restore(self, rows: Iterable[Observation]) -> None:
        """Take over what is written."""
        for row in rows:
            if row.kind != FACT:
                self._surprises.setdefault((row.kind, row.name), row)
            elif row.name not in self._learnt:
                self.facts[row.name] = str(codec.loads(row.value))


class Observations:
    """The observations of all accounts, kept in the database, which other processes may share."""

    def __init__(
        self, repository: ObservationRepository, accounts: dict[str, AccountObservations]
    ) -> None:
        self._repository = repository
        self.accounts = accounts  # by identity
        self._news = asyncio.Event()
        for one in accounts.values():
            one.news = self._news

    async def close(self) -> None:
        """Write what is new."""
        try:
            await self.write()
        except StorageError as error:
            log.warning("observations_save_failed", error=str(error))

    async def load(self) -> None:
        """Read what is known. Raises `StorageError`."""
        rows = await self._repository.load(self.accounts)
        for identity, one in self.accounts.items():
            one.restore(row for row in rows if row.identity == identity)

    async def run(self) -> None:
        """Write what is new, and read what others have seen, until cancelled."""
        while True:
            self._news.clear()
            try:
                async with asyncio.timeout(_READ):
                    await self._news.wait()
                await asyncio.sleep(_GATHER)
                await self.write()
            except TimeoutError:
                try:
                    await self.load()
                except StorageError as error:
                    log.warning("observations_load_failed", error=str(error))
            except StorageError as error:
                log.warning("observations_save_failed", error=str(error))
                await asyncio.sleep(_READ)

    async def write(self) -> None:
        """Write what is new. Raises `StorageError`; then it is new still."""
        taken = {identity: one.take() for identity, one in self.accounts.items()}
        try:
            await self._repository.add(
                [replace(row, identity=identity) for identity in taken for row in taken[identity]]
            )
        except StorageError:
            for identity, rows in taken.items():
                self.accounts[identity].give_back(rows)
            raise

    async def report(self) -> list[dict[str, Any]]:
        """`{"account", "facts", "surprises": [...]}` for each, from the database; see `shown`."""
        await self.write()
        rows = await self._repository.load(self.accounts)
        return [
            {"account": one.account, **shown(row for row in rows if row.identity == identity)}
            for identity, one in self.accounts.items()
        ]


async def keep_facts(database: Database, identity: str, facts: Mapping[str, str]) -> None:
    """Write what a probe has measured of an account. Raises `StorageError`."""
    one = AccountObservations()
    for name, value in facts.items():
        one.learn(name, value)
    rows = [replace(row, identity=identity) for row in one.take()]
    await ObservationRepository(database).add(rows)


def shown(rows: Iterable[Observation]) -> dict[str, Any]:
    """`{"facts": {name: value}, "surprises": [{"kind", "name", "count", "first", "last",
    "example"}]}`; times are ms since 1970."""
    facts, surprises = {}, []
    for row in rows:
        value = codec.loads(row.value)
        if row.kind == FACT:
            facts[row.name] = value
        else:
            surprises.append(
                {
                    "kind": row.kind,
                    "name": row.name,
                    "count": row.count,
                    "first": row.first_at,
                    "last": row.last_at,
                    "example": value,
                }
            )
    return {"facts": facts, "surprises": surprises}


def without_secrets(value: object, depth: int = 0) -> Any:
    """The form of a value: its keys, numbers and words; other text by its length alone.

    So no key, signed URL, id or prompt is in it, and its size is bounded.
    """
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 2**63 else "<number>"
    if isinstance(value, str):
        return word(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes, {value[:8].hex()}>"
    if depth >= _DEEPEST:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        kept = list(value.items())[:_KEYS]
        return {word(str(key)): without_secrets(one, depth + 1) for key, one in kept}
    if isinstance(value, list):
        return [without_secrets(one, depth + 1) for one in value[:_ITEMS]]
    return f"<{type(value).__name__}>"


def word(text: str) -> str:
    """A word that the cloud has chosen, as it may be shown; other text by its length."""
    plain = len(text) <= _LONGEST_WORD and _WORD.fullmatch(text) and scrub(text) == text
    return text if plain else f"<text of {len(text)}>"


def _now() -> int:
    return time.time_ns() // 1_000_000
