"""What an engine tells, kept in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.jobs.messages import JobNews


@dataclass
class Heard:
    """A listener that keeps the `news`, and passes each on to those who `follow`."""

    news: list[JobNews] = field(default_factory=list)
    follow: list[Callable[[JobNews], None]] = field(default_factory=list)

    def hear(self, news: JobNews) -> None:
        self.news.append(news)
        for follower in list(self.follow):
            follower(news)
