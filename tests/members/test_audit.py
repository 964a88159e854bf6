"""The audit record: whole lines, no secrets, and files of the days that are kept."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import stat
import threading
from collections import deque
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.logging import register_secret
from proxy.members import audit
from proxy.members.audit import Audit

#: 2026-11-24 23:59:50 UTC.
LATE = 1_795_564_790.0
ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60.0
TOKEN = "ccp_" + "a2b3c4d5" + "abcdefgh234567abcdefgh234567abcd"


class Clock:
    at = LATE

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_entries_say_who_did_what_when_and_from_where(tmp_path: Path, clock: Clock) -> None:
    record = Audit(tmp_path, now=clock)
    await record.start()
    record.note("submit", member="alice", address="10.0.0.7", job="one")
    clock.at += 20
    record.note("cancel", member="bob", address="::1", jobs=["one", "two"])
    await record.close()
    assert files(tmp_path) == ["2026-11-24.jsonl", "2026-11-25.jsonl"]
    assert json.loads((tmp_path / "2026-11-24.jsonl").read_text()) == {
        "at": "2026-11-24T23:59:50.000Z",
        "action": "submit",
        "member": "alice",
        "address": "10.0.0.7",
        "job": "one",
    }
    assert stat.S_IMODE((tmp_path / "2026-11-25.jsonl").stat().st_mode) == 0o600


async def test_the_newest_come_first_and_in_pages(tmp_path: Path, clock: Clock) -> None:
    record = Audit(tmp_path, now=clock)
    for number in range(50):
        record.note("submit", member="alice" if number % 2 else "bob", number=number)
        clock.at += 1
    page = await record.page(limit=10, offset=5)
    assert [entry["number"] for entry in page] == list(range(44, 34, -1))
    page = await record.page(limit=2, member="bob")
    assert [entry["number"] for entry in page] == [48, 46]
    assert await record.page(limit=1, action="sign_in") == []


async def test_long_files_are_read_from_their_end_in_blocks(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BLOCK", 61)
    record = Audit(tmp_path, now=clock)
    for number in range(30):
        record.note("submit", member="m" * (number * 7), number=number)
    page = await record.page(limit=100)
    assert [entry["number"] for entry in page] == list(range(29, -1, -1))


@given(st.text(), st.text())
def test_what_a_client_sends_makes_no_line_of_its_own(action: str, value: str) -> None:
    _, line = audit.line(LATE, action, value, value, {"about": value})
    assert line.count("\n") == 1
    assert line.isascii()
    assert line.isprintable() or line[:-1].isprintable()
    assert json.loads(line)["at"] == "2026-11-24T23:59:50.000Z"


def test_neither_tokens_nor_registered_secrets_are_kept() -> None:
    register_secret("a secret of the account")
    about: dict[str, audit.Value] = {
        "path": f"/t/{TOKEN}/prompt",
        "names": [TOKEN, "a secret of the account"],
        "agent": "x" * (audit.LONGEST - 10) + TOKEN,
    }
    _, line = audit.line(LATE, "sign_in", TOKEN, "10.0.0.7", about)
    assert TOKEN[12:] not in line
    assert "secret of the account" not in line
    assert TOKEN[12:20] not in line
    assert len(line) < 5 * audit.LONGEST
    _, line = audit.line(LATE, "delete", "bob", "", {"jobs": ["x" * 10_000] * 10_000})
    assert len(line) < 10_000


def test_files_older_than_the_setting_are_removed(tmp_path: Path) -> None:
    for day in ("2026-10-24", "2026-10-25", "2026-11-23"):
        (tmp_path / f"{day}.jsonl").write_text("{}\n")
    audit.clean(tmp_path, date(2026, 10, 25))
    assert files(tmp_path) == ["2026-10-25.jsonl", "2026-11-23.jsonl"]


async def test_no_record_is_kept_where_the_setting_says_none(tmp_path: Path, clock: Clock) -> None:
    record = Audit(tmp_path / "audit", days=0, now=clock)
    record.note("submit")
    await record.flush()
    assert not (tmp_path / "audit").exists()


async def test_a_disk_that_refuses_delays_the_record(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "audit"
    folder.write_text("a file in the place of the folder")
    record = Audit(folder, now=clock)
    record.note("submit", number=1)
    with pytest.raises(OSError, match="audit"):
        await record.flush()
    folder.unlink()
    record.note("submit", number=2)
    assert [entry["number"] for entry in await record.page(limit=5)] == [2, 1]


async def test_lines_are_written_once_when_the_disk_refuses_halfway(
    tmp_path: Path, clock: Clock
) -> None:
    record = Audit(tmp_path, now=clock)
    record.note("submit", number=1)
    clock.at += 20
    record.note("submit", number=2)
    blocked = tmp_path / "2026-11-25.jsonl"
    blocked.mkdir()
    with pytest.raises(OSError, match="2026-11-25"):
        await record.flush()
    blocked.rmdir()
    record.note("submit", number=3)
    assert [entry["number"] for entry in await record.page(limit=5)] == [3, 2, 1]


async def test_lines_are_written_once_when_the_process_stops_meanwhile(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, written = threading.Event(), threading.Event()
    append = audit.append

    def slowly(folder: Path, lines: deque[tuple[str, str]]) -> None:
        append(folder, lines)
        writing.set()
        written.wait(PATIENCE)

    monkeypatch.setattr(audit, "append", slowly)
    record = Audit(tmp_path, now=clock)
    await record.start()
    record.note("submit")
    await asyncio.to_thread(writing.wait, PATIENCE)
    closing = asyncio.create_task(record.close())
    await asyncio.sleep(0)
    written.set()
    await closing
    assert len(audit.read(tmp_path, limit=5)) == 1


async def test_what_does_not_fit_is_counted(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST_WAITING", 2)
    record = Audit(tmp_path, now=clock)
    for _ in range(5):
        record.note("submit")
    newest = (await record.page(limit=1))[0]
    assert (newest["action"], newest["lines"]) == ("lines_dropped", 3)
    assert len(await record.page(limit=10)) == 3


async def test_a_line_that_was_cut_spoils_no_other(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "2026-11-24.jsonl").write_text('{"action": "submit", "mem')
    audit.append(tmp_path, deque([audit.line(LATE, "cancel", "bob", "", {})]))
    assert [entry["action"] for entry in audit.read(tmp_path, limit=9)] == ["cancel"]


def recorded() -> set[str]:
    """The actions that the code records: the texts among the first arguments of a `note`."""
    found = set()
    for path in (ROOT / "proxy").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("note"):
                texts = [one for argument in call.args for one in ast.walk(argument)]
                found |= {one.value for one in texts if isinstance(one, ast.Constant)}
    return {text for text in found if isinstance(text, str) and text.isidentifier()}


def test_every_action_is_documented_and_every_documented_one_is_recorded() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    table = page.partition("| Action |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()[2:]]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == recorded() | {"lines_dropped"}
