"""The calls to Comfy Cloud's HTTP API, with typed answers and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Unpack
from urllib.parse import quote

import structlog
from yarl import URL

from proxy.cloud.account_client import AccountClient, ClientOptions
from proxy.cloud.answers import (
    CATALOG,
    DETAIL,
    Answer,
    Submission,
    asset_name,
    detail_of,
    extra_data_of,
    file_of,
    next_page,
    object_bytes,
    page_with,
    status_only,
    submission_of,
    uploaded_name,
)
from proxy.cloud.billing import CloudBilling
from proxy.cloud.calls import JSON, CloudCall, SentFile
from proxy.cloud.errors import (
    GATEWAY_STATUSES,
    CloudAmbiguous,
    CloudError,
    CloudGarbage,
    CloudRefused,
    CloudUnreachable,
)
from proxy.cloud.event_socket import EventSocket, Timeouts
from proxy.cloud.marks import MARK, JobList, MarkedJobs, id_by_mark
from proxy.cloud.observer import Observer
from proxy.cloud.upstream import Capabilities, Known, Prompt
from proxy.logging import public_word
from proxy.translate import codec
from proxy.translate.assets import CloudAsset, of_cloud
from proxy.translate.media_types import kind
from proxy.translate.names import annotate
from proxy.translate.plans import AccountPlan
from proxy.translate.snapshots import Snapshot, from_job
from proxy.translate.trace_context import trace_headers

log = structlog.get_logger(__name__)

#: Entries of a page of `GET /api/jobs` (the cloud allows 1000), and the maximum number of pages.
_PAGE_SIZE, _MAX_PAGES = 200, 25

#: Assets of a page of a job's assets (the maximum of the cloud), and the maximum in all pages.
_ASSETS_PAGE_SIZE, _MAX_ASSETS = 500, 10_000

#: Maximum number of concurrent requests for details of jobs.
_MAX_CONCURRENT_DETAILS = 8

#: Timeout of the catalog, about 9 MB, in seconds.
_CATALOG_TIMEOUT = 120.0


#: Statuses with which the cloud refuses assets, or those of this form.
_NO_ASSETS = frozenset({400, 404, 405, 415, 422, 501})


class CloudClient(AccountClient):
    """The calls of one account to Comfy Cloud: an `Upstream`."""

    capabilities = Capabilities()
    #: Optional calls are made aside.
    aside_timeout = 10.0
    observes_aside = False

    def __init__(self, base_url: URL, key: str, **options: Unpack[ClientOptions]) -> None:
        super().__init__(base_url, key, **options)
        self.billing = CloudBilling(self.aside)
        self.documents = self
        self._marked = MarkedJobs(lambda since: self._listed((), since), self.extra_data)
        self._submit = self.http.call("POST", "prompt")
        self._details = asyncio.Semaphore(_MAX_CONCURRENT_DETAILS)

    def content(self, cloud_name: str, type_: str) -> CloudCall:
        """Return the call for a file."""
        return self.http.call("GET", "view", query={"filename": cloud_name, "type": type_})

    @property
    def may_repeat(self) -> bool:
        """Whether the cloud was seen to make no second job with the same id."""
        facts = self.observations.facts
        again = facts.get("prompt_id_again")
        return facts.get("prompt_id") == "honoured" and again in ("refused", "the same job")

    def _wanted_id(self, mark: str) -> str | None:
        """Return the id that the job with this mark is to have on the cloud, `None` unless the
        cloud was seen to honour such ids."""
        honoured = self.observations.facts.get("prompt_id") == "honoured"
        return id_by_mark(mark) if honoured and mark else None

    async def submit(self, prompt: Prompt) -> Submission:
        """Send `POST /api/prompt` once.

        Raises `CloudUnreachable` if nothing was sent, `CloudAmbiguous` if the job may exist (also
        if only a gateway answered, or the answer cannot be read or does not name a job),
        `CloudRefused` otherwise; a 200 with an `error` counts as a 400. A cancelled call is
        ambiguous too. Where the cloud honours ids, a refusal of one that has been sent `again` may
        mean that the job is there.
        """
        wanted = self._wanted_id(prompt.mark)
        body: dict[str, Any] = {"prompt": prompt.prompt, "extra_data": prompt.extra_data}
        if prompt.mark:
            body["extra_data"] = {**prompt.extra_data, MARK: prompt.mark}
        if prompt.partial_execution_targets is not None:
            body["partial_execution_targets"] = prompt.partial_execution_targets
        if wanted is not None:
            body["prompt_id"] = wanted
        try:
            submission = await self._send_prompt(body, trace_headers(prompt.trace))
        except CloudRefused:
            if prompt.again and wanted is not None and await self._has(wanted):
                return Submission(wanted, {})
            raise
        if wanted not in (None, submission.cloud_id):
            self.observations.learn("prompt_id", "minted")
        return submission

    async def _has(self, cloud_id: str) -> bool:
        """Return whether the account has a job. Raises `CloudAmbiguous` if it cannot be read."""
        try:
            return await self.job(cloud_id) is not None
        except CloudError as error:
            raise CloudAmbiguous(str(error)) from None

    async def _send_prompt(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Submission:
        try:
            return await self.http.read(
                self._submit,
                submission_of,
                data=codec.dump_bytes(body),
                headers={**JSON, **headers},
                max_attempts=1,
            )
        except (CloudUnreachable, CloudRefused, CloudGarbage) as error:
            unsent = isinstance(error, CloudUnreachable) and not error.sent
            refused = isinstance(error, CloudRefused) and error.status not in GATEWAY_STATUSES
            if unsent or refused:
                raise
            raise CloudAmbiguous(str(error)) from None

    def events(self, observer: Observer, timeouts: Timeouts) -> EventSocket:
        """Return the event socket of the account, which carries the events of all its jobs."""
        return EventSocket(
            self.http.addresses,
            self.http.key.text,
            observer,
            timeouts=timeouts,
            observations=self.observations,
            recovery=lambda: self.http.gate.recovery,
        )

    async def find(self, mark: str, known: Known, *, since: int) -> str | None:
        """Return the id of the job with this mark, `None` if there is none. Raises `CloudTruncated`
        if the list is cut off before that is known.

        Where the cloud honours ids, one look tells of a job that is there.
        """
        wanted = self._wanted_id(mark)
        if wanted is not None and await self.job(wanted) is not None:
            return wanted
        return await self._marked.find(mark, known, since)

    async def live(self, cloud_ids: Collection[str]) -> list[Snapshot]:
        """Return all jobs of the account that have not ended, newest first."""
        return (await self._listed(("pending", "in_progress"), None, max_attempts=2)).jobs

    async def job(self, cloud_id: str, *, max_attempts: int | None = None) -> Snapshot | None:
        """Return `GET /api/jobs/{id}`, `None` if the cloud has no such job."""
        async with self._details:
            detail = await self.http.lookup(
                "jobs/{id}", detail_of, DETAIL, max_attempts=max_attempts, id=cloud_id
            )
        return None if detail is None else self._snapshot({**detail, "id": cloud_id})

    async def extra_data(self, cloud_id: str) -> dict[str, Any] | None:
        """Return the short values of the `extra_data` of a job, `None` if the cloud does not have
        it."""
        async with self._details:
            return await self.http.lookup("jobs/{id}", extra_data_of, DETAIL, id=cloud_id)

    async def jobs(
        self, statuses: Iterable[str] = (), *, since: int | None = None
    ) -> list[Snapshot]:
        """Return the jobs of `GET /api/jobs`, newest first, up to `_MAX_PAGES` pages.

        `statuses` are those that the cloud shows to users; none means all. Pages are read until one
        has a job that was created before `since` (ms since 1970).
        """
        return (await self._listed(statuses, since)).jobs

    async def _listed(
        self, statuses: Iterable[str], since: int | None, *, max_attempts: int | None = None
    ) -> JobList:
        found: dict[str, Snapshot] = {}
        query: dict[str, Any] = {
            "sort_by": "create_time",
            "sort_order": "desc",
            "limit": _PAGE_SIZE,
        }
        if named := ",".join(statuses):
            query["status"] = named
        offset, is_whole = 0, True
        for _ in range(_MAX_PAGES):
            call = self.http.call("GET", "jobs", query=query)
            parse = partial(page_with, "jobs")
            page = await self.http.read(call, parse, max_attempts=max_attempts)
            entries = page["jobs"]
            known = len(found)
            for entry in entries:
                if isinstance(entry, dict) and "id" in entry:
                    found.setdefault(str(entry["id"]), self._snapshot(entry))
                else:
                    self.observations.add_anomaly("job", "without id", entry)
            offset += len(entries)
            next_query = next_page(page, offset)
            if not next_query or _reaches(found, since):
                break
            if len(found) == known:  # the pages repeat themselves
                is_whole = len(entries) < _PAGE_SIZE
                break
            query.pop("offset", None)
            query |= next_query
        else:
            is_whole = False
            log.warning("job_list_truncated", entries=len(found))
        return JobList(list(found.values()), is_whole)

    async def job_assets(self, cloud_id: str) -> list[CloudAsset]:
        """Return all pages of `GET /api/jobs/{id}/assets`, nothing if there is no such job."""
        found: list[CloudAsset] = []
        read = 0
        while True:
            query = {"limit": _ASSETS_PAGE_SIZE, "offset": read}
            parse = partial(page_with, "assets")
            page = await self.http.lookup("jobs/{id}/assets", parse, id=cloud_id, query=query)
            if page is None:
                return found
            items = page["assets"]
            read += len(items)
            found += [
                asset for item in items if isinstance(item, dict) and (asset := of_cloud(item))
            ]
            pagination = page.get("pagination")
            more = isinstance(pagination, dict) and pagination.get("has_more") is True
            if not more or not items or read >= _MAX_ASSETS:
                return found

    def _snapshot(self, job: dict[str, Any]) -> Snapshot:
        snapshot = from_job(job)
        for name in snapshot.unlisted:
            value = job.get(name)
            form = public_word(str(value)) if name == "status" else type(value).__name__
            self.observations.add_anomaly("job", f"{name} {form}", job)
        return snapshot

    async def cancel(self, cloud_id: str) -> bool:
        """Send `POST /api/jobs/{id}/cancel`. Return whether this cancelled the job."""
        try:
            cancelled, attempts = await self.http.read(
                self.http.call("POST", "jobs/{id}/cancel", id=cloud_id),
                # `true`, or a list of ids
                lambda answer: (bool(answer.object().get("cancelled")), answer.attempts),
            )
        except CloudRefused as error:
            if error.status == 400:
                return False
            raise  # a 404 as well: a job that has just been taken may not be known yet
        if cancelled or attempts == 1:
            return cancelled
        job = await self.job(cloud_id)
        return job is not None and job.status == "cancelled"

    async def holds(self, cloud_name: str) -> bool:
        """Return that an upload is still there."""
        return True

    def reference(self, cloud_name: str, type_: str) -> str:
        """Return the name of a file as loaders read it, with its folder."""
        return annotate(cloud_name, type_)

    async def upload(
        self,
        path: Path,
        *,
        hash_: str,
        filename: str,
        content_type: str,
        picture: bool,
    ) -> str:
        """Send a file in the way in which its loaders find it. Return the cloud's name of it.

        Pictures are sent as uploads, everything else as assets, or as uploads if the cloud refuses
        assets.
        """
        if not picture or kind(filename) in ("audio", "video"):
            try:
                return await self.upload_asset(path, filename=filename, content_type=content_type)
            except CloudRefused as error:
                if error.status not in _NO_ASSETS:
                    raise
                log.info("asset_refused", status=error.status)
        return await self.upload_image(path, filename=filename, content_type=content_type)

    async def upload_image(self, path: Path, *, filename: str, content_type: str) -> str:
        """Send a file to `POST /api/upload/image`. Return the cloud's name of it.

        The name is used unchanged in graphs and in `download`. Repeatable: equal bytes get the same
        name.
        """
        # Without `type=input` the cloud's uploads would be of the type `output`.
        file = SentFile(path, "image", filename, content_type)
        call = self.http.call("POST", "upload/image")
        return await self.http.send_file(call, uploaded_name, {"type": "input"}, file)

    async def upload_asset(self, path: Path, *, filename: str, content_type: str) -> str:
        """Send a file to `POST /api/assets` as an input; otherwise as `upload_image`.

        The loaders of files that are not pictures find them only if they were uploaded this way.
        """
        fields = {"tags": '["input"]', "name": filename, "mime_type": content_type}
        file = SentFile(path, "file", filename, content_type)
        call = self.http.call("POST", "assets")
        return await self.http.send_file(call, partial(asset_name, filename), fields, file)

    async def object_info(self) -> bytes:
        """Return the body of `GET /api/object_info`, a JSON object of about 9 MB.

        Without its parameter the models that the account has imported would be missing.
        """
        call = self.http.call("GET", "object_info", query={"include_user_models": "true"})
        return await self.http.read(call, object_bytes, total=_CATALOG_TIMEOUT, limits=CATALOG)

    async def model_folders(self) -> list[dict[str, Any]]:
        """Return `[{"name", "folders"}]` of `GET /api/experiment/models`."""
        return await self.http.read(self.http.call("GET", "experiment/models"), Answer.objects)

    async def models(self, folder: str) -> list[dict[str, Any]] | None:
        """Return `[{"name", "pathIndex"}]` of `GET /api/experiment/models/{folder}`, `None` on
        404."""
        route = "experiment/models/{folder}"
        return await self.http.lookup(route, Answer.objects, folder=folder)

    async def model_preview(self, folder: str, index: int, file: str) -> tuple[bytes, str] | None:
        """Return a model's picture and its media type, `None` on 404."""
        path = (folder, str(index), *file.split("/"))
        return await self.http.lookup("experiment/models/preview/{path}", file_of, path=path)

    async def template_picture(self, name: str) -> tuple[bytes, str] | None:
        """Return a file of the web app (`GET /templates/{name}`) and its media type, `None` on
        404."""
        url = self.base_url.joinpath("templates", quote(name, safe=""), encoded=True)
        return await self.http.found(CloudCall("GET", url), file_of)

    async def global_subgraphs(self) -> dict[str, Any]:
        """Return `{id: {"source", "name", "info"}}` of `GET /api/global_subgraphs`."""
        return await self.http.read(self.http.call("GET", "global_subgraphs"), Answer.object)

    async def global_subgraph(self, id_: str) -> dict[str, Any] | None:
        """Return a subgraph with its `data` (`GET /api/global_subgraphs/{id}`), `None` on 404."""
        return await self.http.lookup("global_subgraphs/{id}", Answer.object, id=id_)

    async def node_replacements(self) -> dict[str, Any]:
        """Return `{old class: [{"new_node_id", …}]}` of `GET /api/node_replacements`."""
        return await self.http.read(self.http.call("GET", "node_replacements"), Answer.object)

    async def check_key(self) -> None:
        """Check the key and its plan. Raises `CloudError`."""
        await self.user()
        await self.plan()

    async def account_plan(self) -> AccountPlan:
        """Return what the cloud reports of the account's plan. Never raises."""
        return await self.billing.plan()

    async def user(self) -> None:
        """Check the key (`GET /api/user`). Raises `CloudUnauthorized` if it does not work."""
        await self.http.read(self.http.call("GET", "user"), status_only, trial=True)

    async def plan(self) -> None:
        """Check the plan (`GET /api/queue`). Raises `CloudRefused` (403) if it has no API access.

        The cloud lets such accounts read `/api/user`, but not their queue or the node list.
        """
        await self.http.read(self.http.call("GET", "queue"), status_only)

    async def system_stats(self) -> dict[str, Any]:
        """Return `GET /api/system_stats`. It needs no key, so that it does not check one."""
        return await self.http.read(self.http.call("GET", "system_stats"), Answer.object)


def _reaches(found: dict[str, Snapshot], since: int | None) -> bool:
    """Return whether the last of these jobs was created before `since`."""
    if since is None:
        return False
    created = next(reversed(found.values())).create_time
    return created is not None and created < since
