"""What the engine has to say to webhooks, and that it says nothing where nobody listens."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.jobs.models import Job, JobContent, JobEnd
from proxy.storage.encryption import Cipher
from proxy.webhooks.messages import TYPES
from proxy.webhooks.outbox import Outbox

END = JobEnd("completed", {}, {"messages": []}, {}, 1, 2)


def job(**extra_data: Any) -> Job:
    return Job("p1", "anna", 0, JobContent({}, extra_data), None, 0)


def outbox(*wanted: str) -> Outbox:
    made = Outbox(Cipher())
    made.wanted = frozenset(wanted)
    return made


def test_a_message_about_an_end_has_its_type_and_its_member() -> None:
    made = Outbox().ended(job(), END)
    assert (made.type, made.member, made.url) == ("job.completed", "anna", "")


@pytest.mark.parametrize("content", [None, JobContent({}, {"webhook_url": 5})])
def test_a_job_that_names_no_url_names_none(content: JobContent | None) -> None:
    one = job()
    one.content = content
    assert Outbox().ended(one, END).url == ""


def test_a_url_of_a_job_gets_its_end_with_a_secret_that_is_encrypted() -> None:
    cipher = Cipher()
    made = Outbox(cipher).ended(job(webhook_url="https://example.com/"), END)
    assert made.url == "https://example.com/"
    secret = cipher.decrypt(made.new_secret)
    assert secret is not None
    assert secret.startswith(b"whsec_")
    assert secret not in made.new_secret


def test_after_a_change_everything_may_be_wanted() -> None:
    one = outbox()
    one.forget()
    assert one.news.is_set()
    assert one.wanted == frozenset(TYPES)


def test_before_the_first_look_everything_may_be_wanted() -> None:
    assert Outbox().wanted == frozenset(TYPES)
