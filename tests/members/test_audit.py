"""The audit record: whole entries, no secrets, and the days that are kept."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection
from stopped_clock import StoppedClock, stopped

from proxy.logging import register_secret
from proxy.members import audit
from proxy.members.audit import Audit
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import Database, StorageError
from proxy.storage.sqlite import FILE, open_sqlite
from proxy.storage.start import migrate
from proxy.storage.usage import UsageRepository

#: 2026-11-24 23:59:50 UTC.
LATE = 1_795_564_790.0
DAY = 86_400
T = TypeVar("T")
ROOT = Path(__file__).parent.parent.parent
TOKEN = "ccp_" + "a2b3c4d5" + "abcdefgh234567abcdefgh234567abcd"


class Disk(UsageRepository):
    """Refuses while `full`, fails to forget while `broken`; tells when it has written, and goes on
    only when `released`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._write = database.write
        database.write = self.write  # type: ignore[method-assign]
        self.full = self.broken = self.cleaning = False
        self.written, self.released = asyncio.Event(), asyncio.Event()
        self.cleaned = asyncio.Event()
        self.released.set()

    async def write(
        self, work: Callable[[Connection], T], *, long: bool = False, urgent: bool = False
    ) -> T:
        if self.full:
            raise StorageError("the disk is full")
        value = await self._write(work, long=long)
        if not self.cleaning:
            self.written.set()
            await self.released.wait()
        return value

    async def forget(self, before: int) -> None:
        self.cleaning = True
        try:
            if self.broken:
                raise RuntimeError("a fault of ours")
            await super().forget(before)
        finally:
            self.cleaning = False
            self.cleaned.set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    return stopped(monkeypatch, LATE)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    database = await open_sqlite(tmp_path / FILE)
    await migrate(database)
    yield Disk(database)
    await database.close()


@pytest.fixture
def record(disk: Disk, clock: StoppedClock) -> Audit:
    return Audit(disk)


async def test_entries_say_who_did_what_when_and_from_where(
    record: Audit, disk: Disk, clock: StoppedClock
) -> None:
    await record.start(Supervisor())
    record.record("submit", member="alice", address="10.0.0.7", job="one")
    clock.at += 20
    record.record("cancel", member="bob", address="::1", jobs=["one", "two"])
    await record.close()
    cancelled, submitted = await Audit(disk).page(limit=9)
    assert submitted == {
        "at": "2026-11-24T23:59:50.000Z",
        "action": "submit",
        "member": "alice",
        "address": "10.0.0.7",
        "job": "one",
    }
    assert cancelled["jobs"] == ["one", "two"]


async def test_the_newest_come_first_and_in_pages(record: Audit, clock: StoppedClock) -> None:
    for number in range(50):
        record.record("submit", member="alice" if number % 2 else "bob", number=number)
        clock.at += 1
    page = await record.page(limit=10, offset=5)
    assert [entry["number"] for entry in page] == list(range(44, 34, -1))
    page = await record.page(limit=2, member="bob")
    assert [entry["number"] for entry in page] == [48, 46]
    assert await record.page(limit=1, action="sign_in") == []


async def test_to_read_the_record_writes_nothing(record: Audit, disk: Disk) -> None:
    assert await record.page(limit=1) == []
    assert not disk.written.is_set()


@given(st.text(), st.text())
def test_what_a_client_sends_makes_no_line_of_its_own(action: str, value: str) -> None:
    line = audit.entry(LATE, action, value, value, {"about": value}).entry.decode("ascii")
    assert line.isprintable()
    assert json.loads(line)["at"] == "2026-11-24T23:59:50.000Z"


def test_neither_tokens_nor_registered_secrets_are_kept() -> None:
    register_secret("a secret of the account")
    about: dict[str, audit.Value] = {
        "path": f"/t/{TOKEN}/prompt",
        "names": [TOKEN, "a secret of the account"],
        "agent": "x" * (audit.MAX_LENGTH - 10) + TOKEN,
    }
    row = audit.entry(LATE, "sign_in", TOKEN, "10.0.0.7", about)
    for text in (row.entry.decode(), row.member):
        assert TOKEN[12:] not in text
        assert "secret of the account" not in text
        assert TOKEN[12:20] not in text
    assert len(row.entry) < 5 * audit.MAX_LENGTH
    row = audit.entry(LATE, "delete", "bob", "", {"jobs": ["x" * 10_000] * 10_000})
    assert len(row.entry) < 10_000


