"""Prepares a job for its account: the intent on disk, its files there, and what is lent to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.cloud.upstream import EventFeed, Prompt
from proxy.engine.accounts import Account
from proxy.engine.live_job import LiveJob
from proxy.engine.policy import Policy
from proxy.engine.recorder import JobRecorder
from proxy.engine.resources import JobResources
from proxy.jobs.models import Wish
from proxy.translate import workflow_metadata
from proxy.translate.codec import CREDENTIAL_KEYS


class WithdrawnError(Exception):
    """Raised when the client has cancelled the job before it was sent."""


@dataclass(eq=False, repr=False)
class Preparation:
    """What comes before a submission to one account."""

    account: Account
    recorder: JobRecorder
    resources: JobResources
    feed: EventFeed
    policy: Policy

    async def prepare(self, job: LiveJob) -> Prompt:
        """Return the body of a submission, with the account's names of files.

        Raises `WithdrawnError`, `StorageError`, and `LocalError` when a file cannot be sent.
        """
        if not await self.recorder.save(job):
            raise WithdrawnError
        catalog, timeouts = self.resources.catalog, self.policy.timeouts
        await catalog.wait_loaded(timeouts.catalog_timeout)
        if not self.feed.connected:  # else no event of the job would come
            await self.feed.wait_connected(timeouts.socket_timeout)
        graph = await self.resources.files.graphs.substitute(
            job.member,
            job.loaded.cloud_graph,
            shapes=catalog.nodes.shape,
            account=self.account.name,
            job=job.prompt_id,
        )
        if job.wish is not Wish.NONE:
            raise WithdrawnError
        extra_data = {**job.loaded.extra_data, **job.loaded.credentials}
        for name in ("client_id", "create_time", workflow_metadata.FIELD):
            extra_data.pop(name, None)
        return Prompt(graph, extra_data, job.loaded.targets, job.mark, job.trace)

    def check(self) -> None:
        """Check that no other process has the lease. Raises `FencedError`."""
        self.recorder.term.check()

    def lent(self, extra_data: dict[str, Any]) -> dict[str, Any]:
        """Return the credentials to add to `extra_data`, read immediately before the request: by
        then the account may have another key. Raises `FencedError`."""
        self.check()
        if not self.policy.send_partner_key or CREDENTIAL_KEYS & extra_data.keys():
            return {}
        return {"api_key_comfy_org": self.account.key}
