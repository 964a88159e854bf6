"""Results of nodes: the messages of their packs to the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from proxy.packs.discovery import PACK_NODES
from proxy.packs.nodes import Item, PackNode, PackNodeError, Result
from proxy.packs.store import PictureStore
from proxy.runtime import randomness
from proxy.runtime.clock import now
from proxy.storage.temporary import PackPicture
from proxy.translate import output_files
from proxy.translate.events import NodeMessages
from proxy.translate.packs import Rewriting
from proxy.translate.reading import field_of

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Results:
    """Makes the messages about results, and remembers which ones were sent."""

    _store: PictureStore

    async def cached(
        self,
        member: str,
        rewriting: Rewriting,
        graph: Mapping[str, Any],
        nodes: Sequence[str],
    ) -> Sequence[str]:
        """Return which of the nodes that the cloud had cached are cached for the member as well.

        The cloud does not know nodes apart that differ in what the proxy does alone. Raises
        `StorageError`.
        """
        sources = {node: rewriting.results[node] for node in nodes if node in rewriting.results}
        if not sources:
            return nodes
        signatures = {source.signature for source in sources.values()}
        sent = await self._store.repository.results(member, signatures)
        known = {result.signature for result in sent}
        return [
            node
            for node in nodes
            if node not in sources
            or (sources[node].signature in known and not _runs_each_time(graph.get(node)))
        ]

    async def messages_of(
        self,
        member: str,
        prompt_id: str,
        node_id: str,
        pack_node: PackNode,
        rewriting: Rewriting,
        output: Mapping[str, Any],
        *,
        account: str,
    ) -> NodeMessages:
        """Return the messages to the client about a node's result on an account; it can be
        fetched by then.

        Raises `PackNodeError`, also for a result beyond the member's share of the budget,
        `LocalError` when the cloud does not hand a file out, `StorageError`.
        """
        source, messages = rewriting.results[node_id], pack_node.messages
        assert messages is not None  # noqa: S101
        format_ = messages.encoding(source.inputs)
        content_type = f"image/{(format_ or 'webp').lower()}"
        items = [file.item for file in output_files.files(output_files.with_core_keys(output))]
        before = {
            (result.cloud_name, result.encoding, result.position): result.id
            for result in await self._store.repository.results(member, [source.signature])
        }
        kept, shown = [], []
        with self._store.budget.member(member, "picture") as held:
            for position, item in enumerate(items):
                data = await self._store.result_bytes(
                    member, item, format_, held, account=account, waits=True
                )
                size = len(data)
                if not messages.carries:
                    data = b""
                    held.release()
                name = str(item["filename"])
                id_ = before.get((name, format_, position)) or randomness.uuid4().hex
                shown.append(Item(id_, data, content_type))
                kept.append(
                    PackPicture(
                        member,
                        id_,
                        content_type,
                        now(),
                        size,
                        account=account,
                        cloud_name=name,
                        cloud_type=str(item.get("type") or "output"),
                        encoding=format_,
                        signature=source.signature,
                        position=position,
                    )
                )
        await self._store.repository.keep_results(source.signature, kept)
        texts = output.get("text")
        shown_texts = tuple(map(str, texts)) if isinstance(texts, list | tuple) else ()
        result = Result(prompt_id, node_id, source.inputs, tuple(shown), shown_texts)
        try:
            return messages.build(result)
        except PackNodeError:
            raise
        except Exception as error:
            log.exception("pack_failed", member=member, job=prompt_id, node=pack_node.name)
            raise PackNodeError(type(error).__name__, str(error)) from error


def _runs_each_time(node: Any) -> bool:
    class_type = field_of(node, "class_type")
    pack_node = PACK_NODES.get(str(class_type))
    return pack_node is not None and pack_node.messages is not None and pack_node.messages.again
