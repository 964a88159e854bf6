"""A member's jobs in memory, with the answers that clients poll kept ready to send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from proxy.jobs import listing
from proxy.jobs.listing import JobQuery, Listed
from proxy.jobs.record import EndedJob, JobRecord
from proxy.translate import codec


class Ledger:
    """Live jobs and history of one member.

    Live jobs keep the order in which they were accepted, ended ones that in which they ended;
    an id that is used again keeps its old place in the history, as in ComfyUI.
    """

    def __init__(self) -> None:
        self.live: dict[str, JobRecord] = {}
        self.ended: dict[str, EndedJob] = {}
        self._queue_json: bytes | None = None
        self._history_json: bytes | None = None

    def __len__(self) -> int:
        return len(self.live)

    def add(self, record: JobRecord) -> None:
        """A job was accepted."""
        self.live[record.prompt_id] = record
        self._queue_json = None

    def started(self, prompt_id: str, at: int) -> None:
        """A job runs now (`at` in ms)."""
        self.live[prompt_id].started_at = at
        self._queue_json = None

    def remove(self, prompt_id: str) -> None:
        """A job leaves the queue."""
        self.live.pop(prompt_id, None)
        self._queue_json = None

    def add_ended(self, job: EndedJob) -> None:
        """A job has ended; until it is removed from the live ones it is in both."""
        self.ended[job.prompt_id] = job
        self._history_json = None

    def forget(self, prompt_ids: Iterable[str]) -> list[EndedJob]:
        """Remove from the history; returns what was there."""
        gone = [job for one in prompt_ids if (job := self.ended.pop(one, None)) is not None]
        if gone:
            self._history_json = None
        return gone

    def running(self) -> list[JobRecord]:
        """The jobs that run now."""
        return [record for record in self.live.values() if record.started_at is not None]

    def pending(self) -> list[JobRecord]:
        """The jobs that wait, in the order of their numbers, then of their coming."""
        waiting = [record for record in self.live.values() if record.started_at is None]
        return sorted(waiting, key=lambda record: (record.number, record.order))

    def queue_json(self) -> bytes:
        """The body of `GET /queue`."""
        if self._queue_json is None:
            self._queue_json = codec.dump_bytes(
                {
                    "queue_running": [record.queue_item() for record in self.running()],
                    "queue_pending": [record.queue_item() for record in self.pending()],
                }
            )
        return self._queue_json

    def history_json(self, max_items: int | None, offset: int | None) -> bytes:
        """The body of `GET /history`: oldest first.

        `max_items` without `offset` means the last ones, with it those from the oldest on; a
        negative `offset` counts as none. ComfyUI's own arithmetic for odd values: without offset,
        0 and less give nothing; with one, at least one item comes.
        """
        if max_items is None and (offset is None or offset <= 0):
            if self._history_json is None:
                self._history_json = _object(self.ended.values())
            return self._history_json
        jobs = list(self.ended.values())
        if offset is None or offset < 0:
            if max_items is None:
                return _object(jobs)
            return _object(jobs[-max_items:] if max_items > 0 else [])
        stop = None if max_items is None else offset + max(max_items, 1)
        return _object(jobs[offset:stop])

    def history_entry_json(self, prompt_id: str) -> bytes:
        """The body of `GET /history/{id}`: `{}` until the job has ended."""
        job = self.ended.get(prompt_id)
        return b"{}" if job is None else _object([job])

    def list_jobs(self, query: JobQuery) -> dict[str, Any]:
        """The answer of `GET /api/jobs`."""
        return listing.select(self._listed(), query)

    def job(self, prompt_id: str) -> dict[str, Any] | None:
        """The answer of `GET /api/jobs/{id}`, or `None`."""
        record = self.live.get(prompt_id)
        ended = self.ended.get(prompt_id)
        if ended is not None:
            entry = codec.loads(ended.entry)
            _, _, graph, extra_data, _ = entry["prompt"]
            return {
                **ended.summary,
                "outputs": entry["outputs"],
                "execution_status": entry["status"],
                "workflow": {"prompt": graph, "extra_data": extra_data},
            }
        if record is None:
            return None
        workflow = {"prompt": record.graph, "extra_data": record.extra_data}
        return {**listing.of_queue(record).job, "workflow": workflow}

    def _listed(self) -> Iterator[Listed]:
        for record in self.live.values():
            if record.prompt_id not in self.ended:
                yield listing.of_queue(record)
        for job in self.ended.values():
            yield Listed(job.summary, job.workflow_id)


def _object(jobs: Iterable[EndedJob]) -> bytes:
    parts = [codec.dump_bytes(job.prompt_id) + b": " + job.entry for job in jobs]
    return b"{" + b", ".join(parts) + b"}"
