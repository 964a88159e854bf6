"""What is read from a job that is stored."""

from __future__ import annotations

from typing import Any

from proxy.jobs.models import JobRecord
from proxy.translate import codec

SENT = {"prompt": {"1": {"class_type": "X"}}, "extra_data": {"client_id": "c"}}
GRAPH, EXTRA_DATA = (codec.dump_bytes(SENT[name]) for name in ("prompt", "extra_data"))
LISTED: dict[str, Any] = {"id": "a", "status": "pending"}


def test_a_live_job_is_what_a_list_shows_with_its_workflow() -> None:
    record = JobRecord(GRAPH, EXTRA_DATA, LISTED)
    assert not record.ended
    assert record.outputs() == {}
    assert record.described() == LISTED
    assert record.whole() == {**LISTED, "workflow": SENT}
    assert record.size == len(GRAPH) + len(EXTRA_DATA)


def test_an_ended_job_has_outputs_in_the_form_of_details() -> None:
    stored = {"outputs": {"1": {"images": [None, {"filename": "a.png"}]}}, "status": {"a": 1}}
    summary, result = codec.dump_bytes(LISTED), codec.dump_bytes(stored)
    record = JobRecord(GRAPH, EXTRA_DATA, summary=summary, result=result)
    outputs = {"1": {"images": [{"filename": "a.png"}]}}
    assert record.ended
    assert record.outputs() == outputs
    assert record.described() == {**LISTED, "outputs": outputs, "execution_status": {"a": 1}}
    assert record.whole() == {**record.described(), "workflow": SENT}
    assert record.size == sum(map(len, (GRAPH, EXTRA_DATA, summary, result)))