async def test_entries_older_than_the_setting_are_removed(disk: Disk, clock: StoppedClock) -> None:
    record = Audit(disk, days=30)
    for age in (32, 29, 0):
        clock.at = LATE - age * DAY
        record.record("submit", age=age)
    await record.flush()
    await record.start(Supervisor())
    record.record("cancel")
    await disk.cleaned.wait()
    await record.close()
    assert [entry.get("age") for entry in await record.page(limit=9)] == [None, 0, 29]


async def test_no_record_is_kept_where_the_setting_says_none(
    disk: Disk, clock: StoppedClock
) -> None:
    record = Audit(disk, days=0)
    record.record("submit")
    assert await record.page(limit=9) == []


async def test_a_disk_that_refuses_delays_the_record(record: Audit, disk: Disk) -> None:
    disk.full = True
    record.record("submit", number=1)
    with pytest.raises(StorageError, match="full"):
        await record.flush()
    disk.full = False
    record.record("submit", number=2)
    assert [entry["number"] for entry in await record.page(limit=5)] == [2, 1]


@pytest.mark.parametrize("leave", ["the process", "the client that asks for the record"])
async def test_entries_are_written_once_when_somebody_leaves_meanwhile(
    record: Audit, disk: Disk, leave: str
) -> None:
    disk.released.clear()
    if leave == "the process":
        await record.start(Supervisor())
        record.record("submit")
        await disk.written.wait()
        leaving = asyncio.create_task(record.close())
    else:
        record.record("submit")
        asking = asyncio.create_task(record.page(limit=5))
        await disk.written.wait()
        asking.cancel()
        leaving = asyncio.create_task(asyncio.wait([asking]))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    disk.released.set()
    await leaving
    assert len(await record.page(limit=5)) == 1


async def test_what_does_not_fit_is_counted(
    disk: Disk, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_WAITING", 2)
    record = Audit(disk)
    for _ in range(5):
        record.record("submit")
    newest = (await record.page(limit=1))[0]
    assert (newest["action"], newest["lines"]) == ("lines_dropped", 3)
    assert len(await record.page(limit=10)) == 3


async def test_the_writer_goes_on_after_any_fault(
    record: Audit, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_RETRY_DELAY", 0.0)
    disk.broken = True
    await record.start(Supervisor())
    record.record("submit", number=1)
    await disk.cleaned.wait()
    disk.broken = False
    disk.written.clear()
    record.record("submit", number=2)
    await disk.written.wait()
    await record.close()
    assert [entry["number"] for entry in await record.page(limit=9)] == [2, 1]


def recorded() -> set[str]:
    """The actions that the code records: the texts among the first arguments of a `record`."""
    found = set()
    for path in (ROOT / "proxy").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
            if isinstance(call, ast.Call) and re.search(r"(^|\.)record(_action)?$", name):
                texts = [node for argument in call.args for node in ast.walk(argument)]
                found |= {node.value for node in texts if isinstance(node, ast.Constant)}
    return {text for text in found if isinstance(text, str) and text.isidentifier()}


def test_every_action_is_documented_and_every_documented_one_is_recorded() -> None:
    page = (ROOT / "docs" / "gateway.md").read_text()
    table = page.partition("| Action |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()[2:]]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == recorded() | {"lines_dropped"}


def test_the_dashboard_offers_every_action() -> None:
    script = (ROOT / "proxy" / "admin" / "page" / "audit.js").read_text()
    listed = script.partition("const ACTIONS = [")[2].partition("]")[0]
    assert set(re.findall(r'"(\w+)"', listed)) == recorded() | {"lines_dropped"}


async def test_a_member_that_does_too_much_at_once_keeps_nothing_from_the_record(
    record: Audit, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_BURST", 10.0)
    limited = Audit(record._repository)
    for number in range(100):
        limited.record("interrupt", member="eve", number=number)
    limited.record("member_added", member="eve", name="mallory")
    limited.record("interrupt", member="bob")
    assert len(await limited.page(limit=200)) == 13  # Eve's ten, what was left out, two others
    (left_out,) = await limited.page(limit=9, action="lines_dropped")
    assert (left_out["member"], left_out["lines"]) == ("eve", 90)
    clock.at += 1
    limited.record("interrupt", member="eve", number=100)
    assert (await limited.page(limit=1))[0]["number"] == 100


async def test_what_was_left_out_is_recorded_at_the_end(
    record: Audit, disk: Disk, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_BURST", 1.0)
    limited = Audit(disk)
    await limited.start(Supervisor())
    for _ in range(5):
        limited.record("cancel", member="eve")
    await limited.close()
    messages, _ = await record.page(limit=9)
    assert (messages["action"], messages["lines"]) == ("lines_dropped", 4)
