"""The files of a deployment: inputs that are uploaded and expire, and outputs in its storage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from simulation.cloud import picture

from proxy.translate.file_inputs import ASSET

if TYPE_CHECKING:
    from simulation.deployment import DeploymentJob
    from simulation.world import World

#: The host of the storage to which downloads are redirected.
STORAGE_HOST = "storage.test"

#: A status, a body (JSON, bytes or a stream) and headers.
Answered: TypeAlias = tuple[int, Any, dict[str, str]]

#: For how many seconds an input stays that expires.
_LIFE = (60.0, 1000.0)


class DeploymentFiles:
    """The inputs by their ids, with when they expire (ms), and the contents of outputs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._weather = world.weather
        self._inputs: dict[str, float] = {}
        self._outputs: dict[str, tuple[DeploymentJob, bytes]] = {}
        self._number = 0

    # --- inputs ----------------------------------------------------------------------------

    def uploaded(self) -> Answered:
        """Take a file."""
        self._number += 1
        id_, shown = f"input-{self._number}", {"size_bytes": 4, "content_type": "text/plain"}
        expires = float("inf")
        if self._weather.chance("input_expires"):
            expires = self._world.true_ms() + 1000 * self._weather.draw(*_LIFE)
        self._inputs[id_] = expires
        self._world.note("cloud", "", "takes a file", id_)
        return 201, shown | self._shown(id_), {}

    def by_hash(self) -> Answered:
        """Return a new record of a content, if it is known and tells so."""
        if self._inputs and self._weather.chance("content_known"):
            return self.uploaded()
        return refused(404, "blob_not_found")

    def find(self, id_: str) -> Answered:
        """Return an input."""
        is_there = self._inputs.get(id_, 0.0) > self._world.true_ms()
        return (200, self._shown(id_), {}) if is_there else refused(404, "asset_not_found")

    def has_all(self, graph: Mapping[str, Any]) -> bool:
        """Return whether all inputs are there that a graph refers to; one may have gone."""
        for node in graph.values():
            for value in node["inputs"].values():
                if isinstance(value, dict) and value.get("__type") == ASSET:
                    id_ = value["info"]["id"]
                    if self._weather.chance("input_gone"):
                        self._inputs.pop(id_, None)
                    if self._inputs.get(id_, 0.0) <= self._world.true_ms():
                        return False
        return True

    def _shown(self, id_: str) -> dict[str, Any]:
        expires = self._inputs[id_]
        return {"id": id_, "expires_at": None if expires == float("inf") else time_of(int(expires))}

    # --- outputs ---------------------------------------------------------------------------

    def keep(self, job: DeploymentJob, node: str, *, is_text: bool) -> dict[str, Any]:
        """Keep what a node has made; return its id and what else is known of it."""
        id_ = f"{job.id}-{node}"
        content = f"{job.mark}/{node}.0".encode() if is_text else picture(job.mark, f"{node}.0")
        self._outputs[id_] = job, content
        return {
            "id": id_,
            "name": "text.txt" if is_text else "C_00001_.png",
            "type": "text" if is_text else "image",
            "content_type": "text/plain" if is_text else "image/png",
            "size_bytes": len(content),
        }

    def content(self, id_: str) -> Answered:
        """Redirect to the storage while the job is known."""
        job, _ = self._outputs.get(id_, (None, b""))
        if job is None or job.forgotten:
            return refused(404, "asset_not_found")
        return 302, b"", {"Location": f"https://{STORAGE_HOST}/{id_}?signed"}

    def stored(self, path: str) -> Answered:
        """Return what the storage has at a signed address, which may have expired."""
        if self._weather.chance("signature_expired"):
            return 403, b"", {}
        return 200, self._outputs[path.strip("/")][1], {}


def refused(status: int, code: str, wait: float | None = None) -> Answered:
    """Return an error, with the seconds after which to come again."""
    headers = {} if wait is None else {"Retry-After": str(int(wait))}
    return status, {"error": {"code": code, "message": code}}, headers


def time_of(ms: int | None) -> str | None:
    """Return a time as API v2 has it."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat()
