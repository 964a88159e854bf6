"""What a client hears of a job's nodes, whatever is lost, doubled or out of order."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.jobs.nodes import Nodes
from proxy.translate import graph as graphs
from proxy.translate.messages import CloudPicture, Event, Message, Preview

ID = "7121851e-1054-57bd-bdfe-1bb2f96c0cf7"

Step = tuple[str, str]


@st.composite
def prompts(draw: st.DrawFn) -> dict[str, Any]:
    """Up to six nodes that take inputs from earlier ones; some are twins."""
    prompt: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 6))):
        earlier = draw(st.lists(st.sampled_from(sorted(prompt)), unique=True)) if prompt else []
        prompt[str(number)] = {
            "class_type": draw(st.sampled_from(["Load", "Save"])),
            "inputs": {f"in{at}": [source, 0] for at, source in enumerate(earlier)},
        }
    return prompt


@st.composite
def scripts(draw: st.DrawFn) -> tuple[dict[str, Any], list[str], list[Step]]:
    """A graph, its cached nodes, and what the cloud tells of its nodes, in any order."""
    prompt = draw(prompts())
    nodes = st.sampled_from(sorted(prompt))
    kinds = st.sampled_from(
        ["executing", "running", "finished", "stateless", "progress", "picture", "executed"]
    )
    cached = draw(st.lists(nodes, unique=True, max_size=2))
    return prompt, cached, draw(st.lists(st.tuples(kinds, nodes), max_size=20))


def play(script: tuple[dict[str, Any], list[str], list[Step]]) -> tuple[Nodes, list[Message]]:
    prompt, cached, steps = script
    told: list[Message] = []
    nodes = Nodes(ID, prompt, told.append)
    nodes.cached = cached
    for kind, node in steps:
        if kind in ("progress", "picture") and node in nodes.outputs:
            continue  # the tracker leaves these out
        match kind:
            case "executing":
                nodes.executing({"node": node, "display_node": node, "prompt_id": ID})
            case "running" | "finished":
                nodes.stated({node: {"state": kind, "value": 0, "max": 1}})
            case "stateless":
                nodes.stated({node: {"node_id": node}})
            case "progress":
                nodes.progressed(node, {"value": 1, "max": 2})
            case "picture":
                nodes.pictured(node, CloudPicture(b"\xff\xd8", "image/jpeg"))
            case _:
                nodes.executed(node, {"text": [node]})
    return nodes, told


def of_type(told: list[Message], type_: str) -> list[dict[str, Any]]:
    return [one.data for one in told if isinstance(one, Event) and one.type == type_]


@given(scripts())
def test_a_node_is_stated_as_running_before_it_is_executing(
    script: tuple[dict[str, Any], list[str], list[Step]],
) -> None:
    _, told = play(script)
    states: dict[str, Any] = {}
    for message in told:
        match message:
            case Event(type="progress_state", data=data):
                states = data["nodes"]
            case Event(type="executing", data={"node": node}):
                assert node in states


ONE = {"0": {"class_type": "Load", "inputs": {}}}


@given(scripts())
@example((ONE, ["0"], [("executed", "0"), ("executing", "0")]))
def test_each_output_is_told_once_and_behind_its_executing_unless_it_was_not_run(
    script: tuple[dict[str, Any], list[str], list[Step]],
) -> None:
    prompt, cached, _ = script
    nodes, told = play(script)
    executing: set[str] = set()
    executed: list[str] = []
    for message in told:
        match message:
            case Event(type="executing", data={"node": node}):
                assert node not in executed
                executing.add(node)
            case Event(type="executed", data={"node": node}):
                ran = [one for one in executed if one in executing]
                assert node in executing or node in cached or graphs.is_twin(prompt, node, ran), (
                    node
                )
                executed.append(node)
    assert executed == list(nodes.outputs) == list(dict.fromkeys(executed))


@given(scripts())
def test_a_node_is_executing_again_behind_one_of_its_sources_alone(
    script: tuple[dict[str, Any], list[str], list[Step]],
) -> None:
    prompt = script[0]
    _, told = play(script)
    heard: list[str] = []
    known_at: dict[str, int] = {}
    for message in told:
        match message:
            case Event(type="progress_state", data=data):
                heard += [node for node in data["nodes"] if node not in heard]
            case Event(type="executing", data={"node": node}):
                if node in known_at:
                    since = heard[known_at[node] :]
                    assert graphs.sources(prompt, node) & set(since)
                known_at[node] = len(heard)


@given(scripts())
def test_progress_and_pictures_are_of_announced_nodes(
    script: tuple[dict[str, Any], list[str], list[Step]],
) -> None:
    _, told = play(script)
    announced: set[str] = set()
    for message in told:
        match message:
            case Event(type="executing", data={"node": node}):
                announced.add(node)
            case Event(type="progress", data={"node": node}) | Preview(node_id=node):
                assert node in announced


@given(scripts())
def test_no_state_is_told_twice_in_a_row_and_what_finished_runs_again_with_executing_alone(
    script: tuple[dict[str, Any], list[str], list[Step]],
) -> None:
    _, told = play(script)
    before: dict[str, Any] = {}
    revived: set[str] = set()
    for message in told:
        match message:
            case Event(type="progress_state", data={"nodes": nodes}):
                assert nodes != before
                assert not revived
                revived = {
                    node
                    for node, state in before.items()
                    if state["state"] == "finished" and nodes[node]["state"] == "running"
                }
                before = nodes
            case Event(type="executing", data={"node": node}):
                revived.discard(node)
    assert not revived


@given(scripts())
def test_the_share_of_what_is_done_is_between_none_and_all(
    script: tuple[dict[str, Any], list[str], list[Step]],
) -> None:
    nodes, _ = play(script)
    assert 0.0 <= nodes.progress <= 1.0
    nodes.finish()
    assert not [one for one in nodes.finished if one in script[1]]


@given(scripts())
def test_at_the_end_every_node_that_ran_is_told_to_have_finished(
    script: tuple[dict[str, Any], list[str], list[Step]],
) -> None:
    nodes, told = play(script)
    nodes.finish()
    states = of_type(told, "progress_state")
    if states:
        assert {state["state"] for state in states[-1]["nodes"].values()} <= {"finished"}
