"""What the proxy learns of each account's cloud.

*Facts* of a cloud are measured (by the command `probe`, or by the way) and decide where the proxy
otherwise has to guess. *Anomalies* are answers and events of a form that nobody has listed: they
are counted, and one example of each is kept without its secrets.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypedDict

import structlog
from msgspec import Struct, field
from msgspec.structs import replace
from yarl import URL

from proxy.logging import without_secrets
from proxy.metrics import Metrics
from proxy.runtime.clock import now
from proxy.storage.database import Database, StorageError
from proxy.storage.usage import FACT, Observation, ObservationRepository
from proxy.storage.write_behind import WriteBehind
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


def _not_kept(_: Observation) -> None:
    pass


class AccountObservations(Struct, eq=False):
    """What is known of one account's cloud. `facts` are observations of the probe by point.

    What is new is given to `keep`, each time that it is seen.
    """

    account: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    facts: dict[str, str] = field(default_factory=dict)
    keep: Callable[[Observation], object] = _not_kept
    _anomalies: dict[tuple[str, str], Observation] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """Return a fact that is a whole number, else `None`."""
        value = self.facts.get(name, "")
        return int(value) if re.fullmatch("[0-9]{1,15}", value) else None

    def learn(self, name: str, value: str) -> None:
        """Store a measured fact."""
        if self.facts.get(name) != value:
            self.facts[name] = value
            text, at = codec.dump_bytes(value), now()
            self.keep(Observation("", FACT, name, text, count=1, first_at=at, last_at=at))
            log.info("cloud_fact_learned", account=self.account, name=name, value=value)

    def add_anomaly(self, kind: str, name: str, example: object = None) -> None:
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
        self._anomalies[key] = known = replace(known, last_at=at)
        self.keep(replace(known, count=1))
        self.metrics.count_anomaly(self.account, key[0])

    def restore(self, row: Observation) -> None:
        """Take over what is stored."""
        if row.kind != FACT:
            self._anomalies.setdefault((row.kind, row.name), row)
        else:
            self.facts[row.name] = str(codec.loads(row.value))


def _together(row: Observation, newer: Observation) -> Observation:
    """Return one row for two: a fact is the newer one, the example of an anomaly the first."""
    if row.kind == FACT:
        return newer
    return replace(row, count=row.count + newer.count, last_at=newer.last_at)


class Observations:
    """The observations of all accounts, kept in the database, which other processes may share."""

    def __init__(
        self, repository: ObservationRepository, accounts: dict[str, AccountObservations]
    ) -> None:
        self._repository = repository
        self.accounts = accounts  # by identity
        #: What is new, by identity, kind and name.
        self.unwritten = WriteBehind[tuple[str, str, str], Observation](
            "observations",
            lambda rows, batch: repository.add(list(rows.values()), batch),
            gather=_GATHER,
            again=_READ,
            merge=_together,
        )
        for identity, account in accounts.items():
            account.keep = partial(self._keep, identity)

    def _keep(self, identity: str, row: Observation) -> None:
        self.unwritten.add((identity, row.kind, row.name), replace(row, identity=identity))

    async def load(self) -> None:
        """Read what is known. Raises `StorageError`."""
        rows = await self._repository.load(self.accounts)
        for row in rows:
            if (row.identity, row.kind, row.name) not in self.unwritten:
                self.accounts[row.identity].restore(row)

    async def run(self) -> None:
        """Read what other processes have seen, until cancelled."""
        while True:
            await asyncio.sleep(_READ)
            try:
                await self.load()
            except StorageError as error:
                log.warning("observations_load_failed", error=str(error))

    async def report(self) -> list[AccountAnomalies]:
        """Return what is known of each account, from the database. Raises `StorageError`."""
        await self.unwritten.flush()
        rows = await self._repository.load(self.accounts)
        return [
            _shown(account.account, (row for row in rows if row.identity == identity))
            for identity, account in self.accounts.items()
        ]


async def keep_facts(database: Database, identity: str, facts: Mapping[str, str]) -> None:
    """Write what a probe has measured of an account. Raises `StorageError`."""
    rows: list[Observation] = []
    account = AccountObservations(keep=rows.append)
    for name, value in facts.items():
        account.learn(name, value)
    await ObservationRepository(database).add([replace(row, identity=identity) for row in rows])


class Anomaly(TypedDict):
    """Something undocumented that the cloud has sent. Times are ms since 1970."""

    kind: str
    name: str
    count: int
    first: int
    last: int
    example: Any


class AccountAnomalies(TypedDict):
    """What is known of an account's cloud beyond its documents."""

    account: str
    facts: dict[str, Any]
    anomalies: list[Anomaly]


def _shown(account: str, rows: Iterable[Observation]) -> AccountAnomalies:
    """Return what the rows say of an account."""
    facts: dict[str, Any] = {}
    anomalies: list[Anomaly] = []
    for row in rows:
        value = codec.loads(row.value)
        if row.kind == FACT:
            facts[row.name] = value
        else:
            anomalies.append(
                {
                    "kind": row.kind,
                    "name": row.name,
                    "count": row.count,
                    "first": row.first_at,
                    "last": row.last_at,
                    "example": value,
                }
            )
    return {"account": account, "facts": facts, "anomalies": anomalies}
