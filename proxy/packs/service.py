"""The packs at run time: graphs on their way to the cloud, and the views of their jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from proxy.catalog.service import Catalog
from proxy.files.service import Files
from proxy.packs.discovery import PACK_NODES
from proxy.packs.loading import FileLoader, loads_of
from proxy.packs.nodes import PackFailure, PackNodeError, Picture
from proxy.packs.pictures import jpeg
from proxy.packs.results import Results
from proxy.packs.rewriting import failed, rewrite, wanted
from proxy.packs.view import MemberView
from proxy.sharing.turns import Turns
from proxy.translate.events import NodeMessages, Preview
from proxy.translate.packs import JobView, NodeFailedError, Rewriting, ViewedJob


@dataclass(eq=False)
class Packs:
    """The packs of all members' clients; `NodePacks` says what its methods do."""

    _catalog: Catalog
    _files: Files
    _loader: FileLoader
    _results: Results
    turns: Turns

    async def rewrite(
        self, member: str, graph: Mapping[str, Any], outputs: Collection[str] | None
    ) -> Rewriting | None:
        """Return what the cloud is to run instead of a graph, `None` for one without pack nodes.

        A node that fails before the run is the `failure` of the answer.
        """
        pack_classes = self._catalog.nodes.pack_classes
        for node in graph.values():
            if str(node.get("class_type")) in pack_classes:
                return await self._rewritten(member, graph, outputs, pack_classes)
        return None

    async def _rewritten(
        self,
        member: str,
        graph: Mapping[str, Any],
        outputs: Collection[str] | None,
        pack_classes: frozenset[str],
    ) -> Rewriting:
        """Load what the pack nodes of a graph need, and rewrite it."""
        loads = await self.turns.run(
            member, lambda: loads_of(graph, wanted(graph, outputs, pack_classes))
        )
        found = await self._loader.load_all(member, dict.fromkeys(loads.values()))
        pictures: dict[str, Picture] = {}
        for node_id, load in loads.items():
            match found[load]:
                case PackFailure() as failure:
                    return Rewriting(graph={}, failure=failed(node_id, graph, failure))
                case Picture() as picture:
                    pictures[node_id] = picture
        return await self.turns.run(
            member, lambda: rewrite(graph, outputs, pack_classes, pictures, self._catalog.known)
        )

    def view(self, job: ViewedJob, rewriting: Rewriting) -> JobView:
        """Return the view of a job whose graph was rewritten."""
        return RewrittenView(job, rewriting, self._results, self._files)


class RewrittenView(MemberView):
    """The view of a job whose graph was rewritten."""

    def __init__(
        self, job: ViewedJob, rewriting: Rewriting, results: Results, files: Files
    ) -> None:
        super().__init__(rewriting, job.graph)
        self._member = job.member
        self._prompt_id = job.prompt_id
        self._results = results
        self._files = files
        self._found: dict[str, NodeMessages] = {}

    async def cached(self, nodes: Sequence[str]) -> Sequence[str]:
        """Return which of the nodes that the cloud had cached are cached for the client."""
        return await self._results.cached(self._member, self._rewriting, self._graph, nodes)

    async def result(
        self, node: str, output: Mapping[str, Any], *, account: str
    ) -> NodeMessages | None:
        """Return a pack's messages about a node's result, which are made once."""
        if node not in self._rewriting.results:
            return None
        pack_node = PACK_NODES.get(str(self._graph[node].get("class_type")))
        if pack_node is None:  # the release that took the job in had the class
            return NodeMessages(ui={})
        if node not in self._found:
            try:
                self._found[node] = await self._results.messages_of(
                    self._member,
                    self._prompt_id,
                    node,
                    pack_node,
                    self._rewriting,
                    output,
                    account=account,
                )
            except PackNodeError as error:
                raise NodeFailedError(failed(node, self._graph, error)) from error
        return self._found[node]

    async def preview(self, preview: Preview) -> Preview | None:
        """Return a preview that no client takes for a result, as it does a PNG: that is made a
        JPEG. `None` for one that is too large."""
        if preview.image_type != "image/png":
            return preview
        image = await jpeg(self._files, self._member, preview.image)
        return None if image is None else replace(preview, image=image, image_type="image/jpeg")
