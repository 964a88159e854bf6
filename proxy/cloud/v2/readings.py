"""Jobs of a deployment as they are read, with the contents of the texts among their outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from cachetools import LRUCache

from proxy.cloud.answers import DETAIL, Answer
from proxy.cloud.downloads import Downloads
from proxy.cloud.errors import CloudRefused, refusal
from proxy.cloud.http import Http
from proxy.cloud.v2.releases import Releases
from proxy.cloud.v2.streams import JobStreams
from proxy.translate.snapshots import Snapshot
from proxy.translate.v2.jobs import is_text, outputs_of, snapshot_of
from proxy.translate.v2.runs import RunObserver

log = structlog.get_logger(__name__)

#: Maximum number of jobs that are read at the same time.
_MAX_CONCURRENT = 8
#: Maximum bytes of an output that is shown as a text; larger ones are left out.
_MAX_TEXT_BYTES = 1024 * 1024
#: Maximum bytes of those of one job together, and of all that are remembered.
_MAX_TEXTS_BYTES, _MAX_CACHED_BYTES = 16 * 1024 * 1024, 64 * 1024 * 1024
#: Of how many jobs it is remembered that their end was asked for, or was unexplained.
_REMEMBERED = 1000


def _cache() -> LRUCache[str, Any]:
    return LRUCache(_REMEMBERED)


def _texts_cache() -> LRUCache[str, str]:
    return LRUCache(_MAX_CACHED_BYTES, getsizeof=len)


@dataclass(eq=False, repr=False)
class JobReadings:
    """Reads jobs, and tells the followed ones of `streams` what a reading shows of their nodes."""

    http: Http
    downloads: Downloads
    releases: Releases
    streams: Callable[[], JobStreams | None]
    _turn: asyncio.Semaphore = field(
        init=False, default_factory=lambda: asyncio.Semaphore(_MAX_CONCURRENT)
    )
    _cancelled: LRUCache[str, bool] = field(init=False, default_factory=_cache)
    _expired: LRUCache[str, bool] = field(init=False, default_factory=_cache)
    _texts: LRUCache[str, str] = field(init=False, default_factory=_texts_cache)

    def cancelled(self, cloud_id: str) -> None:
        """Note that the end of a job was asked for: an unexplained end is that."""
        self._cancelled[cloud_id] = True

    async def read(self, cloud_id: str, max_attempts: int | None = None) -> Snapshot | None:
        """Return `GET /api/v2/jobs/{id}`, `None` if there is no such job. Raises `CloudError`."""
        async with self._turn:
            run = self._followed(cloud_id)
            began = 0 if run is None else run.seen
            job = await self.http.lookup(
                "v2/jobs/{id}", Answer.object, DETAIL, max_attempts=max_attempts, id=cloud_id
            )
            if job is None:
                return None
            texts = await self._texts_of(job)
        self.releases.learn(job)
        run = self._followed(cloud_id)
        snapshot = snapshot_of(
            {**job, "id": cloud_id},
            {} if run is None else run.graph,
            texts,
            cancelled=cloud_id in self._cancelled,
            settled=job.get("status") != "expired" or cloud_id in self._expired,
        )
        if job.get("status") == "expired":
            # comfy-api-proxy says so for a few ms at the end of a quick job: it is read again.
            self._expired[cloud_id] = True
        if snapshot.unlisted:
            self.http.observations.add_anomaly(
                "job", f"status {type(job.get('status')).__name__}", job
            )
        streams = self.streams()
        if streams is not None and (snapshot.settled or not snapshot.ended):
            streams.deliver(cloud_id, job, texts, began)
        return snapshot

    def _followed(self, cloud_id: str) -> RunObserver | None:
        streams = self.streams()
        return None if streams is None else streams.runs.get(cloud_id)

    async def _texts_of(self, job: Mapping[str, Any]) -> dict[str, str]:
        """Return the contents of the outputs that are texts, by their ids.

        One that is gone, or too large, is left out, and so are those behind many MB of others.
        Raises `CloudError`.
        """
        found: dict[str, str] = {}
        size = 0
        for output in outputs_of(job):
            if not is_text(output):
                continue
            id_ = output["id"]
            if size + _MAX_TEXT_BYTES > _MAX_TEXTS_BYTES:
                log.warning("text_outputs_omitted", cloud_job=job.get("id"), bytes=size)
                break
            if id_ not in self._texts:
                try:
                    self._texts[id_] = await self._text(id_)
                except CloudRefused as error:
                    log.warning("text_output_failed", cloud_job=job.get("id"), error=str(error))
                    continue
            found[id_] = self._texts[id_]
            size += len(found[id_])
        return found

    async def _text(self, id_: str) -> str:
        data = bytearray()
        async with self.downloads.open(f"{id_}.txt", "output") as download:
            async for chunk in download.chunks():
                data += chunk
                if len(data) > _MAX_TEXT_BYTES:
                    raise refusal("a text output", 413, "too large", None)
        return data.decode(errors="replace")
