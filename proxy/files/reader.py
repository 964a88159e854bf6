"""Files as members read them: the workflow in a picture has the member's names of files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from cachetools import LRUCache

from proxy.files import workflow_names
from proxy.files.contents import Content, ContentBrokenError
from proxy.files.library import Library
from proxy.files.namespace import Namespace
from proxy.files.picture_parts import Edits
from proxy.files.picture_workflows import JobWorkflows
from proxy.files.workflow_names import MetadataText
from proxy.storage.file_tables import FileRecord
from proxy.translate.media_types import kind

#: Maximum bytes of cached workflows with local names.
MAX_EDITS_BYTES = 16 * 1024 * 1024


class Reader:
    """Opens contents of the `library` with names of the `namespace` in them, and with workflows
    where the account does not write these."""

    def __init__(
        self, library: Library, namespace: Namespace, workflows: JobWorkflows | None
    ) -> None:
        self._library = library
        self._namespace = namespace
        self._workflows = workflows
        self._known_edits: LRUCache[FileRecord, Edits] = LRUCache(
            MAX_EDITS_BYTES, getsizeof=lambda edits: edits.weight
        )

    async def open(self, record: FileRecord) -> Content:
        """Open a file's content, from the cache or during its download.

        In the workflow in an output, files have the member's names. Returns when the size is known;
        small contents are complete then. Raises `LocalError` if the content is not available.
        """
        content = await self._library.open(record)
        try:
            content.edits = await self._edits(record, content)
        except BaseException:
            content.close()
            raise
        return content

    async def names_for(
        self, record: FileRecord, found: Iterable[MetadataText]
    ) -> Mapping[str, str]:
        """Return the local names of the cloud's files in texts of a picture: those of its job's
        graph, so that later uploads do not change its bytes; for jobs without such names the
        newest."""
        names = workflow_names.names_in(found)
        known: Mapping[str, str] | None = None
        if names and record.job is not None:
            known = await self._namespace.written_names(record.member, record.job)
        if known is None:
            known = await self._namespace.local_names(record.member, names)
        return known

    async def _edits(self, record: FileRecord, content: Content) -> Edits:
        """Return the edits of a content for its member; those of a complete one are cached."""
        known = self._known_edits.get(record)
        if known is not None:
            return known
        if record.cloud_type == "input" or kind(record.path) != "image":
            return Edits()
        edits = await self._workflow_edits(record, content)
        if not edits.edits and (found := await content.texts()):
            rename = workflow_names.renaming(await self.names_for(record, found))
            edits = workflow_names.edits(found, rename)
        if content.path is not None:
            self._known_edits[record] = edits
        return edits

    async def _workflow_edits(self, record: FileRecord, content: Content) -> Edits:
        """Return what writes the workflow of its job into a picture that lacks it."""
        cloud = self._library.clouds.get(record.account)
        if cloud is None or cloud.capabilities.writes_workflows:
            return Edits()
        if self._workflows is None or record.job is None:
            return Edits()
        workflow = await self._workflows.of(record.member, record.job)
        if workflow is None:
            return Edits()
        try:
            await content.whole()
        except ContentBrokenError:
            return Edits()  # reading it tells what is wrong
        return await asyncio.to_thread(content.with_workflow, workflow)
