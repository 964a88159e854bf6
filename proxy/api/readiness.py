"""Whether jobs can be taken: the store can be written, and an account can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy.cloud.key_checks import KeyChecks
from proxy.runtime import clock
from proxy.runtime.waits import stop, until_set
from proxy.storage.database import BusyError, Database, OutcomeUnknownError, StorageError
from proxy.storage.sqlite import SqliteDatabase
from proxy.storage.statements import put_meta

if TYPE_CHECKING:
    from proxy.files.output_directory import OutputDirectory
    from proxy.jobs.models import AccountView

#: What is written to see whether it can be.
_PROBE = "readiness"

_NOT_YET = "Comfy Cloud has not answered yet; try again later."
_STOPPING = "The proxy is stopping: wait for its restart, or send requests to another process."

#: Seconds for which an answer is good while the cloud does not answer.
_TRIAL_AGE = 0.5
#: Seconds that the event socket of a cloud that answers again is waited for, and between two looks.
_SOCKET_WAIT, _SOCKET_INTERVAL = 1.0, 0.05

#: A client that asked within this many seconds is told before the process stops.
_WATCHES = 10.0
#: Seconds to wait for that at most, and for requests to go elsewhere then.
_NOTICE_TIMEOUT, _GONE_AFTER = 1.5, 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """Whether jobs can be taken: `reason` says why not. `checks` goes to members who ask, as JSON;
    `checked` says whether there was a first look, and `problem` what is wrong although jobs run:
    outputs cannot be written to the output directory."""

    reason: str | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)
    checked: bool = True
    problem: str | None = None


@dataclass(slots=True, eq=False)
class Readiness:
    """Answers from what this process knows, at most `max_age` seconds old while the cloud answers.

    However many requests ask, the `keys` of each of the `accounts` are checked once in `max_age`.
    An account that does not answer is asked again as soon as somebody asks, at most once a second.
    """

    database: Database
    accounts: Callable[[], Sequence[AccountView]]
    keys: KeyChecks
    outputs: OutputDirectory | None = None
    _: KW_ONLY
    max_age: float = 3.0
    _written: str | None = field(
        init=False, default="The database was not checked yet; try again later."
    )
    #: Why the key of each account cannot be used, as was found last.
    _key_problems: dict[str, str | None] = field(init=False, default_factory=dict)
    _looked_at: float | None = field(init=False, default=None)
    _asked_at: float | None = field(init=False, default=None)
    _looking: asyncio.Task[None] | None = field(init=False, default=None)
    _stopping: bool = field(init=False, default=False)
    _reported: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    async def report(self, *, patient: bool = False) -> Report:
        """Return why no job can be accepted (`reason`), and the result of each check.

        With `patient`, wait until every account has answered or timed out. With one account the
        checks are `store`, `key` and `socket`; with several `store` and `accounts`, which has `key`
        and `socket` of each; in a standby `store`; with an output directory also `outputs`. A check
        is `ok` or a sentence.
        """
        self._asked_at = clock.monotonic()
        max_age = min(self.max_age, _TRIAL_AGE) if self.keys.silent else self.max_age
        if self._looked_at is None or self._asked_at - self._looked_at > max_age:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look(), name="look whether it is ready")
            if patient:
                await asyncio.wait([self._looking])
        problems = {account.name: self._problems(account) for account in self.accounts()}
        unusable = [next(filter(None, found.values()), None) for found in problems.values()]
        store = self._store()
        reason = store or (unusable[0] if unusable and all(unusable) else None)
        checks: dict[str, object] = {"store": store or "ok"}
        if len(problems) == 1:
            ((_, found),) = problems.items()
            checks |= _check_results(found)
        elif problems:
            checks["accounts"] = {name: _check_results(found) for name, found in problems.items()}
        problem = None if self.outputs is None else self.outputs.problem
        if self.outputs is not None:
            checks["outputs"] = problem or "ok"
        if self._stopping:
            reason = _STOPPING
            self._reported.set()
        checked = self._looked_at is not None
        return Report(reason, checks, checked=checked, problem=problem)

    async def leave(self) -> None:
        """Report from now on that no jobs are accepted, and wait until monitoring has seen it."""
        self._stopping = True
        if self._asked_at is None or clock.monotonic() - self._asked_at > _WATCHES:
            return
        if await until_set(self._reported, _NOTICE_TIMEOUT):
            await asyncio.sleep(_GONE_AFTER)

    async def close(self) -> None:
        """Stop looking."""
        await stop(self._looking)

    async def _look(self) -> None:
        async def look_at(account: AccountView) -> None:
            name, was_silent = account.name, account.name in self.keys.silent
            problem = await self.keys.check(name)
            if was_silent and problem is None:
                await self._await_events(name)
            self._key_problems[name] = problem

        self._written = await self._store_problem()
        await asyncio.gather(*map(look_at, self.accounts()))
        self._looked_at = clock.monotonic()

    async def _await_events(self, name: str) -> None:
        """Wait a moment for the event socket of an account, which opens again with the cloud."""
        ends = clock.monotonic() + _SOCKET_WAIT
        while clock.monotonic() < ends:
            accounts = {account.name: account for account in self.accounts()}
            if name not in accounts or _socket_problem(accounts[name]) is None:
                return
            await asyncio.sleep(_SOCKET_INTERVAL)

    def _store(self) -> str | None:
        problem = self.database.problem
        return self._written if problem is None else _unusable(problem)

    def _problems(self, account: AccountView) -> dict[str, str | None]:
        key = self._key_problems.get(account.name, _NOT_YET)
        if key is None and account.reason == "no_credits":
            key = "The account has no credits: buy credits, or wait for its plan to renew."
        return {"key": key, "socket": _socket_problem(account)}

    async def _store_problem(self) -> str | None:
        """Return why nothing can be written. Another value is written each time: the same one
        writes no page."""
        try:
            await self.database.write(partial(put_meta, name=_PROBE, value=clock.time()))
        except (BusyError, OutcomeUnknownError):
            return None  # `problem` tells if the server is away
        except StorageError as error:
            if isinstance(self.database, SqliteDatabase):
                return (
                    f"The data folder is not writable ({error}): free disk space or repair the "
                    "disk."
                )
            return _unusable(str(error))
        return None


def _unusable(problem: str) -> str:
    return f"The database is unavailable ({problem}): start it, or correct COMFY_PROXY_DATABASE."


def _check_results(problems: Mapping[str, str | None]) -> dict[str, str]:
    return {name: problem or "ok" for name, problem in problems.items()}


def _socket_problem(account: AccountView) -> str | None:
    if account.events:
        return None
    if account.refused is not None:
        return f"Comfy Cloud refuses the event socket (status {account.refused})."
    return "The event socket to Comfy Cloud is not open, so jobs have no progress."
