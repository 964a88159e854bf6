"""What the engine has to say to webhooks, and that it says nothing where nobody listens."""

from __future__ import annotations

from typing import Any

from proxy.jobs.models import Job, JobContent, JobEnd
from proxy.webhooks.messages import TYPES
from proxy.webhooks.outbox import Outbox

END = JobEnd("completed", {}, {"messages": []}, {}, 1, 2)


def job(**extra_data: Any) -> Job:
    return Job("p1", "anna", 0, JobContent({}, extra_data), None, 0)


def outbox(*wanted: str) -> Outbox:
    made = Outbox()
    made.wanted = frozenset(wanted)
    return made


def test_a_message_about_an_end_has_its_type_and_its_member() -> None:
    made = Outbox().ended(job(), END)
    assert (made.type, made.member) == ("job.completed", "anna")


def test_after_a_change_everything_may_be_wanted() -> None:
    one = outbox()
    one.forget()
    assert one.news.is_set()
    assert one.wanted == frozenset(TYPES)


def test_before_the_first_look_everything_may_be_wanted() -> None:
    assert Outbox().wanted == frozenset(TYPES)
