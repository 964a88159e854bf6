"""Gives a job's client its own names for files, and hides what nobody may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from proxy.jobs.happenings import CloudEvent, Happening, Seen
from proxy.jobs.record import JobRecord
from proxy.translate.codec import redact
from proxy.translate.snapshot import Snapshot

T = TypeVar("T")


class Names(Protocol):
    """What is needed of the files: local names for outputs."""

    async def reveal(self, member: str, value: Any) -> Any:
        """A value with the member's names in place of the cloud's, at any depth."""

    async def localise(
        self,
        member: str,
        prompt_id: str,
        node_id: str,
        node: Mapping[str, Any] | None,
        output: dict[str, Any],
        *,
        account: str,
    ) -> dict[str, Any]:
        """A node's output with the cloud's names on the account replaced by the member's."""


class Localiser:
    """For one job. `secrets` are what no message and no record may show."""

    def __init__(self, job: JobRecord, names: Names, secrets: tuple[str, ...]) -> None:
        self._job = job
        self._names = names
        self._secrets = secrets

    async def localise(self, happening: Happening) -> Happening:
        """Replace the cloud's names, and the account's key wherever a node shows it."""
        match happening:
            case CloudEvent(type="executed", data=data) if isinstance(data.get("output"), dict):
                node = str(data.get("node"))
                output = await self._local_output(node, data["output"])
                return CloudEvent("executed", {**data, "output": output})
            case CloudEvent(type="execution_error", data=data):
                return CloudEvent("execution_error", await self._shown(dict(data)))
            case Seen(snapshot=snapshot):
                return replace(happening, snapshot=await self._local_snapshot(snapshot))
        return happening

    async def _local_snapshot(self, snapshot: Snapshot) -> Snapshot:
        outputs = None
        if snapshot.outputs is not None:
            outputs = {
                node: await self._local_output(node, output) if isinstance(output, dict) else output
                for node, output in snapshot.outputs.items()
            }
        return replace(
            snapshot,
            outputs=outputs,
            execution_error=await self._shown(snapshot.execution_error),
            execution_status=await self._shown(snapshot.execution_status),
        )

    async def _shown(self, value: T) -> T:
        """What a failure shows, without secrets and without the cloud's names."""
        shown: T = await self._names.reveal(self._job.member, redact(value, *self._secrets))
        return shown

    async def _local_output(self, node: str, output: dict[str, Any]) -> dict[str, Any]:
        job = self._job
        local = await self._names.localise(
            job.member,
            job.prompt_id,
            node,
            job.graph.get(node),
            output,
            account=job.account,
        )
        return redact(local, *self._secrets)
