"""What a graph has to pass before its job is taken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import structlog

from proxy.jobs.models import JobRequest
from proxy.translate.errors import LocalError
from proxy.translate.validation import Validation, foreign_files, validate

log = structlog.get_logger(__name__)

#: A catalog that is older (seconds) is fetched again before a graph is refused by it. So a typing
#: error costs a call of the cloud at most once in this time, and new classes and models are known.
FRESH = 60.0

#: Graphs with more nodes are left to the cloud: nothing else continues while one is looked at.
_MOST = 5_000


class CatalogLookup(Protocol):
    """What the checks need of the catalog."""

    def known(self, name: str) -> Mapping[str, Any] | None:
        """A node class, `None` if there is none."""

    async def wait_loaded(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait until the node classes are there, at most `timeout` seconds, if they may come."""

    async def renewed(self, age: float) -> bool:
        """Fetch the node classes again unless they are younger than `age` seconds."""


class FileLookup(Protocol):
    """What the checks need of the files."""

    async def owned(
        self, member: str, graph: Mapping[str, Any], *, private: bool
    ) -> Callable[[str], bool]:
        """Says of each string of a graph whether it names a file that the member may use."""


class Checks:
    """The checks of all members' graphs.

    `replaced` gives the old classes that the cloud replaces before it looks at a graph. `permit`
    raises `LocalError` for a graph that the member may not run. `private` says whether there are
    members whom the account's files are to be kept from. Without `validates` only these two are
    looked at. The catalog is waited for at most `patience` seconds.
    """

    def __init__(
        self,
        catalog: CatalogLookup,
        files: FileLookup,
        *,
        replaced: Callable[[], Awaitable[Mapping[str, Any]]],
        permit: Callable[[str, Mapping[str, Any]], None],
        private: Callable[[], bool],
        validates: bool,
        patience: float,
    ) -> None:
        self._catalog = catalog
        self._files = files
        self._replaced = replaced
        self._permit = permit
        self._private = private
        self._validates = validates
        self._patience = patience

    async def check(self, member: str, request: JobRequest) -> Validation | None:
        """What is right and wrong with a graph; `None` if nobody can tell before the cloud does.

        Raises `LocalError`: 400 as ComfyUI refuses graphs, 403 for nodes that the member may not
        use.
        """
        loaded = await self._catalog.wait_loaded(self._patience)
        found = await self._validated(member, request) if loaded and self._validates else None
        if found is not None and found.error is not None:
            kinds = {one["type"] for about in found.node_errors.values() for one in about["errors"]}
            log.info("graph_refused", kind=found.error["type"], errors=sorted(kinds))
            raise _refusal(found)
        if self._private():
            owned = await self._files.owned(member, request.graph, private=True)
            node_errors = foreign_files(request.graph, owned)
            if node_errors:
                raise LocalError(
                    "prompt_outputs_failed_validation",
                    "Prompt outputs failed validation",
                    node_errors=node_errors,
                )
        self._permit(member, request.graph)
        return found

    async def _validated(self, member: str, request: JobRequest) -> Validation | None:
        if len(request.graph) > _MOST:
            return None
        private = self._private()
        has_file = await self._files.owned(member, request.graph, private=private)
        found = self._validate(request, has_file)
        if not found.faultless and await self._catalog.renewed(FRESH):
            found = self._validate(request, has_file)
        if not found.faultless and await self._is_replaced(request.graph):
            return None
        return found

    def _validate(self, request: JobRequest, has_file: Callable[[str], bool]) -> Validation:
        return validate(
            request.graph,
            request.targets,
            self._catalog.known,
            has_file=has_file,
        )

    async def _is_replaced(self, graph: Mapping[str, Any]) -> bool:
        """Whether the cloud will look at another graph than this, with newer classes."""
        replaced = await self._replaced()
        return any(str(node.get("class_type")) in replaced for node in graph.values())


def _refusal(found: Validation) -> LocalError:
    error = found.error or {}
    return LocalError(
        error["type"],
        error["message"],
        details=error["details"],
        extra_info=error["extra_info"],
        node_errors=found.node_errors,
    )
