"""`object_info` and the model lists, answered from a copy that is kept fresh."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import structlog

from proxy.catalog import node_classes
from proxy.catalog.extras import Extras
from proxy.catalog.node_classes import Bodies, Body, Coding, Listing, Nodes
from proxy.catalog.source import Accounts, CachedResource
from proxy.translate import codec, release
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: The folder of the copies in 0.1.0.
_FORMER_FOLDER = "catalogue"

#: How long a renewal is waited for, in seconds.
RENEWAL = 10.0

#: Model folders that ComfyUI leaves out of `GET /experiment/models`.
_NOT_MODELS = frozenset({"configs", "custom_nodes"})

#: The folders that every ComfyUI has; those that the cloud lacks are empty ones.
_STANDARD_FOLDERS = (
    *("checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models"),
    *("clip_vision", "style_models", "embeddings", "diffusers", "vae_approx", "controlnet"),
    *("gligen", "upscale_models", "custom_nodes", "hypernetworks", "photomaker", "classifiers"),
    *("model_patches", "audio_encoders"),
)


class Catalog:
    """The catalog of one cloud, with a copy in `folder`.

    What is older than `max_age` (seconds) is fetched again while the old is still served. The
    answers raise `LocalError` (503) as long as there is neither a copy nor the cloud. `helpers`
    gives the classes that the proxy runs itself beside the cloud's.
    """

    def __init__(
        self,
        accounts: Accounts,
        folder: Path,
        *,
        max_age: float,
        helpers: node_classes.Offer | None = None,
    ) -> None:
        self._accounts = accounts
        self._folder = folder
        self._max_age = max_age
        self._nodes: CachedResource[Nodes] = CachedResource(
            "node catalog",
            folder / "object_info.json",
            lambda: accounts.ask(lambda cloud: cloud.object_info()),
            lambda body: node_classes.read(body, helpers),
            max_age=max_age,
        )
        self._bodies = Bodies()
        self._folders: CachedResource[list[dict[str, Any]]] = CachedResource(
            "list of model folders",
            folder / "model_folders.json",
            self._fetch_folders,
            _read_list,
            max_age=max_age,
        )
        self._models: dict[str, CachedResource[list[dict[str, Any]]]] = {}
        #: What clients could do without.
        self.extras = Extras(accounts, folder, max_age=max_age)
        self._warming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Drop the copy of another cloud, and begin to load without waiting for it."""
        await asyncio.to_thread(_claim, self._folder, str(self._accounts.base_url))
        self._warming = asyncio.create_task(self._warm(), name="load the catalog")

    async def close(self) -> None:
        """Stop fetching."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        kept = [one.close() for one in (self._nodes, self._folders, self._bodies, self.extras)]
        await asyncio.gather(*kept, *(models.close() for models in self._models.values()))

    async def _warm(self) -> None:
        with contextlib.suppress(LocalError):
            await self._nodes.get()

    async def wait_loaded(self, timeout: float) -> bool:  # noqa: ASYNC109 (a question, not a bound)
        """Wait until the node classes are there, at most `timeout` seconds. Says whether they are.

        Does not wait for a catalog that is not available.
        """
        if self._nodes.value is None and self._warming is not None:
            await asyncio.wait([self._warming], timeout=timeout)
        return self._nodes.value is not None

    async def renewed(self, age: float) -> bool:
        """Fetch the node classes again if they are older than `age` (seconds).

        Says whether they are others now. Waits at most a few seconds; what takes longer is there
        the next time.
        """
        return await self._nodes.renewed(age, patience=RENEWAL)

    # --- node classes ----------------------------------------------------------------------

    def known(self, name: str) -> dict[str, Any] | None:
        """A node class without waiting; `None` if there is none or nothing is loaded yet."""
        loaded = self._nodes.value
        return None if loaded is None else loaded.get(name)

    @property
    def emulated(self) -> frozenset[str]:
        """The classes that the proxy runs itself, empty while nothing is loaded."""
        loaded = self._nodes.value
        return frozenset() if loaded is None else loaded.helpers

    async def node_class(self, name: str) -> dict[str, Any] | None:
        """A node class."""
        return (await self._nodes.get()).get(name)

    async def classes(self) -> Mapping[str, dict[str, Any]]:
        """All node classes; each is parsed when it is looked at."""
        return await self._nodes.get()

    async def object_info(self, files: Listing, coding: Coding = "identity") -> Body:
        """The body of `GET /object_info` for a member whose input folder holds `files`."""
        return await self._bodies.get((await self._nodes.get()).whole, files, coding)

    async def node_class_json(self, name: str, files: Listing) -> bytes:
        """The body of `GET /object_info/{class}`: `{}` for a class that there is not."""
        return (await self._nodes.get()).one_json(name, files)

    # --- models ----------------------------------------------------------------------------

    async def model_folders(self) -> list[str]:
        """The names of the model folders."""
        return [str(folder["name"]) for folder in await self._all_folders()]

    async def model_folders_in_detail(self) -> list[dict[str, Any]]:
        """`[{"name", "folders", "extensions"}]`, models alone."""
        return [
            {**one, "extensions": one.get("extensions", release.model_extensions(one["name"]))}
            for one in await self._all_folders()
            if one["name"] not in _NOT_MODELS
        ]

    async def _all_folders(self) -> list[dict[str, Any]]:
        listed = await self._folders.get()
        known = {folder["name"] for folder in listed}
        empty = [{"name": one, "folders": [one]} for one in _STANDARD_FOLDERS if one not in known]
        return [*listed, *empty]

    async def models(self, folder: str) -> list[str] | None:
        """The names of a folder's models, in order; `None` for an unknown folder."""
        models = await self.models_in_detail(folder)
        return None if models is None else sorted(model["name"] for model in models)

    async def models_in_detail(self, folder: str) -> list[dict[str, Any]] | None:
        """`[{"name", "pathIndex", "modified", "created", "size"}]`; the cloud tells no times."""
        if folder not in {one["name"] for one in await self._folders.get()}:
            return [] if folder in _STANDARD_FOLDERS else None
        kept = self._models.get(folder)
        if kept is None:
            kept = self._models[folder] = CachedResource(
                f"list of {folder}",
                self._folder / f"models-{quote(folder, safe='')}.json",
                lambda: self._fetch_models(folder),
                _read_list,
                max_age=self._max_age,
            )
        unknown = {"pathIndex": 0, "modified": 0.0, "created": 0.0, "size": 0}
        return [{**unknown, **model} for model in await kept.get()]

    async def embeddings(self) -> list[str]:
        """The names of the embeddings, without extension."""
        return [_without_suffix(name) for name in await self.models("embeddings") or []]

    async def _fetch_folders(self) -> bytes:
        return codec.dump_bytes(await self._accounts.ask(lambda cloud: cloud.model_folders()))

    async def _fetch_models(self, folder: str) -> bytes:
        models = await self._accounts.ask(lambda cloud: cloud.models(folder))
        return codec.dump_bytes(models or [])


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
    if not folder.exists():
        with contextlib.suppress(OSError):  # as a rule there is none
            folder.with_name(_FORMER_FOLDER).rename(folder)
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
