"""The files that graphs name: whose they are, and what an account calls them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from proxy.files.input_directory import ON_DISK
from proxy.files.namespace import Namespace
from proxy.files.uploads import Uploads
from proxy.storage.file_tables import FileRecord
from proxy.translate import jobs, names
from proxy.translate.errors import LocalError, invalid_outputs
from proxy.translate.file_inputs import is_asset
from proxy.translate.names import Place
from proxy.translate.shapes import Shapes

T = TypeVar("T")

#: Maximum number of names of one query.
_MAX_LOOKUPS = 2_000
#: Maximum values of a graph that is searched on the event loop, which takes a few ms.
_MAX_VALUES_INLINE = 5_000


def _parts(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield values in parts of one query each, at least one part."""
    rest = list(values)
    for start in range(0, max(1, len(rest)), _MAX_LOOKUPS):
        yield rest[start : start + _MAX_LOOKUPS]


def _names_in(
    strings: Iterable[str], place_of: Callable[[str], Place | None]
) -> tuple[dict[str, Place], dict[str, str]]:
    """Return the places by the strings that may be file names, and the hashes by those that are."""
    places = {text: place for text in strings if (place := place_of(text))}
    hashes = {text: names.split_annotated(text)[0] for text in strings if names.is_hash_name(text)}
    return places, hashes


async def _run(work: Callable[[], T], *, large: bool) -> T:
    """Run work whose length depends on a graph: in a thread if that is `large`."""
    return await asyncio.to_thread(work) if large else work()


def _check_references(graph: Mapping[str, Any]) -> None:
    """Raise `LocalError` for a graph that refers to a file by an id: it may be another member's."""
    if any(map(is_asset, jobs.values_in(graph))):
        raise LocalError(
            "file_reference_refused",
            "The workflow refers to a file by the id of an asset: name a file that you have "
            "uploaded.",
        )


@dataclass(frozen=True)
class GraphFiles:
    """Finds the files of graphs in the `namespace`, and sends them as `uploads`."""

    namespace: Namespace
    uploads: Uploads

    async def substitute(
        self,
        member: str,
        graph: dict[str, Any],
        *,
        shapes: Shapes,
        account: str,
        job: str,
    ) -> dict[str, Any]:
        """Return the graph with the account's names of files, and send missing files to it.

        `shapes` gives the node classes. The graph's own names are stored for the events of the
        `job`. Raises `LocalError` (424 if a file is not available from its account, otherwise the
        refusal of this account), `StorageError`.
        """
        large = jobs.has_more_values(graph, _MAX_VALUES_INLINE)
        any_input = self.uploads.any_input(account)
        if not any_input:
            await _run(partial(_check_references, graph), large=large)
        elif not large and not jobs.file_strings(graph, shapes):
            return graph
        return await self._renamed(
            member, graph, any_input, shapes=shapes, account=account, job=job, large=large
        )

    async def _renamed(
        self,
        member: str,
        graph: dict[str, Any],
        any_input: bool,
        *,
        shapes: Shapes,
        account: str,
        job: str,
        large: bool,
    ) -> dict[str, Any]:
        """Return a graph that may name files as `substitute`; a `large` one takes threads."""
        places: dict[Place, None] = {}

        async def substituted(cloud_name: Callable[[Place], Any]) -> dict[str, Any]:
            return await _run(
                partial(
                    jobs.substitute,
                    graph,
                    shapes=shapes,
                    cloud_name=cloud_name,
                    place_of=partial(self.namespace.written_place, member),
                    any_input=any_input,
                ),
                large=large,
            )

        await substituted(lambda place: places.setdefault(place))
        named: dict[Place, FileRecord] = {}
        for part in _parts(places):
            named |= await self.namespace.get_many(member, part)
        if not any_input:
            place_of = self.namespace.written_place
            work = partial(
                jobs.missing_files, graph, shapes, lambda text: place_of(member, text) in named
            )
            if node_errors := await _run(work, large=large):
                raise invalid_outputs(node_errors)
        sent = graph
        if named:
            await self.uploads.ensure_sent(named.values(), account)
            on_disk = {
                place: record for place, record in named.items() if record.account == ON_DISK
            }
            named = {**await self.namespace.get_many(member, named), **on_disk}
            cloud_names = {
                place: await self.uploads.name_at(record, account)
                for place, record in named.items()
            }
            sent = await substituted(cloud_names.get)
        written = await _run(partial(jobs.written_names, graph, sent), large=large)
        await self.namespace.put_written_names(member, job, written)
        return sent

    async def owned(
        self, member: str, strings: Collection[str], *, private: bool
    ) -> Callable[[str], bool]:
        """Return a function that says whether one of these strings names a file of the member.

        With `private` a cloud name counts only if the member has the file.
        """
        few = len(strings) <= _MAX_LOOKUPS
        place_of = partial(self.namespace.written_place, member)
        if few:
            places, hashes = _names_in(strings, place_of)
        else:
            places, hashes = await asyncio.to_thread(_names_in, strings, place_of)
        found: dict[Place, FileRecord] = {}
        for part in _parts(places.values()):
            found |= await self.namespace.get_many(member, part)
        known: dict[str, str] = {}
        for words in _parts(hashes.values() if private else ()):
            known |= await self.namespace.local_names(member, words)

        def owns(text: str) -> bool:
            if places.get(text) in found:
                return True
            return text in hashes and (not private or hashes[text] in known)

        return owns
