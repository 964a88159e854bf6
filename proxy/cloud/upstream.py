"""What an upstream is: where the jobs of one account run, whichever API it speaks.

`CloudClient` (v1) is Comfy Cloud, `DeploymentClient` (v2) a deployment. Engine, files and catalog
know this protocol only: where upstreams differ they ask for a capability, never for the kind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from msgspec import Struct
from yarl import URL

from proxy.cloud.answers import Submission
from proxy.cloud.contact import Contact
from proxy.cloud.downloads import Download
from proxy.cloud.event_socket import Timeouts
from proxy.cloud.observations import AccountObservations
from proxy.cloud.observer import Observer
from proxy.translate.assets import CloudAsset
from proxy.translate.plans import AccountPlan
from proxy.translate.snapshots import Snapshot

#: Returns those of some ids on the cloud that are of other jobs of ours.
Known: TypeAlias = Callable[[Collection[str]], Awaitable[Collection[str]]]


class Capabilities(Struct, frozen=True):
    """What an upstream can tell and take beyond the protocol; by default all that v1 does.

    Its live jobs are read at least every `max_read_interval` seconds, also while events come. With
    `validates` it refuses a graph with unknown classes before anything is charged. With
    `tells_values` it reports what output nodes deliver that is neither a file nor a text. With
    `keeps_outputs` outputs stay there for as long as a history does, else they are downloaded at
    once. With `reads_outputs` a graph may name an output of another job as an input, else it is
    uploaded. With `writes_workflows` the workflow of a client is in the files that its nodes write.
    Names of files are looked for in `any_input` of a graph, else in those that the catalog calls
    inputs for files alone, which must be files of the member then. An `idempotent` one takes a
    submission once by its mark: without an answer it is sent there again, and nowhere else.
    """

    max_read_interval: float = float("inf")
    validates: bool = True
    tells_values: bool = True
    keeps_outputs: bool = True
    reads_outputs: bool = True
    writes_workflows: bool = True
    any_input: bool = True
    idempotent: bool = False


class Prompt(Struct, frozen=True):
    """A submission. `prompt` is the graph; the job is found again by its `mark`, which is unique.
    With `again` it has been sent before, and the answer was lost or passing."""

    prompt: dict[str, Any]
    extra_data: dict[str, Any]
    partial_execution_targets: Sequence[str] | None = None
    mark: str = ""
    trace: str = ""
    again: bool = False


class EventFeed(Protocol):
    """The observations of an account's jobs."""

    @property
    def connected(self) -> bool:
        """Whether events come, as far as is known."""

    @property
    def refused(self) -> int | None:
        """The HTTP status with which events were refused, or `None`."""

    async def start(self) -> None:
        """Begin to observe, without waiting for it. May follow a `close`."""

    async def close(self) -> None:
        """Observe no longer."""

    async def use_key(self, key: str) -> None:
        """Go on with another key."""

    async def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until events would come. Return whether they do."""

    def follow(self, cloud_id: str, graph: Mapping[str, Any]) -> None:
        """Observe a job that runs a graph."""

    def leave(self, cloud_id: str) -> None:
        """Observe a job no longer."""


class CloudDocuments(Protocol):
    """What a catalog has beside the node classes. Calls may raise `CloudError`."""

    async def model_folders(self) -> list[dict[str, Any]]:
        """Return `[{"name", "folders"}]`."""

    async def models(self, folder: str) -> list[dict[str, Any]] | None:
        """Return `[{"name", "pathIndex"}]` of a folder, `None` if there is none."""

    async def model_preview(self, folder: str, index: int, file: str) -> tuple[bytes, str] | None:
        """Return a model's picture and its media type, `None` if there is none."""

    async def template_picture(self, name: str) -> tuple[bytes, str] | None:
        """Return a picture of a template and its media type, `None` if there is none."""

    async def global_subgraphs(self) -> dict[str, Any]:
        """Return `{id: {"source", "name", "info"}}`."""

    async def global_subgraph(self, id_: str) -> dict[str, Any] | None:
        """Return a subgraph with its `data`, `None` if there is none."""

    async def node_replacements(self) -> dict[str, Any]:
        """Return `{old class: [{"new_node_id", …}]}`."""


class Upstream(Protocol):
    """Where the jobs of one account run. Calls may raise `CloudError`."""

    @property
    def base_url(self) -> URL:
        """Its address."""

    @property
    def contact(self) -> Contact:
        """Whether it answers."""

    @property
    def observations(self) -> AccountObservations:
        """What was learned of it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can tell and take."""

    @property
    def documents(self) -> CloudDocuments | None:
        """What its catalog has beside the node classes, `None` if it does not tell."""

    async def start(self) -> None:
        """Open the sessions. No call is made."""

    async def close(self) -> None:
        """Close all connections."""

    def use_key(self, key: str) -> None:
        """Use another key from the next call on."""

    @property
    def title(self) -> str:
        """What sentences to people call it, at their beginning."""

    @property
    def unusable(self) -> str:
        """Why the account can take no jobs, whatever it answers; empty if it can."""

    @property
    def may_repeat(self) -> bool:
        """Whether the same submission again makes no second job."""

    async def check_key(self) -> None:
        """Raise `CloudUnauthorized` if the key does not work, `CloudRefused` (403) if it gives no
        access."""

    async def account_plan(self) -> AccountPlan:
        """Return what is known of the account's plan; fields may be empty. Never raises."""

    async def submit(self, prompt: Prompt) -> Submission:
        """Send a job once.

        Raises `CloudUnreachable` if nothing was sent, `CloudAmbiguous` if the job may exist,
        `CloudRefused` otherwise.
        """

    def events(self, observer: Observer, timeouts: Timeouts) -> EventFeed:
        """Return what observes the jobs of the account, not yet started."""

    async def job(self, cloud_id: str, *, max_attempts: int | None = None) -> Snapshot | None:
        """Return a job with all that is known of it, `None` if there is no such job; the call is
        repeated, up to `max_attempts`."""

    async def live(self, cloud_ids: Collection[str]) -> list[Snapshot]:
        """Return those of these jobs that have not ended, oldest last; others may be among them.
        One call that fails twice fails the whole."""

    async def find(self, mark: str, known: Known, *, since: int) -> str | None:
        """Return the id of the job with this mark, `None` if there is none. `known` tells which
        ids it cannot have; it was not sent before `since` (ms since 1970, by the proxy's clock)."""

    async def cancel(self, cloud_id: str) -> bool:
        """End a job. Return whether this cancelled it."""

    async def holds(self, cloud_name: str) -> bool:
        """Return whether an input is still stored under this name."""

    def reference(self, cloud_name: str, type_: str) -> object:
        """Return what a graph has in the place of the name of a file in a folder."""

    async def upload(
        self, path: Path, *, hash_: str, filename: str, content_type: str, picture: bool
    ) -> str:
        """Store a file as an input. Return the upstream's name of it. Repeatable."""

    async def job_assets(self, cloud_id: str) -> list[CloudAsset]:
        """Return the files of a job with their hashes, as far as these are listed."""

    def download(
        self, cloud_name: str, type_: str, offset: int = 0
    ) -> AbstractAsyncContextManager[Download]:
        """Open the bytes of a file from `offset` on."""

    async def object_info(self) -> bytes:
        """Return the node classes as `GET /object_info` has them: a JSON object."""
