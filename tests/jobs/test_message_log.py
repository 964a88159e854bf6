"""What waits for the turns of many sockets."""

from __future__ import annotations

from functools import partial

from proxy.jobs.message_log import LoggedMessage, MessageLog
from proxy.sharing.budget import MemoryBudget
from proxy.translate.events import Event, Message, NodeText, Preview, status


def log(budget: MemoryBudget | None = None) -> MessageLog:
    return MessageLog(partial((budget or MemoryBudget(2**24)).member, "eve", "socket"))


def messages(found: MessageLog, number: int = 0) -> list[Message]:
    return [logged.message for logged in found.after(number)]


def preview(job: str, *, result: bool = False) -> Preview:
    return Preview(job, "1", "1", None, "1", b"", "image/png", result=result)


def test_only_the_newest_stays_of_what_says_the_same() -> None:
    kept = [
        *(Event("progress", {"prompt_id": "p", "value": 2}), preview("p"), status(2)),
        *(Event("progress", {"prompt_id": "q"}), preview("q")),
        *(preview("p", result=True), preview("p", result=True), NodeText("1", "a")),
    ]
    found = log()
    for message in (Event("progress", {"prompt_id": "p"}), preview("p"), status(1), *kept):
        assert found.append(LoggedMessage(message))
    assert messages(found) == kept


def test_what_is_behind_a_number_and_what_all_have() -> None:
    found = log()
    for text in "abc":
        found.append(LoggedMessage(NodeText("1", text)))
    found.trim(1)
    assert messages(found) == [NodeText("1", "b"), NodeText("1", "c")]
    assert messages(found, 2) == [NodeText("1", "c")]


def test_bytes_are_those_of_the_member() -> None:
    budget = MemoryBudget(2**22)
    found, large = log(budget), LoggedMessage(NodeText("1", "x" * 2**20))
    assert found.append(large)
    assert budget.held()["socket"] > 2**20
    assert not found.append(large)
    assert len(found) == 1
    found.close()
    assert budget.held()["socket"] == 0
