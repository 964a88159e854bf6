"""A job with all that is stored of it, as JSON that is parsed where a part of it is needed."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from proxy.translate import codec
from proxy.translate.outputs import normalized


class JobRecord(Struct, frozen=True):
    """A live or an ended job.

    `listed` is what a list shows of a live one, `summary` the same of an ended one, as JSON. So
    are its `graph` and `extra_data` and, once it has ended, its `result`. Clients and the cloud
    choose their size: parse them in a thread.
    """

    graph: bytes
    extra_data: bytes
    listed: dict[str, Any] = {}
    summary: bytes = b""
    result: bytes = b""

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return bool(self.result)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(map(len, (self.graph, self.extra_data, self.summary, self.result)))

    def outputs(self) -> dict[str, Any]:
        """Return the outputs; none of a live job."""
        return normalized(codec.loads(self.result)["outputs"]) if self.ended else {}

    def described(self) -> dict[str, Any]:
        """Return the answer of `GET /api/jobs/{id}` without the workflow."""
        if not self.ended:
            return self.listed
        summary, result = codec.loads(self.summary), codec.loads(self.result)
        outputs = {"outputs": normalized(result["outputs"]), "execution_status": result["status"]}
        return {**summary, **outputs}

    def workflow(self) -> dict[str, Any]:
        """Return what the client sent: the graph as `prompt`, and the `extra_data`."""
        return {"prompt": codec.loads(self.graph), "extra_data": codec.loads(self.extra_data)}

    def whole(self) -> dict[str, Any]:
        """Return the answer of `GET /api/jobs/{id}`."""
        return {**self.described(), "workflow": self.workflow()}
