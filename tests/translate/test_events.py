"""Cloud events in local form."""

from __future__ import annotations

import pytest

from proxy.translate import events


@pytest.mark.parametrize(
    "type_", ["notification", "feature_flags", "status", "logs", "asset_download", "agent_turn"]
)
def test_what_only_the_cloud_has_concerns_no_client(type_: str) -> None:
    assert events.concerns_a_job(type_, {"prompt_id": "p"}) is None


def test_an_event_concerns_the_job_it_names() -> None:
    assert events.concerns_a_job("executing", {"prompt_id": "p"}) == "p"
    assert events.concerns_a_job("executing", {}) is None


@pytest.mark.parametrize(("given", "at"), [({}, 5), ({"timestamp": 1795530047597}, 1795530047597)])
def test_a_timestamp_is_now_unless_the_cloud_gives_one(given: dict[str, int], at: int) -> None:
    assert events.timestamp(given, 5) == at


def test_a_timestamp_in_seconds_becomes_milliseconds() -> None:
    assert events.timestamp({"timestamp": 1795530047.5}, 5) == 1795530047500


def test_executing_gets_its_display_node_and_keeps_unknown_keys() -> None:
    data = events.executing({"node": 3, "prompt_id": "cloud", "more": 1}, "local", outer="3")
    assert data == {"node": "3", "display_node": "3", "prompt_id": "local", "more": 1}


def test_node_state_keeps_what_was_known() -> None:
    known = {"value": 3, "max": 9, "state": "running"}
    assert events.node_state("p", "4", {"class_type": "X"}, known, outer="4") == {
        "value": 3,
        "max": 9,
        "state": "running",
        "node_id": "4",
        "prompt_id": "p",
        "display_node_id": "4",
        "parent_node_id": None,
        "real_node_id": "4",
    }


def error(data: dict[str, object]) -> dict[str, object]:
    return events.execution_error(
        data,
        prompt_id="p",
        node_id="2",
        graph={"2": {"class_type": "VAEDecode"}},
        executed=["1"],
        now=9,
    )


def test_an_error_without_a_node_names_the_one_that_ran() -> None:
    fields = error({"exception_message": "boom"})
    assert (fields["node_id"], fields["node_type"], fields["executed"]) == ("2", "VAEDecode", ["1"])


def test_an_error_without_any_word_still_has_every_field() -> None:
    assert error({}) == {
        "prompt_id": "p",
        "node_id": "2",
        "node_type": "VAEDecode",
        "executed": ["1"],
        "exception_message": "The run failed without a reason.",
        "exception_type": "RuntimeError",
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": 9,
    }


def test_a_traceback_in_one_piece_becomes_lines() -> None:
    assert error({"traceback": "a\nb"})["traceback"] == ["a\n", "b"]


def test_credentials_among_the_inputs_are_not_shown() -> None:
    fields = error({"current_inputs": {"seed": [7], "api_key_comfy_org": ["comfyui-x"]}})
    assert fields["current_inputs"] == {"seed": [7]}


def test_an_interruption_names_the_node_that_ran() -> None:
    fields = events.execution_interrupted(
        {"prompt_id": "cloud"},
        prompt_id="p",
        node_id="2",
        graph={"2": {"class_type": "VAEDecode"}},
        executed=[],
        now=9,
    )
    assert fields == {
        "prompt_id": "p",
        "node_id": "2",
        "node_type": "VAEDecode",
        "executed": [],
        "timestamp": 9,
    }
