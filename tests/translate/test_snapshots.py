"""What the cloud says of a job, in every form in which it may say it."""

from __future__ import annotations

import pytest

from proxy.translate.snapshots import STATUSES, Snapshot, from_job, milliseconds


@pytest.mark.parametrize(
    ("raw", "status", "settled"),
    [
        ("pending", "pending", False),
        ("queued_limited", "pending", False),
        ("in_progress", "in_progress", False),
        ("executed", "in_progress", False),
        ("something new", "in_progress", False),
        ("completed", "completed", True),
        ("success", "completed", True),
        ("lost", "failed", True),
        ("non_retryable_error", "failed", True),
        ("erroring", "failed", False),
        ("failed", "failed", False),
        ("cancel_requested", "cancelled", False),
        ("cancelled", "cancelled", True),
    ],
)
def test_statuses(raw: str, status: str, settled: bool) -> None:
    snapshot = from_job({"id": "a", "status": raw})
    assert (snapshot.status, snapshot.settled) == (status, settled)


@pytest.mark.parametrize(
    ("more", "status", "settled"),
    [
        ({"outputs": {"2": {}}}, "completed", True),
        ({"outputs_count": 1}, "completed", True),
        ({"outputs": {}}, "failed", False),  # they may come late
        ({"execution_error": {"exception_message": "half of it"}}, "failed", False),
    ],
)
@pytest.mark.parametrize(
    "end", [{"execution_end_time": 1.8e12}, {"execution_status": {"status_str": "odd"}}]
)
def test_an_end_with_an_unknown_status_is_a_success_with_outputs_and_a_failure_without(
    more: dict[str, object], end: dict[str, object], status: str, settled: bool
) -> None:
    snapshot = from_job({"id": "a", "status": "Partial_Success", **more, **end})
    assert (snapshot.status, snapshot.settled) == (status, settled)
    assert snapshot.unlisted == ("status",)


def test_a_failure_with_an_unknown_status_quotes_it() -> None:
    error = from_job({"id": "a", "status": "evicted", "execution_end_time": 2e12}).execution_error
    assert error is not None
    assert '"evicted"' in error["exception_message"]


def test_a_friendly_failure_is_final_with_its_end_time() -> None:
    assert from_job({"id": "a", "status": "failed", "execution_end_time": 2e12}).settled


def test_a_cancelled_run_is_final_with_its_end_time() -> None:
    begun = {"id": "a", "status": "cancelled", "execution_start_time": 1.7e12}
    assert not from_job(begun).settled
    assert from_job({**begun, "execution_end_time": 1.8e12}).settled


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (1795527685, 1795527685000),
        (1795527685850, 1795527685850),
        (None, None),
        ("x", None),
        (float("nan"), None),
        (float("inf"), None),
        (-float("inf"), None),
        (-1, None),
        (1e300, None),
        (10**400, None),
    ],
)
def test_times_are_recognised_by_size(value: object, ms: int | None) -> None:
    assert milliseconds(value) == ms


def test_an_error_may_be_an_object_or_a_json_string() -> None:
    error = {"node_id": "3", "exception_message": "boom"}
    as_object = from_job({"id": "a", "status": "failed", "execution_error": error})
    as_string = from_job(
        {
            "id": "a",
            "status": "failed",
            "error_message": '{"node_id":"3","exception_message":"boom"}',
        }
    )
    assert as_object.execution_error == as_string.execution_error == error


def test_an_error_may_be_plain_text() -> None:
    snapshot = from_job({"id": "a", "status": "error", "error_message": "worker died"})
    assert snapshot.execution_error == {"exception_message": "worker died"}


def test_a_list_entry_has_no_outputs() -> None:
    assert from_job({"id": "a", "status": "completed"}).outputs is None
    assert from_job({"id": "a", "status": "completed", "outputs": {}}).outputs == {}


def test_every_status_has_one_of_five_names() -> None:
    assert set(STATUSES.values()) == {
        "pending",
        "in_progress",
        "completed",
        "failed",
        "cancelled",
    }


@pytest.mark.parametrize(
    ("start_time", "end_time", "ended_at"),
    [
        (None, None, 5_000),
        (None, 4_500, 4_500),
        (None, 500, 1_000),
        (90_000, 92_500, 3_500),
        (90_000, 80_000, 1_000),
    ],
)
def test_a_run_that_was_sent_from_1000_on_ends_by_the_clouds_clock(
    start_time: int | None, end_time: int | None, ended_at: int
) -> None:
    seen = Snapshot("c", "completed", True, start_time=start_time, end_time=end_time)
    assert seen.ended_at(1_000, 5_000) == ended_at


def test_of_the_workers_messages_only_readable_ones_are_found() -> None:
    messages = [None, ["execution_error"], ["execution_error", 3], ["execution_error", {"a": 1}]]
    seen = Snapshot("c", "failed", True, execution_status={"messages": messages})
    assert seen.message("execution_error") == {"a": 1}
    assert seen.message("execution_success") is None
    assert Snapshot("c", "failed", True, execution_status={"messages": 7}).message("x") is None
