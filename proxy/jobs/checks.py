"""The checks of graphs before their jobs are taken, over the catalog and the member's files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from proxy.jobs.models import JobRequest
from proxy.members.member import check_classes
from proxy.sharing.turns import Turns
from proxy.translate.errors import LocalError, invalid_outputs
from proxy.translate.jobs import (
    deep_prefixes,
    file_strings,
    foreign_files,
    has_more_values,
    malformed_inputs,
    missing_files,
)
from proxy.translate.node_validation import Reason
from proxy.translate.packs import NodePacks
from proxy.translate.validation import Validation, validate

if TYPE_CHECKING:
    from proxy.catalog.service import Catalog
    from proxy.files.graph_files import GraphFiles
    from proxy.members.directory import Directory

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A catalog that is older (seconds) is fetched again before a graph is refused by it. So a typing
#: error costs a call of the cloud at most once in this time, and new classes and models are known.
FRESH = 60.0

#: Graphs with more nodes are validated by the cloud only: validation blocks the event loop.
_MAX_NODES = 5_000
#: Maximum number of values of a graph that is read on the event loop: that takes a few ms.
_MAX_VALUES_AT_ONCE = 5_000
#: Maximum number of different strings of a graph that are looked up as names of files.
_MAX_FILE_STRINGS = 20_000


@dataclass(eq=False, repr=False)
class Checks:
    """The checks of all members' graphs.

    The catalog is waited for at most `catalog_timeout` seconds.
    """

    catalog: Catalog
    files: GraphFiles
    members: Directory
    packs: NodePacks
    catalog_timeout: float
    turns: Turns

    async def check(self, member: str, request: JobRequest) -> Validation | None:
        """Return what is right and wrong with a graph; `None` if only the cloud can tell.

        Raises `LocalError`: 400 as ComfyUI refuses graphs, 403 for nodes that the member may not
        use.
        """
        graph = request.graph
        loaded = await self.catalog.wait_loaded(self.catalog_timeout)
        validates = loaded and len(graph) <= _MAX_NODES
        large = has_more_values(graph, _MAX_VALUES_AT_ONCE)
        has_file = await self._files_of(member, graph, validates=validates, large=large)
        found = None
        if validates:
            found = await self._validated(member, request, has_file, large=large)
            if not found.faultless:
                found = await self._renewed(member, request, has_file, found, large=large)
        _check_inputs(graph)
        _check_prefixes(graph)
        if self.members.has_members:
            await self._check_names(member, graph, has_file, large=large)
        if (needs := self.catalog.needs_of(graph)) is not None:
            self._check_accounts(member, *needs)
        if validates and self.catalog.reads_uploads_alone(member, needs):
            work = partial(missing_files, graph, self.catalog.nodes.shape, has_file)
            if node_errors := await self._run(member, work, large=large):
                raise invalid_outputs(node_errors)
        who = self.members.get(member)
        if who.limits.denied_classes or who.limits.deny_partner_nodes:
            check_classes(who, graph, self.catalog.known)
        return found

    async def _check_names(
        self, member: str, graph: dict[str, Any], has_file: Callable[[str], bool], *, large: bool
    ) -> None:
        """Raise `LocalError` for the cloud's name of a file that is not the member's."""
        work = partial(foreign_files, graph, has_file)
        if node_errors := await self._run(member, work, large=large):
            raise invalid_outputs(node_errors)

    def _check_accounts(self, member: str, accounts: frozenset[str], name: str) -> None:
        """Raise `LocalError` if no account of the member has all that a graph names."""
        if accounts.isdisjoint(self.catalog.allowed(member)):
            raise LocalError(
                "models_of_several_accounts",
                "No account that you may use has all nodes and models of this workflow. "
                f"{name} is only in some accounts: choose others, or import the models into one "
                "account.",
            )

    async def _files_of(
        self, member: str, graph: dict[str, Any], *, validates: bool, large: bool
    ) -> Callable[[str], bool]:
        """Return which strings of a graph name files of the member. Raises `LocalError`."""
        private = self.members.has_members
        if not validates and not private:
            return lambda _: True
        work = partial(file_strings, graph, self.catalog.nodes.shape)
        strings = await self._run(member, work, large=large)
        if not strings:
            return lambda _: False
        if len(strings) > _MAX_FILE_STRINGS:
            raise LocalError(
                "too_many_files",
                f"The workflow has {len(strings):,} different values that may be names of files "
                f"and at most {_MAX_FILE_STRINGS:,} are looked up; split it.",
                kind="too_large",
            )
        return await self.files.owned(member, strings, private=private)

    async def _validated(
        self, member: str, request: JobRequest, has_file: Callable[[str], bool], *, large: bool
    ) -> Validation:
        shapes = await self.catalog.shapes(member)
        work = partial(validate, request.graph, request.targets, shapes, has_file=has_file)
        return await self._run(member, work, large=large)

    async def _renewed(
        self,
        member: str,
        request: JobRequest,
        has_file: Callable[[str], bool],
        found: Validation,
        *,
        large: bool,
    ) -> Validation | None:
        """Return what is wrong with a graph by a fresh catalog; `None` if only the cloud can tell.
        Raises `LocalError` if the graph cannot run.

        A model may have been imported, or a class added, a moment ago: only a fresh list refuses,
        and where there is none the cloud decides.
        """
        if found.lacks_names:
            if not await self.catalog.reread(member):
                return None
            found = await self._validated(member, request, has_file, large=large)
        elif await self.catalog.renew(FRESH):
            found = await self._validated(member, request, has_file, large=large)
        if not found.faultless:
            replaced = await self.catalog.extras.node_replacements()
            if any(str(node.get("class_type")) in replaced for node in request.graph.values()):
                return None  # the cloud will see another graph, with newer classes
        if found.error is not None:
            raise _invalid_graph(found.error, found.node_errors)
        return found

    async def _run(self, member: str, work: Callable[[], T], *, large: bool) -> T:
        """Run work whose length depends on a graph: in a thread, in the member's turn, if it is
        large."""
        return await self.turns.run(member, work) if large else work()


def _check_inputs(graph: dict[str, Any]) -> None:
    """Raise `LocalError` for a node whose inputs are no object, whether it runs or not."""
    if node_errors := malformed_inputs(graph):
        node_id = next(iter(node_errors))
        raise LocalError(
            "invalid_prompt",
            "The inputs of a node must be an object of names and values, as in {}.",
            details=f"Node ID '#{node_id}'",
            extra_info={"node_id": node_id},
            node_errors=node_errors,
        )


def _check_prefixes(graph: dict[str, Any]) -> None:
    """Raise `LocalError` for an output that would be in too many folders."""
    if node_errors := deep_prefixes(graph):
        raise invalid_outputs(node_errors)


def _invalid_graph(error: Reason, node_errors: dict[str, Any]) -> LocalError:
    kinds = {reason["type"] for about in node_errors.values() for reason in about["errors"]}
    log.info("graph_refused", kind=error["type"], errors=sorted(kinds))
    return LocalError(**error, node_errors=node_errors)
