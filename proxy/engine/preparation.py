"""Prepares a job for its account: the intent on disk, its files there, and what is lent to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.cloud.event_socket import Timeouts
from proxy.cloud.upstream import EventFeed, Prompt
from proxy.engine.accounts import Account
from proxy.engine.recorder import JobRecorder
from proxy.jobs.models import Job
from proxy.translate import workflow_metadata
from proxy.translate.codec import CREDENTIAL_KEYS
from proxy.webhooks.outbox import WEBHOOK_URL

if TYPE_CHECKING:
    from proxy.catalog.service import Catalog
    from proxy.files.graph_files import GraphFiles


class WithdrawnError(Exception):
    """The client has cancelled the job before it was sent."""


@dataclass(eq=False, repr=False)
class Preparation:
    """What comes before a submission to one account.

    Partner nodes are lent the key of the account with `send_partner_key`.
    """

    account: Account
    recorder: JobRecorder
    files: GraphFiles
    catalog: Catalog
    feed: EventFeed
    timeouts: Timeouts
    send_partner_key: bool

    async def prepare(self, job: Job) -> Prompt:
        """Return the body of a submission, with the account's names of files.

        Raises `WithdrawnError`, `StorageError`, and `LocalError` when a file cannot be sent.
        """
        if not await self.recorder.save(job):
            raise WithdrawnError
        await self.catalog.wait_loaded(self.timeouts.catalog_timeout)
        if not self.feed.connected:  # else no event of the job would come
            await self.feed.wait_connected(self.timeouts.socket_timeout)
        graph = await self.files.substitute(
            job.member,
            job.loaded.cloud_graph,
            shapes=self.catalog.nodes.shape,
            account=self.account.name,
            job=job.prompt_id,
        )
        if job.cancel_requested or job.interrupted:
            raise WithdrawnError
        extra_data = {**job.loaded.extra_data, **job.loaded.credentials}
        for name in ("client_id", "create_time", workflow_metadata.FIELD, WEBHOOK_URL):
            extra_data.pop(name, None)
        return Prompt(graph, extra_data, job.loaded.targets, job.mark)

    def lent(self, extra_data: dict[str, Any]) -> dict[str, Any]:
        """Return the credentials to add to `extra_data`, read immediately before the request.

        By then the account may have another key, and another replica the lease. Raises
        `FencedError`.
        """
        self.recorder.term.check()
        if not self.send_partner_key or CREDENTIAL_KEYS & extra_data.keys():
            return {}
        return {"api_key_comfy_org": self.account.key}
