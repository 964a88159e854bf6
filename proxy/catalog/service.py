"""Node classes and model lists, from a copy that is refreshed regularly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from proxy.catalog.bodies import Bodies, Body, Coding, Whole
from proxy.catalog.documents import Documents
from proxy.catalog.extras import CatalogExtras
from proxy.catalog.file_lists import Listing
from proxy.catalog.node_classes import Nodes, Offer, read
from proxy.catalog.node_lists import EMPTY, NodeLists
from proxy.catalog.owners import (
    LOADERS,
    Merging,
    Needs,
    Owners,
    joined,
    models_in,
    needs_of,
    split_owners,
)
from proxy.catalog.source import Accounts, CachedResource
from proxy.members.rates import Buckets
from proxy.runtime import clock
from proxy.runtime.shared_work import SharedWork
from proxy.runtime.waits import stop
from proxy.translate import codec, model_extensions
from proxy.translate.errors import LocalError
from proxy.translate.graph_shape import class_of
from proxy.translate.reading import field_of
from proxy.translate.shapes import Shapes

#: Seconds in which the copy of the node classes is read after the start.
COPY_TIMEOUT = 1.0
#: Maximum seconds that a request waits for the node classes to be fetched again.
REFRESH_TIMEOUT = 10.0

#: Model folders that ComfyUI leaves out of `GET /experiment/models`.
_NOT_MODELS = frozenset({"configs", "custom_nodes"})

#: The folders that every ComfyUI has; those that the cloud lacks are listed as empty.
_STANDARD_FOLDERS = (
    *("checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models"),
    *("clip_vision", "style_models", "embeddings", "diffusers", "vae_approx", "controlnet"),
    *("gligen", "upscale_models", "custom_nodes", "hypernetworks", "photomaker", "classifiers"),
    *("model_patches", "audio_encoders"),
)


_NOT_LOADED = Nodes({})

#: The fields of a model that the cloud does not report.
_UNKNOWN: Mapping[str, Any] = {"pathIndex": 0, "modified": 0.0, "created": 0.0, "size": 0}

#: How often a member may cause the catalog to be fetched again at once, and the seconds until they
#: may do so once more: each time costs about 9 MB from each account.
REREADS, REREAD_INTERVAL = 5, 20.0

#: Maximum number of cached views of the catalog, one for each set of accounts.
MAX_VIEWS = 8


class Catalog:
    """The catalog of one cloud, with a copy in `folder`.

    What is older than `max_age` (seconds; an hour, since Comfy Cloud adds nodes and models a few
    times a week, and the list takes 9 MB) is still served while it is fetched again. Without a copy
    and without the cloud, methods raise `LocalError` (503), or return nothing where clients can do
    without. `pack_classes` returns the classes of node packs to add to the cloud's. `allowed`
    returns the accounts that a member may use: a member sees what these have. Lists that are files
    are looked at every `list_interval` seconds.
    """

    def __init__(
        self,
        accounts: Accounts,
        folder: Path,
        *,
        max_age: float = 3600.0,
        pack_classes: Offer | None = None,
        allowed: Callable[[str], frozenset[str]] | None = None,
        list_interval: float = 2.0,
    ) -> None:
        self._accounts = accounts
        self._allowed = allowed
        self._seen: SharedWork[tuple[Whole, frozenset[str]], Nodes] = SharedWork(MAX_VIEWS)
        self._is_complete = True
        self._rereads = Buckets(1 / REREAD_INTERVAL, REREADS)
        self._documents = Documents(accounts, folder, max_age=max_age)
        self._lists = NodeLists(accounts.lists, accounts.named, interval=list_interval)
        self._nodes: CachedResource[Nodes] = self._documents.open(
            "list of node classes",
            "object_info",
            self._fetch_nodes,
            lambda body: read(body, pack_classes, self._lists.split_owners),
            instead=EMPTY,
        )
        self._bodies = Bodies()
        self._folders = self._documents.objects(
            "list of model folders", "model_folders", lambda cloud: cloud.model_folders()
        )
        self._models: dict[str, CachedResource[list[dict[str, Any]]]] = {}
        #: Subgraphs, node replacements and pictures.
        self.extras = CatalogExtras(accounts, self._documents, max_age=max_age)
        self._loading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Remove the copy of other accounts, read the lists that are files, and start to load the
        others without waiting."""
        await self._documents.start()
        await self._lists.start()
        self._loading = asyncio.create_task(self._load(), name="load the catalog")

    async def close(self) -> None:
        """Stop fetching."""
        await stop(self._loading)
        await asyncio.gather(
            *(part.close() for part in (self._documents, self.extras, self._bodies, self._seen))
        )

    async def _load(self) -> None:
        with contextlib.suppress(LocalError):
            await self._nodes.get()

    async def follow_lists(self) -> None:
        """Take each list that is a file when it has changed, until cancelled."""
        async with contextlib.aclosing(self._lists.changes()) as changes:
            async for _ in changes:
                await self._nodes.rebuild()

    async def wait_loaded(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the node classes are loaded. Return whether they are.

        Return at once if the first attempt to load them has failed.
        """
        if self._nodes.value is None and self._loading is not None:
            await asyncio.wait([self._loading], timeout=timeout)
        return self._nodes.value is not None

    async def fetched(self, timeout: float) -> bool:
        """Fetch the node classes if they never were, for up to `timeout` seconds, also where the
        first attempt has failed. Return whether they were."""
        return await self._nodes.fetched(timeout=timeout)

    async def load(self, timeout: float) -> bool:
        """Fetch the node classes if there are none, for up to `timeout` seconds. Return whether
        they are loaded."""
        if self._nodes.value is None:
            await self._nodes.renew(0, timeout=timeout)
        return self._nodes.value is not None

    async def _fetch_nodes(self) -> bytes:
        """Return the classes of all accounts whose list is no file in one body, unchanged if the
        bodies are equal. The files are read as well."""
        await self._lists.read()
        names = self._lists.others
        if self._accounts.named and not names:
            self._is_complete = not self._lists.problems
            return EMPTY
        bodies = await self._accounts.ask_each(names, lambda cloud: cloud.object_info())
        missing = [name for name in names if name not in bodies]
        self._is_complete = not (self._lists.problems or missing)
        known = self.nodes.owners
        if len(set(bodies.values())) == 1 and not (missing and known):
            return next(iter(bodies.values()))
        return await asyncio.to_thread(_merged, bodies, missing, known)

    async def reread(self, member: str) -> bool:
        """Fetch the node classes now, because a member names something that they lack.

        Return whether they were read from every account after this call began. One call of the
        cloud decides for all who wait; those that a member causes are limited by `REREADS`.
        """

        def may_fetch() -> bool:
            return self._rereads.spend(member, clock.monotonic()) <= 0

        read = await self._nodes.reread(timeout=REFRESH_TIMEOUT, may_fetch=may_fetch)
        return read and self._is_complete

    async def renew(self, age: float) -> bool:
        """Fetch the node classes again if they are older than `age` (seconds).

        Return whether they have changed. Waits up to `REFRESH_TIMEOUT`; a slower fetch continues in
        the background.
        """
        return await self._nodes.renew(age, timeout=REFRESH_TIMEOUT)

    # --- node classes ----------------------------------------------------------------------

    @property
    def nodes(self) -> Nodes:
        """The node classes of all accounts, none before the load."""
        return _NOT_LOADED if self._nodes.value is None else self._nodes.value

    def known(self, name: str) -> dict[str, Any] | None:
        """Return a node class without waiting, `None` if it is unknown or nothing is loaded yet."""
        return self.nodes.get(name)

    async def shapes(self, member: str) -> Shapes:
        """Return what a member's graph is checked against; no class is known before the load."""
        return (await self._seen_by(self.nodes, member)).shape

    def needs_of(self, graph: Mapping[str, Any]) -> Needs | None:
        """Return what a graph needs of its account, `None` if every account has everything, as far
        as is known.

        A graph with a class that none has goes to accounts that check it before they charge.
        """
        owners, own = self.nodes.owners, self.nodes.pack_classes
        if not own.isdisjoint(owners):  # core nodes take the place of these
            graph = {id_: node for id_, node in graph.items() if class_of(node) not in own}
        needs = needs_of(graph, owners) if owners else None
        if len(self._accounts.named) < 2 or (name := self.unknown_class(graph)) is None:
            return needs
        named = self._accounts.named.items()
        checked = frozenset(name for name, cloud in named if cloud.capabilities.validates)
        if needs is not None:
            checked &= needs.accounts
        return needs if len(checked) in (0, len(named)) else Needs(checked, name)

    def unknown_class(self, graph: Mapping[str, Any]) -> str | None:
        """Return the first class of a graph that no account has, as far as is known."""
        nodes = self.nodes
        for node in graph.values():
            class_type = field_of(node, "class_type")
            if class_type not in nodes:
                return str(class_type)
        return None

    def allowed(self, member: str) -> frozenset[str]:
        """Return the accounts that a member may use."""
        return frozenset() if self._allowed is None else self._allowed(member)

    def reads_uploads_alone(self, member: str, needs: Needs | None) -> bool:
        """Return whether every account that may run a graph has no files but those of members."""
        able = frozenset(self._accounts.named)
        if self._allowed is not None:
            able &= self._allowed(member)
        if needs is not None:
            able &= needs.accounts
        named = [self._accounts.named[name].capabilities for name in able]
        return bool(named) and not any(capabilities.any_input for capabilities in named)

    async def _seen_by(self, nodes: Nodes, member: str) -> Nodes:
        """Return the classes and choices of the accounts that a member may use."""
        if self._allowed is None or not nodes.owners:
            return nodes
        allowed = self._allowed(member)
        key = nodes.whole, allowed
        return await self._seen.get(key, lambda: asyncio.to_thread(nodes.seen_by, allowed))

    async def node_class(self, name: str) -> dict[str, Any] | None:
        """Return a node class, `None` if it is unknown."""
        return (await self._nodes.get()).get(name)

    async def classes(self, member: str) -> Nodes:
        """Return all node classes that a member sees; each is parsed when it is read."""
        return await self._seen_by(await self._nodes.get(), member)

    async def object_info(self, member: str, files: Listing, coding: Coding = "identity") -> Body:
        """Return the body of `GET /object_info` for a member whose input folder has `files`."""
        return await self._bodies.get((await self.classes(member)).whole, files, coding)

    async def node_class_json(self, member: str, name: str, files: Listing) -> bytes:
        """Return the body of `GET /object_info/{class}`: `{}` for an unknown class."""
        return (await self.classes(member)).one_json(name, files)

    # --- models ----------------------------------------------------------------------------

    async def model_folders(self) -> list[str]:
        """Return the names of the model folders."""
        return [str(folder["name"]) for folder in await self._all_folders()]

    async def model_folders_in_detail(self) -> list[dict[str, Any]]:
        """Return `[{"name", "folders", "extensions"}]` of the folders that contain models."""
        return [
            {**folder, "extensions": folder.get("extensions", model_extensions(folder["name"]))}
            for folder in await self._all_folders()
            if folder["name"] not in _NOT_MODELS
        ]

    async def _all_folders(self) -> list[dict[str, Any]]:
        listed = await self._listed_by_cloud(self._folders)
        known = {folder["name"] for folder in listed}
        missing = [name for name in _STANDARD_FOLDERS if name not in known]
        return [*listed, *({"name": name, "folders": [name]} for name in missing)]

    async def models(self, member: str, folder: str) -> list[str] | None:
        """Return the sorted names of a folder's models, `None` for an unknown folder."""
        models = await self.models_in_detail(member, folder)
        return None if models is None else sorted(model["name"] for model in models)

    async def models_in_detail(self, member: str, folder: str) -> list[dict[str, Any]] | None:
        """Return `[{"name", "pathIndex", "modified", "created", "size"}]`, `None` for an unknown
        folder; the cloud reports no times and sizes.

        The cloud's lists may lack the models that an account has imported, which are in the choices
        of the loaders. Models of accounts that the member may not use are left out.
        """
        listed = await self._listed(folder)
        if listed is None and folder not in _STANDARD_FOLDERS:
            return None
        try:
            nodes = await self.classes(member)
        except LocalError:
            return listed or []
        offered = models_in(nodes, folder)
        owned = {
            model
            for name, input_ in LOADERS.get(folder, ())
            for model in self.nodes.owners.get(name, {}).get(input_, {})
        }
        hidden = owned - set(offered)
        shown = [model for model in listed or () if model["name"] not in hidden]
        known = {model["name"] for model in shown}
        return [*shown, *({"name": name, **_UNKNOWN} for name in offered if name not in known)]

    async def _listed(self, folder: str) -> list[dict[str, Any]] | None:
        """Return the cloud's list of a folder, `None` for an unknown one."""
        folders = await self._listed_by_cloud(self._folders)
        if folder not in {known["name"] for known in folders}:
            return None
        models = self._models.get(folder)
        if models is None:
            models = self._models[folder] = self._documents.objects(
                f"list of {folder}",
                f"models-{quote(folder, safe='')}",
                lambda cloud: cloud.models(folder),
            )
        return [{**_UNKNOWN, **model} for model in await self._listed_by_cloud(models)]

    async def _listed_by_cloud(
        self, document: CachedResource[list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Return a list of the cloud, which is empty if the cloud does not give it and the node
        classes are known: these have the models, too.

        The web interface then opens, and cannot use an error in the place of a list.
        """
        try:
            return await document.get()
        except LocalError:
            if not await self.wait_loaded(COPY_TIMEOUT):
                raise
            return []

    async def embeddings(self, member: str) -> list[str]:
        """Return the names of the embeddings, without extension."""
        names = await self.models(member, "embeddings") or []
        return [name.removesuffix(PurePosixPath(name).suffix) for name in names]


def _merged(bodies: Mapping[str, bytes], missing: Iterable[str], known: Owners) -> bytes:
    """Merge the catalogs of several accounts; for those that are missing, use what is known."""
    merging = Merging()
    for name, body in bodies.items():
        merging.add(name, split_owners(body)[0])
    for name in missing:
        merging.keep(name, known)
    return codec.dump_bytes(joined(merging.classes, merging.owners))
