"""Node classes, model lists and what goes beside, answered from a copy that is kept fresh."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import quote

import structlog
from cachetools import LRUCache

from proxy.catalog.node_classes import (
    Bodies,
    Body,
    Coding,
    Listing,
    Slot,
    Template,
    Whole,
    fill,
    lists_files,
    template,
)
from proxy.catalog.owners import (
    LOADERS,
    Merging,
    Owners,
    accounts_for,
    hidden_from,
    joined,
    models_in,
    parted,
    without,
)
from proxy.catalog.source import Accounts, CachedResource, Picture, PictureCache
from proxy.translate import NODE_FIELDS, codec, model_extensions
from proxy.translate.errors import LocalError
from proxy.translate.shapes import Shape, shape_of

if TYPE_CHECKING:
    from proxy.cloud.client import CloudClient

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: What an account is asked, with an answer of JSON; `None` where the cloud has nothing.
Question: TypeAlias = "Callable[[CloudClient], Awaitable[Any]]"

#: How long a renewal is waited for, in seconds.
RENEWAL = 10.0

#: Pictures of templates that are fetched at once.
AT_ONCE = 6

#: Model folders that ComfyUI leaves out of `GET /experiment/models`.
_NOT_MODELS = frozenset({"configs", "custom_nodes"})

#: The folders that every ComfyUI has; those that the cloud lacks are empty ones.
_STANDARD_FOLDERS = (
    *("checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models"),
    *("clip_vision", "style_models", "embeddings", "diffusers", "vae_approx", "controlnet"),
    *("gligen", "upscale_models", "custom_nodes", "hypernetworks", "photomaker", "classifiers"),
    *("model_patches", "audio_encoders"),
)


#: What the cloud does not tell of a model.
_UNKNOWN: Mapping[str, Any] = {"pathIndex": 0, "modified": 0.0, "created": 0.0, "size": 0}

#: A member may cause the catalog to be read again so often at once, and then once in an interval
#: (seconds): each time costs about 9 MB from each account.
REREADS, REREAD_INTERVAL = 5, 20.0

#: Sets of accounts whose view of the catalog is kept.
VIEWS = 8

#: Gives the classes that stand beside the cloud's.
Offer = Callable[[Mapping[str, Any]], Mapping[str, Any]]

#: Classes whose parsed entries, and those whose shapes, are remembered.
_REMEMBERED = 512


class Nodes(Mapping[str, dict[str, Any]]):
    """All node classes; a class is parsed when it is asked for.

    `whole` gives the bodies of `GET /object_info`. `helpers` are the classes that the proxy runs
    itself, which stand behind or instead of the cloud's. `owners` says what not every account has.
    """

    def __init__(
        self,
        classes: Mapping[str, Any],
        helpers: Mapping[str, Any] | None = None,
        owners: Owners | None = None,
    ) -> None:
        self.helpers = frozenset(helpers or ())
        self.owners = owners or {}
        self._json: dict[str, bytes] = {}
        self._templates: dict[str, Template] = {}
        for name, info in {**classes, **(helpers or {})}.items():
            if isinstance(info, dict):
                missing = {field: NODE_FIELDS[field] for field in NODE_FIELDS if field not in info}
                self._json[name] = codec.dump_bytes({**info, **missing})
                if lists_files(info):
                    self._templates[name] = template(self._json[name])
        self.whole = Whole(self._parts())
        entries, remembered = self._json, lru_cache(_REMEMBERED)
        parsed: Callable[[str], dict[str, Any]] = remembered(
            lambda name: codec.loads(entries[name])
        )
        self._parsed = parsed
        self._shapes = remembered(lambda name: shape_of(name, parsed(name)))

    def seen_by(self, accounts: frozenset[str]) -> Nodes:
        """The same without what none of these accounts has. Takes some 100 ms if that is much."""
        hidden = hidden_from(self.owners, accounts)
        if not hidden:
            return self
        shown: dict[str, Any] = {}
        for name in self:
            if "" not in hidden.get(name, {}):
                info = self[name]
                shown[name] = without(info, hidden[name]) if name in hidden else info
        seen = Nodes(shown)
        seen.helpers = self.helpers
        return seen

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._parsed(name)

    def shape(self, name: str) -> Shape | None:
        """What a graph is checked against; `None` for a class that there is not."""
        return self._shapes(name) if name in self._json else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    def __contains__(self, name: object) -> bool:
        return name in self._json

    def one_json(self, name: str, files: Listing) -> bytes:
        """The body of `GET /object_info/{class}`: `{}` for a class that there is not."""
        if name not in self._json:
            return b"{}"
        return b"{" + _key(name) + fill(self._template(name), files) + b"}"

    def _template(self, name: str) -> Template:
        return self._templates.get(name) or (self._json[name],)

    def _parts(self) -> Iterator[bytes | Slot]:
        before = b"{"
        for name in self._json:
            yield before + _key(name)
            yield from self._template(name)
            before = b", "
        yield b"}" if self._json else b"{}"


def read(body: bytes, helpers: Offer | None = None) -> Nodes:
    """Take the cloud's `object_info` apart. Raises `ValueError` when it is none.

    `helpers` gives the classes that the proxy runs itself beside the cloud's.
    """
    classes, owners = parted(body)
    return Nodes(classes, None if helpers is None else helpers(classes), owners)


def _key(name: str) -> bytes:
    return codec.dump_bytes(name) + b": "


class Catalog:
    """The catalog of one cloud, with a copy in `folder`.

    What is older than `max_age` (seconds) is fetched again while the old is still served. The
    answers raise `LocalError` (503) as long as there is neither a copy nor the cloud; what clients
    can do without is empty then. `helpers` gives the classes that the proxy runs itself beside the
    cloud's. `allowed` names the accounts that a member may use: it sees what these have.
    """

    def __init__(
        self,
        accounts: Accounts,
        folder: Path,
        *,
        max_age: float,
        helpers: Offer | None = None,
        allowed: Callable[[str], frozenset[str]] | None = None,
    ) -> None:
        self._accounts = accounts
        self._allowed = allowed
        self._seen: LRUCache[tuple[Whole, frozenset[str]], asyncio.Task[Nodes]] = LRUCache(VIEWS)
        self._is_complete = True
        self._budgets: LRUCache[str, Allowance] = LRUCache(_REMEMBERED)
        self._folder = folder
        self._max_age = max_age
        self._nodes: CachedResource[Nodes] = CachedResource(
            "node catalog",
            folder / "object_info.json",
            self._fetch_nodes,
            lambda body: read(body, helpers),
            max_age=max_age,
        )
        self._bodies = Bodies()
        self._cached: list[CachedResource[Any]] = [self._nodes]
        self._folders = self._list(
            "list of model folders", "model_folders", lambda cloud: cloud.model_folders()
        )
        self._models: dict[str, CachedResource[list[dict[str, Any]]]] = {}
        self._subgraphs = self._object(
            "list of subgraphs", "subgraphs", lambda cloud: cloud.global_subgraphs()
        )
        self._contents: dict[str, CachedResource[dict[str, Any]]] = {}
        self._replacements = self._object(
            "list of node replacements",
            "node_replacements",
            lambda cloud: cloud.node_replacements(),
        )
        self._pictures = PictureCache(self._ask_for_picture, max_age=max_age)
        self._of_templates = PictureCache(self._ask_for_template, max_age=max_age)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._warming: asyncio.Task[None] | None = None

    def _list(
        self, what: str, name: str, question: Question
    ) -> CachedResource[list[dict[str, Any]]]:
        return self._resource(what, name, question, _read_list, [])

    def _object(self, what: str, name: str, question: Question) -> CachedResource[dict[str, Any]]:
        return self._resource(what, name, question, _read_object, {})

    def _resource(
        self, what: str, name: str, question: Question, read: Callable[[bytes], T], empty: T
    ) -> CachedResource[T]:
        async def fetch() -> bytes:
            return codec.dump_bytes(await self._accounts.ask(question) or empty)

        path = self._folder / f"{name}.json"
        cached = CachedResource(what, path, fetch, read, max_age=self._max_age)
        self._cached.append(cached)
        return cached

    async def start(self) -> None:
        """Drop the copy of another cloud, and begin to load without waiting for it."""
        await asyncio.to_thread(_claim, self._folder, str(self._accounts.base_url))
        self._warming = asyncio.create_task(self._warm(), name="load the catalog")

    async def close(self) -> None:
        """Stop fetching."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await asyncio.gather(
            *(one.close() for one in self._cached),
            *(one.close() for one in (self._pictures, self._of_templates)),
            self._bodies.close(),
        )

    async def _warm(self) -> None:
        with contextlib.suppress(LocalError):
            await self._nodes.get()

    async def wait_loaded(self, timeout: float) -> bool:
        """Wait until the node classes are there, at most `timeout` seconds. Says whether they are.

        Does not wait for a catalog that is not available.
        """
        if self._nodes.value is None and self._warming is not None:
            await asyncio.wait([self._warming], timeout=timeout)
        return self._nodes.value is not None

    async def load(self, timeout: float) -> bool:
        """Say whether the node classes are there; fetch them if not, waiting up to `timeout`."""
        if self._nodes.value is None:
            await self._nodes.renewed(0, timeout=timeout)
        return self._nodes.value is not None

    async def _fetch_nodes(self) -> bytes:
        """The classes of all accounts in one body; of one account, or of equal ones, as it came."""
        accounts = self._accounts
        if len(accounts.named) < 2:
            return await accounts.ask(lambda cloud: cloud.object_info())
        bodies = await accounts.ask_each(lambda cloud: cloud.object_info())
        self._is_complete = len(bodies) == len(accounts.named)
        known = None if self._nodes.value is None else self._nodes.value.owners
        if len(set(bodies.values())) == 1 and (self._is_complete or not known):
            return next(iter(bodies.values()))
        missing = [name for name in accounts.named if name not in bodies]
        return await asyncio.to_thread(_merged, bodies, missing, known or {})

    async def reread(self, member: str) -> bool:
        """Fetch the node classes now, because a member names something that they lack.

        Says whether what there is was read from every account after this call began. A member can
        cause this so often only.
        """
        allowance = self._budgets.setdefault(member, Allowance(time.monotonic()))
        if not allowance.take(time.monotonic()):
            return False
        return await self._nodes.reread(timeout=RENEWAL) and self._is_complete

    async def renewed(self, age: float) -> bool:
        """Fetch the node classes again if they are older than `age` (seconds).

        Says whether they are others now. Waits at most a few seconds; what takes longer is there
        the next time.
        """
        return await self._nodes.renewed(age, timeout=RENEWAL)

    # --- node classes ----------------------------------------------------------------------

    def known(self, name: str) -> dict[str, Any] | None:
        """A node class without waiting; `None` if there is none or nothing is loaded yet."""
        loaded = self._nodes.value
        return None if loaded is None else loaded.get(name)

    async def shapes(self, member: str) -> Callable[[str], Shape | None]:
        """What a member's graph is checked against; nothing is known while nothing is loaded."""
        loaded = self._nodes.value
        return (lambda _: None) if loaded is None else (await self._seen_by(loaded, member)).shape

    def accounts_for(self, graph: Mapping[str, Any]) -> tuple[frozenset[str], str] | None:
        """The accounts that have all that a graph names, and the first name that not all have;
        `None` if every account has everything, as far as is known."""
        loaded = self._nodes.value
        if loaded is None or not loaded.owners:
            return None
        return accounts_for(graph, loaded.owners)

    def allowed(self, member: str) -> frozenset[str]:
        """The accounts that a member may use."""
        return frozenset() if self._allowed is None else self._allowed(member)

    async def _nodes_of(self, member: str) -> Nodes:
        return await self._seen_by(await self._nodes.get(), member)

    async def _seen_by(self, nodes: Nodes, member: str) -> Nodes:
        """The classes and choices of the accounts that a member may use."""
        if self._allowed is None or not nodes.owners:
            return nodes
        key = nodes.whole, self._allowed(member)
        making = self._seen.get(key)
        if making is None or (making.done() and (making.cancelled() or making.exception())):
            making = asyncio.create_task(asyncio.to_thread(nodes.seen_by, key[1]))
            self._seen[key] = making
        return making.result() if making.done() else await asyncio.shield(making)

    @property
    def emulated(self) -> frozenset[str]:
        """The classes that the proxy runs itself, empty while nothing is loaded."""
        loaded = self._nodes.value
        return frozenset() if loaded is None else loaded.helpers

    async def node_class(self, name: str) -> dict[str, Any] | None:
        """A node class."""
        return (await self._nodes.get()).get(name)

    async def classes(self, member: str) -> Mapping[str, dict[str, Any]]:
        """All node classes that a member sees; each is parsed when it is looked at."""
        return await self._nodes_of(member)

    async def object_info(self, member: str, files: Listing, coding: Coding = "identity") -> Body:
        """The body of `GET /object_info` for a member whose input folder holds `files`."""
        return await self._bodies.get((await self._nodes_of(member)).whole, files, coding)

    async def node_class_json(self, member: str, name: str, files: Listing) -> bytes:
        """The body of `GET /object_info/{class}`: `{}` for a class that there is not."""
        return (await self._nodes_of(member)).one_json(name, files)

    # --- models ----------------------------------------------------------------------------

    async def model_folders(self) -> list[str]:
        """The names of the model folders."""
        return [str(folder["name"]) for folder in await self._all_folders()]

    async def model_folders_in_detail(self) -> list[dict[str, Any]]:
        """`[{"name", "folders", "extensions"}]`, models alone."""
        return [
            {**one, "extensions": one.get("extensions", model_extensions(one["name"]))}
            for one in await self._all_folders()
            if one["name"] not in _NOT_MODELS
        ]

    async def _all_folders(self) -> list[dict[str, Any]]:
        listed = await self._folders.get()
        known = {folder["name"] for folder in listed}
        empty = [{"name": one, "folders": [one]} for one in _STANDARD_FOLDERS if one not in known]
        return [*listed, *empty]

    async def models(self, member: str, folder: str) -> list[str] | None:
        """The names of a folder's models, in order; `None` for an unknown folder."""
        models = await self.models_in_detail(member, folder)
        return None if models is None else sorted(model["name"] for model in models)

    async def models_in_detail(self, member: str, folder: str) -> list[dict[str, Any]] | None:
        """`[{"name", "pathIndex", "modified", "created", "size"}]`; the cloud tells no times.

        The cloud's lists need not have the models of an account's own: those are in the lists of
        the loaders that the member sees. What is in neither list for the member is left out.
        """
        listed = await self._listed(folder)
        if listed is None and folder not in _STANDARD_FOLDERS:
            return None
        try:
            nodes = await self._nodes_of(member)
        except LocalError:
            return listed or []
        offered = models_in(nodes, folder)
        own = {one for one, _ in self._owned(folder)} - set(offered)
        shown = [model for model in listed or () if model["name"] not in own]
        known = {model["name"] for model in shown}
        return [*shown, *({"name": one, **_UNKNOWN} for one in offered if one not in known)]

    def _owned(self, folder: str) -> Iterator[tuple[str, list[str]]]:
        """The models of a folder that not every account has."""
        if (loaded := self._nodes.value) is None:
            return
        for name, input_ in LOADERS.get(folder, ()):
            yield from loaded.owners.get(name, {}).get(input_, {}).items()

    async def _listed(self, folder: str) -> list[dict[str, Any]] | None:
        """The cloud's list of a folder; `None` for one that it does not have."""
        if folder not in {one["name"] for one in await self._folders.get()}:
            return None
        kept = self._models.get(folder)
        if kept is None:
            kept = self._models[folder] = self._list(
                f"list of {folder}",
                f"models-{quote(folder, safe='')}",
                lambda cloud: cloud.models(folder),
            )
        return [{**_UNKNOWN, **model} for model in await kept.get()]

    async def embeddings(self, member: str) -> list[str]:
        """The names of the embeddings, without extension."""
        return [_without_suffix(name) for name in await self.models(member, "embeddings") or []]

    # --- what clients can do without -------------------------------------------------------

    async def subgraphs(self) -> dict[str, Any]:
        """`{id: {"source", "name", "info"}}`, as ComfyUI lists them: without their `data`."""
        return {
            id_: {key: value for key, value in about.items() if key != "data"}
            for id_, about in (await _or_empty(self._subgraphs)).items()
            if isinstance(about, dict)
        }

    async def subgraph(self, id_: str) -> dict[str, Any] | None:
        """One with its `data`; `None` for one that is not listed."""
        about = (await self.subgraphs()).get(id_)
        if about is None:
            return None
        kept = self._contents.get(id_)
        if kept is None:
            kept = self._contents[id_] = self._object(
                f"subgraph {id_}",
                f"subgraph-{quote(id_, safe='')}",
                lambda cloud: cloud.global_subgraph(id_),
            )
        data = (await _or_empty(kept)).get("data")
        return {**about, "data": data} if isinstance(data, str) and data else None

    async def node_replacements(self) -> dict[str, Any]:
        """`{old class: [{"new_node_id", …}]}`."""
        return await _or_empty(self._replacements)

    async def preview(self, folder: str, index: int, file: str) -> Picture | None:
        """A model's picture and its media type."""
        return await self._pictures.get(folder, index, file)

    async def _ask_for_picture(self, folder: str, index: int, file: str) -> Picture | None:
        return await self._accounts.ask(lambda cloud: cloud.model_preview(folder, index, file))

    async def template_picture(self, name: str) -> Picture | None:
        """A picture or sound of a workflow template, and its media type."""
        return await self._of_templates.get(name)

    async def _ask_for_template(self, name: str) -> Picture | None:
        async with self._turns:  # a gallery asks for a hundred
            return await self._accounts.ask(lambda cloud: cloud.template_picture(name))


