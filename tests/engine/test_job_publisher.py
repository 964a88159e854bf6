"""The messages of one job to its client."""

from __future__ import annotations

import pytest
from jobs.samples import job

from proxy.engine.job_publisher import MAX_PREVIEW_BYTES, JobPublisher
from proxy.jobs.messages import JobMessage
from proxy.translate.events import Event, Preview, with_metadata


def test_each_message_has_the_metadata_of_its_job() -> None:
    event, told = Event("executing", {"node": "1"}), list[JobMessage]()
    JobPublisher(told.append, job(), {"workflow_id": "w"}).publish(event)
    (news,) = told
    assert news == JobMessage(job().key, "c", True, with_metadata(event, {"workflow_id": "w"}))
    assert news.message != event


@pytest.mark.parametrize(("size", "kept"), [(10, True), (MAX_PREVIEW_BYTES + 1, False)])
def test_the_last_preview_is_kept_unless_it_is_large(size: int, kept: bool) -> None:
    publisher = JobPublisher(lambda _: None, job(), {})
    preview = Preview("p", "1", "1", None, "1", bytes(size), "image/jpeg")
    publisher.publish(preview)
    assert (publisher.preview == preview) is kept
