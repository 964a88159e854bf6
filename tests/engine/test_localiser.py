"""What the cloud tells of a job in the terms of the member."""

from __future__ import annotations

from typing import Any

import pytest
from jobs.samples import job

from proxy.engine.localiser import Localiser, Secrets
from proxy.engine.tracker import EventReceived, GiveUp, SnapshotReceived
from proxy.jobs.models import Job
from proxy.translate.codec import REDACTED
from proxy.translate.frames import CloudPicture
from proxy.translate.output_files import OutputNode
from proxy.translate.packs import Failure
from proxy.translate.snapshots import Snapshot

SUBMIT = "POST /api/prompt"


ACCOUNT_KEY, LENT = "comfyui-of-the-account", "comfyui-of-the-client"
GRAPH = {
    "1": {"class_type": "Fox", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    "3": {"class_type": "Unused", "inputs": {}},
}


class Files:
    """Files with one name that the cloud knows by its hash."""

    @property
    def outputs(self) -> Files:
        return self

    async def reveal(self, _member: str, value: Any, _job: str | None = None) -> Any:
        return _renamed(value)

    async def localise(self, node: OutputNode, output: Any) -> Any:
        return {**_renamed(output), "of": [node.prompt_id, node.id, node.account]}


def _renamed(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("hash.png", "cat.png")
    if isinstance(value, dict):
        return {key: _renamed(item) for key, item in value.items()}
    return [_renamed(item) for item in value] if isinstance(value, list) else value


def localiser(**fields: Any) -> Localiser:
    made: Job = job("one", graph=GRAPH, account="main", **fields)
    files: Any = Files()
    no_packs: Any = None
    return Localiser(made, files, no_packs, Secrets([ACCOUNT_KEY]))


async def test_an_output_gets_local_names() -> None:
    event = EventReceived("executed", {"node": "2", "output": {"images": ["hash.png"]}})
    local = await localiser().localised(event)
    output = {"images": ["cat.png"], "of": ["one", "2", "main"]}
    assert local == EventReceived("executed", {"node": "2", "output": output})


async def test_no_key_is_shown_whatever_a_node_makes_of_it() -> None:
    local = localiser(credentials={"api_key_comfy_org": LENT})
    shown = f"keys {ACCOUNT_KEY} and {LENT}"
    hidden = f"keys {REDACTED} and {REDACTED}"
    error = EventReceived("execution_error", {"exception_message": shown, shown: [shown]})
    assert await local.localised(error) == EventReceived(
        "execution_error", {"exception_message": hidden, hidden: [hidden]}
    )
    text = EventReceived("executed", {"node": "2", "output": {"text": [shown]}})
    event = await local.localised(text)
    assert isinstance(event, EventReceived)
    assert event.data["output"]["text"] == [hidden]


async def test_a_snapshot_is_local_in_all_that_clients_see_of_it() -> None:
    snapshot = Snapshot(
        "cloud",
        "failed",
        settled=True,
        outputs={"2": {"images": ["hash.png"]}, "odd": "hash.png"},
        execution_error={"exception_message": f"hash.png {ACCOUNT_KEY}"},
        execution_status={"messages": [["execution_error", {"why": "hash.png"}]]},
    )
    local = await localiser().localised(SnapshotReceived(snapshot))
    assert isinstance(local, SnapshotReceived)
    seen = local.snapshot
    assert seen.outputs == {
        "2": {"images": ["cat.png"], "of": ["one", "2", "main"]},
        "odd": "hash.png",
    }
    assert seen.execution_error == {"exception_message": f"cat.png {REDACTED}"}
    assert seen.execution_status == {"messages": [["execution_error", {"why": "cat.png"}]]}


async def test_a_list_without_outputs_has_none_afterwards() -> None:
    listed = SnapshotReceived(Snapshot("cloud", "in_progress", settled=False), detail=False)
    assert await localiser().localised(listed) == listed


@pytest.mark.parametrize(
    "what",
    [
        EventReceived("progress", {"node": "1", "value": 1, "max": 2}),
        CloudPicture(b"picture", "image/jpeg"),
        GiveUp("lost", lost=True),
    ],
)
async def test_what_names_nothing_of_the_cloud_passes_through(what: Any) -> None:
    assert await localiser().localised(what) is what


def test_a_helper_that_fails_ends_the_job_as_a_node_does_that_has_begun() -> None:
    failure = Failure("1", "ValueError", "no fox", {"size": ["0"]})
    began, ended = localiser(outputs_to_execute=("2",)).failing(failure)
    assert began == EventReceived("executing", {"node": "1", "display_node": "1"})
    assert isinstance(ended, SnapshotReceived)
    assert (ended.snapshot.status, ended.snapshot.settled) == ("failed", True)
    error = ended.snapshot.execution_error
    assert error is not None
    assert (error["node_id"], error["exception_message"]) == ("1", "no fox\n")
    assert error["current_outputs"] == ["1", "2"], "the third node does not run"