class Allowance:
    """How often a member may cause the node classes to be fetched: some times at once, then once in
    a while. `now` is any clock in seconds."""

    def __init__(self, now: float) -> None:
        self._left, self._since = float(REREADS), now

    def take(self, now: float) -> bool:
        """Whether it may now; then it has once less."""
        self._left = min(REREADS, self._left + (now - self._since) / REREAD_INTERVAL)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _merged(bodies: Mapping[str, bytes], missing: Iterable[str], known: Owners) -> bytes:
    """The catalogs of several accounts in one; of those that are missing, what is known."""
    merging = Merging()
    for name, body in bodies.items():
        merging.add(name, parted(body)[0])
    for name in missing:
        merging.keep(name, known)
    return codec.dump_bytes(joined(merging.classes, merging.owners))


async def _or_empty(kept: CachedResource[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await kept.get()
    except LocalError:
        return {}


def _read_object(body: bytes) -> dict[str, Any]:
    value = codec.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _read_list(body: bytes) -> list[dict[str, Any]]:
    items = codec.loads(body)
    if not isinstance(items, list):
        raise ValueError("the list is none")
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)]


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return name.removesuffix(path.suffix)


def _claim(folder: Path, base_url: str) -> None:
    """The folder holds the copies of one cloud; what another one left there is removed."""
    mark = folder / "cloud"
    try:
        mine = mark.read_text(encoding="utf-8") == base_url
    except (OSError, ValueError):
        mine = False
    if mine:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for copy in folder.glob("*.json"):
            copy.unlink(missing_ok=True)
        mark.write_text(base_url, encoding="utf-8")
    except OSError as error:
        log.warning("catalog_folder_skipped", error=str(error))
