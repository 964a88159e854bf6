"""A deployment of Comfy: own nodes and models behind an address that speaks API v2."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Unpack

import structlog
from cachetools import LRUCache
from yarl import URL

from proxy.cloud.account_client import AccountClient, ClientOptions
from proxy.cloud.answers import DETAIL, Answer, Submission, job_id_of, status_only
from proxy.cloud.calls import JSON, CloudApi, CloudCall
from proxy.cloud.errors import (
    CloudAmbiguous,
    CloudError,
    CloudFilesGone,
    CloudGarbage,
    CloudRefused,
    CloudUnreachable,
    refusal,
)
from proxy.cloud.event_socket import Timeouts
from proxy.cloud.observer import Observer
from proxy.cloud.upstream import Capabilities, Known, Prompt
from proxy.cloud.v2.catalog import NodeList
from proxy.cloud.v2.readings import JobReadings
from proxy.cloud.v2.releases import Releases
from proxy.cloud.v2.streams import JobStreams
from proxy.cloud.v2.uploads import DeploymentUploads
from proxy.translate import codec
from proxy.translate.assets import CloudAsset
from proxy.translate.errors import WITHOUT_NODES
from proxy.translate.plans import AccountPlan
from proxy.translate.reading import field_of, objects_of
from proxy.translate.snapshots import Snapshot
from proxy.translate.trace_context import trace_headers
from proxy.translate.v2.assets import asset_id, reference
from proxy.translate.v2.classes import of_deployment
from proxy.translate.v2.submissions import (
    LABEL,
    MAX_BODY_BYTES,
    body_of,
    code_of,
    id_by_mark,
    lost,
    refusal_of,
    too_large,
)

log = structlog.get_logger(__name__)

#: API v2, which reads a key in no other header.
API_V2 = CloudApi(
    {
        "v2/jobs": "POST",
        "v2/jobs/{id}": "GET",
        "v2/jobs/{id}/events": "GET",
        "v2/jobs/{id}/cancel": "POST",
        "v2/assets": "POST",
        "v2/assets/from-hash": "POST",
        "v2/assets/{id}": "GET",
        "v2/assets/{id}/content": "GET",
    },
    lambda key: {"Authorization": f"Bearer {key}"},
)

#: Seconds between two readings of live jobs, at most: a stream may hang open although its job is
#: over.
_READ_INTERVAL = 5.0
#: Of how many jobs it is remembered that the deployment has received them, and that they have no
#: label.
_REMEMBERED = 1000
#: Entries of the list in which a lost job is looked for; they are those with its label, if the
#: deployment knows labels.
_LISTED = 20

#: Seconds before each look for a job that the deployment has received.
_LOOKS = (0.0, 0.5, 1.0, 2.0, 4.0)

_NO_LABELS = frozenset({"metadata_not_supported", "metadata_invalid"})


class DeploymentClient(AccountClient):
    """The calls of one account to the deployment at `base_url`: an `Upstream`.

    `nodes` are its classes. Job links are not followed: the key goes to this address alone.
    """

    capabilities = Capabilities(
        max_read_interval=_READ_INTERVAL,
        validates=False,
        tells_values=False,
        keeps_outputs=False,
        reads_outputs=False,
        writes_workflows=False,
        any_input=False,
        idempotent=True,
    )
    documents = None
    #: An `Idempotency-Key` is taken once.
    may_repeat = True
    api = API_V2

    def __init__(
        self, base_url: URL, key: str, nodes: NodeList, **options: Unpack[ClientOptions]
    ) -> None:
        super().__init__(base_url, key, **options)
        self.title = f"The deployment {self.observations.account}".rstrip()
        self.http.title = self.aside.title = self.title
        self._nodes = nodes
        self.uploads = DeploymentUploads(self.http)
        self.releases = Releases(self.observations, nodes)
        self._streams: JobStreams | None = None
        self._readings = JobReadings(
            self.http, self.downloads, self.releases, lambda: self._streams
        )
        self._reused: LRUCache[str, bool] = LRUCache(_REMEMBERED)
        self._unlabelled: LRUCache[str, bool] = LRUCache(_REMEMBERED)

    async def check_key(self) -> None:
        """Ask for a list of jobs. A deployment that has none accepts the key, too."""
        call = self.http.call("GET", "v2/jobs", query={"limit": 1})
        try:
            await self.http.read(call, status_only, trial=True)
        except CloudRefused as error:
            if error.status not in (404, 405, 501) and not _has_no_list(error):
                raise

    async def account_plan(self) -> AccountPlan:
        """Return no plan, since a deployment has none, but what to do about its list of nodes."""
        return AccountPlan(notice=self.unusable or await self.releases.notice())

    # --- submission ------------------------------------------------------------------------

    async def submit(self, prompt: Prompt) -> Submission:
        """Send `POST /api/v2/jobs` once, with a key by which it is never run twice.

        It has a label by which it is found again, unless the deployment refuses that: then it is
        sent once more without. Raises `CloudAmbiguous` after an answer of a server that is not
        certain, and for a key that was taken before; `CloudFilesGone` if an input is no longer
        there.
        """
        if self.unusable:
            about = {"error": {"type": WITHOUT_NODES, "message": self.unusable}}
            raise refusal(self.http.call("POST", "v2/jobs"), 422, about, None)
        graph, outputs = prompt.prompt, prompt.partial_execution_targets
        label = id_by_mark(prompt.mark, "label")
        try:
            return await self._submit(prompt, body_of(graph, prompt.extra_data, outputs, label))
        except CloudRefused as error:
            if not _refuses_labels(error):
                raise _explained(error) from None
        # The key is released by the refusal. The next job has a label again: nothing tells when a
        # deployment begins to take them, and without one a job cannot be found.
        self._unlabelled[prompt.mark] = True
        try:
            return await self._submit(prompt, body_of(graph, prompt.extra_data, outputs, None))
        except CloudRefused as error:
            raise _explained(error) from None

    async def _submit(self, prompt: Prompt, body: Mapping[str, Any]) -> Submission:
        call, data = self.http.call("POST", "v2/jobs"), codec.dump_bytes(body)
        if len(data) > MAX_BODY_BYTES:
            raise refusal(call, 413, too_large(len(data)), None)
        headers = {
            **JSON,
            "Idempotency-Key": id_by_mark(prompt.mark, "attempt"),
            **trace_headers(prompt.trace),
        }
        try:
            job = await self.http.read(
                call, Answer.object, data=data, headers=headers, max_attempts=1
            )
            if not (id_ := job_id_of(job.get("id"))):
                raise CloudGarbage(f"{call}: no id in the answer")
        except CloudRefused as error:
            if error.status >= 500:
                raise CloudAmbiguous(str(error)) from None
            if code_of(error.body) == "idempotency_key_reuse":
                self._reused[prompt.mark] = True
                raise CloudAmbiguous(str(error), refused=refusal(call, 422, lost(), None)) from None
            if code_of(error.body) == "missing_asset":
                self.uploads.forget()
                raise CloudFilesGone(str(error), error.status, error.body) from None
            raise
        except CloudUnreachable as error:
            if not error.sent:
                raise
            raise CloudAmbiguous(str(error)) from None
        except CloudGarbage as error:
            raise CloudAmbiguous(str(error)) from None
        self.releases.learn(job)
        return Submission(id_, {})

    async def find(self, mark: str, known: Known, *, since: int) -> str | None:
        """Return the id of the job with this label, `None` if there is none, or no list by labels.

        Where the deployment has said that it received the job, it is looked for several times.
        """
        del since  # the list is asked for the label
        waits = _LOOKS if mark in self._reused else (0.0,)
        for wait in waits:
            await asyncio.sleep(wait)
            if mark in self._unlabelled:
                return None
            if (cloud_id := await self._find(id_by_mark(mark, "label"), known)) is not None:
                return cloud_id
        return None

    async def _find(self, label: str, known: Known) -> str | None:
        """Look once. A gateway may forget labels and ignore the filter: each entry is looked
        at."""
        query: dict[str, str | int] = {f"metadata[{LABEL}]": label, "limit": _LISTED}
        call = self.http.call("GET", "v2/jobs", query=query)
        try:
            page = await self.http.read(call, Answer.object, limits=DETAIL)
        except CloudRefused as error:
            if error.status in (404, 405, 501) or _has_no_list(error):
                return None
            raise
        labelled = [item for item in objects_of(page.get("jobs")) if _label_of(item) == label]
        found = [str(item.get("id") or "") for item in labelled]
        others = await known(found)
        return next((id_ for id_ in found if id_ and id_ not in others), None)

    async def cancel(self, cloud_id: str) -> bool:
        """Send `POST /api/v2/jobs/{id}/cancel`. Return whether the job ends by it."""
        call = self.http.call("POST", "v2/jobs/{id}/cancel", id=cloud_id)
        self._readings.cancelled(cloud_id)  # the end may be read before the answer, or instead
        try:
            job = await self.http.read(call, Answer.object)
        except CloudRefused as error:
            if error.status in (400, 409):
                return False
            raise  # a 404 as well: a job that has just been taken may not be known yet
        return job.get("status") not in ("succeeded", "failed")

    # --- following -------------------------------------------------------------------------

    def events(self, observer: Observer, timeouts: Timeouts) -> JobStreams:
        """Return the streams of the account's jobs."""
        del timeouts
        self._streams = JobStreams(self.aside, self._readings.read, observer)
        return self._streams

    async def job(self, cloud_id: str, *, max_attempts: int | None = None) -> Snapshot | None:
        """Return `GET /api/v2/jobs/{id}`, `None` if there is no such job, or no longer."""
        return await self._readings.read(cloud_id, max_attempts)

    async def live(self, cloud_ids: Collection[str]) -> list[Snapshot]:
        """Return those of the jobs that have not ended, each from a call of its own. Raises
        `CloudError` if none can be read."""
        calls = (self._readings.read(cloud_id, max_attempts=2) for cloud_id in cloud_ids)
        read = await asyncio.gather(*calls, return_exceptions=True)
        failed = [result for result in read if isinstance(result, BaseException)]
        for error in failed:
            if len(failed) == len(read) or not isinstance(error, CloudError):
                raise error
        return [job for job in read if isinstance(job, Snapshot) and not job.ended]

    # --- files and nodes -------------------------------------------------------------------

    def content(self, cloud_name: str, type_: str) -> CloudCall:
        """Return the call for a file, whose folder does not matter."""
        del type_
        return self.http.call("GET", "v2/assets/{id}/content", id=asset_id(cloud_name))

    async def holds(self, cloud_name: str) -> bool:
        """Return whether an input is still there."""
        return await self.uploads.holds(cloud_name)

    def reference(self, cloud_name: str, type_: str) -> dict[str, Any]:
        """Return the object by which a graph refers to an asset."""
        del type_
        return reference(cloud_name)

    async def upload(
        self, path: Path, *, hash_: str, filename: str, content_type: str, picture: bool
    ) -> str:
        """Store a file as an input, without its bytes if the platform has them."""
        del picture
        return await self.uploads.store(path, hash_, filename, content_type)

    async def job_assets(self, cloud_id: str) -> list[CloudAsset]:
        """Return nothing: the outputs are fetched at once, and their hashes are known then."""
        del cloud_id
        return []

    async def object_info(self) -> bytes:
        """Return the node classes, from the user's file or ComfyUI.

        Without its file the account takes no jobs: it would charge for what it does not have.
        """
        try:
            classes = await self._object_info()
        except CloudError as error:
            if isinstance(self._nodes.place, Path):
                self.unusable = f"The list of nodes cannot be read ({error}): save it again."
            raise
        self.unusable = ""
        return classes

    async def _object_info(self) -> bytes:
        body = await self._nodes.read()
        try:
            return await asyncio.to_thread(of_deployment, body)
        except ValueError as error:
            raise CloudGarbage(f"{self._nodes.place}: {error}") from None


def _explained(error: CloudRefused) -> CloudRefused:
    """Return a refusal with what it means."""
    body = refusal_of(error.status, error.body)
    if body is error.body:
        return error
    return type(error)(str(error), error.status, body, error.retry_after)


def _has_no_list(error: CloudError) -> bool:
    return isinstance(error, CloudRefused) and code_of(error.body) == "public_deployment_no_list"


def _refuses_labels(error: CloudRefused) -> bool:
    """Return whether a refusal is about the labels; comfy-api-proxy has no code of its own for
    that."""
    code = code_of(error.body)
    return code in _NO_LABELS or (code == "invalid_request" and "'metadata'" in str(error))


def _label_of(item: Mapping[str, Any]) -> object:
    return field_of(item, "metadata", LABEL)
