"""Where submissions wait for the engine."""

from __future__ import annotations

from proxy.jobs.answers import Answers
from proxy.jobs.messages import JobAnswered
from proxy.storage.job_tables import JobKey

KEY, OTHER = JobKey("anna", "one"), JobKey("bob", "one")


def test_the_first_answer_about_a_job_counts() -> None:
    answers = Answers()
    with answers.awaited(KEY) as awaited:
        answers.hear(JobAnswered(OTHER))
        assert awaited.empty()
        answers.hear(JobAnswered(KEY, {"1": {}}))
        answers.hear(JobAnswered(KEY))
        assert awaited.get_nowait() == JobAnswered(KEY, {"1": {}})


def test_of_two_submissions_of_one_id_the_last_gets_the_answer() -> None:
    answers = Answers()
    with answers.awaited(KEY) as first:
        with answers.awaited(KEY) as second:
            answers.hear(JobAnswered(KEY))
        answers.hear(JobAnswered(KEY))
    assert (first.qsize(), second.qsize()) == (0, 1)
