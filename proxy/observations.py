"""What the proxy learns of each account's cloud.

*Facts* of a cloud are measured (by the command `probe`, or by the way) and decide where the proxy
otherwise has to guess. *Anomalies* are answers and events of a form that nobody has listed: they
are counted, and one example of each is kept without its secrets.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from msgspec import Struct, field
from msgspec.structs import replace
from yarl import URL

from proxy.clock import now
from proxy.logging import without_secrets
from proxy.metrics import Metrics
from proxy.storage.database import Database, StorageError
from proxy.storage.usage import FACT, Observation, ObservationRepository
from proxy.translate import codec

log = structlog.get_logger(__name__)

#: Maximum number of distinct anomalies of an account; further ones are counted as `other`.
MAX_ANOMALIES = 200

#: Seconds between a change and its write, and between two reads of what other processes wrote.
_GATHER, _READ = 1.0, 60.0

#: The key of the only account of a configuration without `[[accounts]]`.
_DEFAULT = "default"


def identity_of(account: str, base_url: URL) -> str:
    """Return the identity of an account at a cloud: the same name at another cloud is another
    account."""
    return str(base_url) if account == _DEFAULT else f"{base_url} {account}"


class AccountObservations(Struct, eq=False):
    """What is known of one account's cloud. `facts` are observations of the probe by point."""

    account: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    facts: dict[str, str] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _anomalies: dict[tuple[str, str], Observation] = field(default_factory=dict)
    _learnt: set[str] = field(default_factory=set)
    _counts: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def number(self, name: str) -> int | None:
        """Return a fact that is a whole number, else `None`."""
        value = self.facts.get(name, "")
        return int(value) if re.fullmatch("[0-9]{1,15}", value) else None

    def learn(self, name: str, value: str) -> None:
        """Store a measured fact."""
        if self.facts.get(name) != value:
            self.facts[name] = value
            self._learnt.add(name)
            self.news.set()
            log.info("cloud_fact_learned", account=self.account, name=name, value=value)

    def note_anomaly(self, kind: str, name: str, example: object = None) -> None:
        """Count something of the cloud that no document lists.

        `name` identifies it; parts that the cloud has chosen must have passed `word`.
        """
        key, at = (kind, name), now()
        if key not in self._anomalies and len(self._anomalies) >= MAX_ANOMALIES:
            key, example = ("other", ""), None
        known = self._anomalies.get(key)
        if known is None:
            value = codec.dump_bytes(without_secrets(example))
            known = Observation("", *key, value, count=0, first_at=at, last_at=at)
            log.warning("anomaly_observed", account=self.account, kind=kind, name=name)
        self._anomalies[key] = replace(known, last_at=at)
        self._counts[key] += 1
        self.news.set()
        self.metrics.count_anomaly(self.account, key[0])

    def take(self) -> list[Observation]:
        """Return what is new since the last call, with the counts since then."""
        rows = [replace(self._anomalies[key], count=count) for key, count in self._counts.items()]
        for name in self._learnt:
            value, at = codec.dump_bytes(self.facts[name]), now()
            rows.append(Observation("", FACT, name, value, count=1, first_at=at, last_at=at))
        self._learnt.clear()
        self._counts.clear()
        return rows

    def give_back(self, rows: Iterable[Observation]) -> None:
        """Take back rows that could not be written: they are still new."""
        for row in rows:
            if row.kind == FACT:
                self._learnt.add(row.name)
            else:
                self._counts[row.kind, row.name] += row.count

    def restore(self, rows: Iterable[Observation]) -> None:
        """Take over the stored rows."""
        for row in rows:
            if row.kind != FACT:
                self._anomalies.setdefault((row.kind, row.name), row)
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
        for account in accounts.values():
            account.news = self._news

    async def close(self) -> None:
        """Write what is new."""
        try:
            await self.write()
        except StorageError as error:
            log.warning("observations_save_failed", error=str(error))

    async def load(self) -> None:
        """Read what is known. Raises `StorageError`."""
        rows = await self._repository.load(self.accounts)
        for identity, account in self.accounts.items():
            account.restore(row for row in rows if row.identity == identity)

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
        taken = {identity: account.take() for identity, account in self.accounts.items()}
        try:
            await self._repository.add(
                [replace(row, identity=identity) for identity in taken for row in taken[identity]]
            )
        except StorageError:
            for identity, rows in taken.items():
                self.accounts[identity].give_back(rows)
            raise

    async def report(self) -> list[dict[str, Any]]:
        """Return `{"account", "facts", "anomalies": [...]}` of each account, from the database; see
        `shown`. Raises `StorageError`."""
        await self.write()
        rows = await self._repository.load(self.accounts)
        return [
            {"account": account.account, **shown(row for row in rows if row.identity == identity)}
            for identity, account in self.accounts.items()
        ]


async def keep_facts(database: Database, identity: str, facts: Mapping[str, str]) -> None:
    """Write what a probe has measured of an account. Raises `StorageError`."""
    account = AccountObservations()
    for name, value in facts.items():
        account.learn(name, value)
    rows = [replace(row, identity=identity) for row in account.take()]
    await ObservationRepository(database).add(rows)


def shown(rows: Iterable[Observation]) -> dict[str, Any]:
    """Return `{"facts": {name: value}, "anomalies": [{"kind", "name", "count", "first", "last",
    "example"}]}`; times are ms since 1970."""
    facts, anomalies = {}, []
    for row in rows:
        value = codec.loads(row.value)
        if row.kind == FACT:
            facts[row.name] = value
        else:
            seen = {"count": row.count, "first": row.first_at, "last": row.last_at}
            anomalies.append({"kind": row.kind, "name": row.name, **seen, "example": value})
    return {"facts": facts, "anomalies": anomalies}
