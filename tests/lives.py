"""What every client must have heard of a job, whatever became of the events on the way."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stack import Client, Listener

ENDS = ("execution_success", "execution_error", "execution_interrupted")


async def assert_whole(
    client: Client, listener: Listener, prompt_id: str, end: str = "execution_success"
) -> dict[str, Any]:
    """The life of the one job that a client listened to, in a local ComfyUI's order.

    Begins with `execution_start` and `execution_cached`; a node is announced before it is told
    of; one end, behind everything but `executing` with `node: null`. The history says the same.
    Returns the history entry.
    """
    events = [
        (type_, data) for type_, data in listener.received if type_ not in ("status", "binary")
    ]
    types = [type_ for type_, _ in events]
    assert all(data["prompt_id"] == prompt_id for _, data in events)
    assert types[:2] == ["execution_start", "execution_cached"]
    assert [type_ for type_ in types if type_ in ENDS] == [end]
    assert types[-2:] == [end, "executing"]
    assert events[-1][1]["node"] is None
    counted = Counter(types)
    assert counted["execution_start"] == counted["execution_cached"] == 1
    announced = set(listener.of("execution_cached")[0]["nodes"])
    done: set[str] = set()
    for type_, data in events[:-1]:
        if type_ == "executing":
            assert data["node"] not in announced
            announced.add(data["node"])
        elif type_ == "progress":
            assert data["node"] in announced - done
        elif type_ == "executed":
            assert data["node"] in announced - done
            done.add(data["node"])
    entry = await client.history(prompt_id)
    assert entry["outputs"] == {data["node"]: data["output"] for data in listener.of("executed")}
    assert entry["status"]["completed"] is (end == "execution_success")
    assert entry["status"]["messages"][-1][0] == end
    assert (await client.get("queue"))[1] == {"queue_running": [], "queue_pending": []}
    return entry
