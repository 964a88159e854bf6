"""API v2 of a simulated deployment, on an origin of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import uuid4

from aiohttp import BodyPartReader, web
from blake3 import blake3
from yarl import URL

from proxy.simulator import media
from proxy.simulator.call import answer
from proxy.simulator.delivery import Listener, reset
from proxy.simulator.deployment.nodes import NODES
from proxy.simulator.deployment.running import DeploymentWorkers
from proxy.simulator.deployment.state import (
    DeploymentAsset,
    DeploymentJob,
    DeploymentSwitches,
    references,
    resolved,
)
from proxy.simulator.faults import Faults
from proxy.simulator.nodes import NodeClass, object_info, standard_nodes
from proxy.simulator.record import Record, RequestRecord, Signal
from proxy.simulator.storage import Storage
from proxy.simulator.switches import Switches
from proxy.simulator.validation import validate
from proxy.translate import codec

#: Bytes of a submission; of a larger one the gateway reads no more than the beginning.
MAX_BODY = 10_000_000

#: Bytes of an upload, about.
_MAX_UPLOAD = 256 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: The loaders whose file a submission must name.
_LOADERS = {"LoadImage": "image", "LoadAudio": "audio", "LoadVideo": "file"}


class ApiError(Exception):
    """Raised for an answer with an error of API v2."""

    def __init__(
        self, status: int, code: str, message: str = "", *, wait: int = 0, details: Any = None
    ) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.wait = status, code, message or code, wait
        self.details = details


class SimulatedDeployment:
    """A deployment: the classes of ComfyUI and of made-up packs, which Comfy Cloud lacks.

        async with SimulatedDeployment() as deployment:
            ...  # deployment.base_url, deployment.key, deployment.object_info

    `switches` may be changed at any time.
    """

    def __init__(
        self,
        *,
        key: str | None = None,
        switches: DeploymentSwitches | None = None,
        extra_nodes: Iterable[NodeClass] = (),
    ) -> None:
        self.key = key or f"comfyui-{uuid4().hex}{uuid4().hex}"
        self.switches = switches or DeploymentSwitches()
        self.nodes = standard_nodes() | {node.name: node for node in (*NODES, *extra_nodes)}
        self.record = Record()
        self.signal = Signal()
        self.storage = Storage(Switches(), Faults(), lambda: [self.key])
        self.workers = DeploymentWorkers(
            self.nodes, self.storage, self.switches, self.signal.notify
        )
        self._keys_used: set[str] = set()
        self._reads: list[float] = []
        self._streams: dict[int, web.Request] = {}

    @cached_property
    def _listener(self) -> Listener:
        return Listener(self._app)

    @property
    def base_url(self) -> URL:
        """The address of the deployment."""
        return self._listener.url

    @property
    def object_info(self) -> bytes:
        """What `GET /object_info` of the install says that the build was made from; the deployment
        does not serve it."""
        return codec.dump_bytes(object_info(self.nodes))

    @property
    def jobs(self) -> dict[str, DeploymentJob]:
        """The jobs by id, the oldest first."""
        return self.workers.jobs

    @property
    def calls(self) -> Counter[str]:
        """How often each route was called."""
        return self.record.calls

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests, oldest first."""
        return list(self.record.requests)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on the port (0: a free one), and with the storage on another. Raises `OSError`."""
        await self._listener.start(host, port)
        await self.storage.start(host)

    async def stop(self) -> None:
        """End all jobs and streams, and release the ports."""
        self.drop_streams()
        await self._listener.stop()
        await self.workers.stop()
        await self.storage.stop()

    async def __aenter__(self) -> SimulatedDeployment:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def drop_streams(self) -> None:
        """Reset every stream."""
        for request in list(self._streams.values()):
            reset(request.transport)

    async def wait_for(self, status: str, count: int = 1, timeout: float = 20.0) -> DeploymentJob:
        """Wait until so many jobs have a status; return the newest of them. Raises
        `TimeoutError`."""

        def having() -> list[DeploymentJob]:
            return [job for job in self.jobs.values() if job.status == status]

        await self.signal.until(lambda: len(having()) >= count, timeout)
        return having()[-1]

    # --- the server ------------------------------------------------------------------------

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_UPLOAD)
        for method, path, handler in (
            ("POST", "/api/v2/jobs", self._submit),
            ("GET", "/api/v2/jobs", self._list),
            ("GET", "/api/v2/jobs/{id}", self._job),
            ("GET", "/api/v2/jobs/{id}/events", self._events),
            ("GET", "/api/v2/jobs/{id}/workflow", self._workflow),
            ("GET", "/api/v2/jobs/{id}/logs", self._logs),
            ("POST", "/api/v2/jobs/{id}/cancel", self._cancel),
            ("POST", "/api/v2/assets", self._upload),
            ("POST", "/api/v2/assets/from-hash", self._from_hash),
            ("HEAD", "/api/v2/assets/by-hash/{hash}", self._by_hash),
            ("GET", "/api/v2/assets/{id}", self._asset),
            ("GET", "/api/v2/assets/{id}/content", self._content),
            ("DELETE", "/api/v2/assets/{id}", self._delete),
        ):
            app.router.add_route(method, path, self._entered(method, path, handler))
        return app

    def _entered(self, method: str, path: str, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            noted = self.record.note(request, f"{method} {path}", [self.key])
            self.signal.notify()
            try:
                if request.headers.get("Authorization") != f"Bearer {self.key}":
                    raise ApiError(401, "unauthorized", "The key is not known here.")
                response = await handler(request)
            except ApiError as error:
                told = {"code": error.code, "message": error.message, "details": error.details}
                body = {"error": told}
                headers = {"Retry-After": str(error.wait)} if error.wait else {}
                response = answer(body, error.status, headers)
            noted.status = response.status
            return response

        return handle

    def _find(self, request: web.Request) -> DeploymentJob:
        job = self.jobs.get(request.match_info["id"])
        if job is None or _age(job.created) > self.switches.job_life:
            raise ApiError(404, "job_not_found", "There is no such job.")
        return job

    def _shown(self, job: DeploymentJob) -> dict[str, Any]:
        position = self.workers.position(job)
        return job.shown("/api/v2", position, progress=self.switches.polled_progress)

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        data = bytearray()
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > MAX_BODY:
                return web.Response(status=413, text="Payload Too Large")
        try:
            body = codec.loads(bytes(data))
        except ValueError:
            raise ApiError(400, "invalid_request", "The body is not JSON.") from None
        key = request.headers.get("Idempotency-Key")
        if key is not None and key in self._keys_used:
            raise ApiError(422, "idempotency_key_reuse", "This key was used before.")
        job = self._accepted(body)
        if key is not None:
            self._keys_used.add(key)
        self.workers.put(job)
        if self.switches.lose_answers:
            self.switches.lose_answers -= 1
            reset(request.transport)
        return answer(self._shown(job), 201)

    def _accepted(self, body: Any) -> DeploymentJob:
        switches = self.switches
        if switches.state == "stopped":
            raise ApiError(422, "deployment_stopped", "The deployment is stopped.")
        if switches.state == "starting":
            raise ApiError(429, "deployment_not_ready", wait=switches.retry_after)
        if not switches.credits:
            raise ApiError(402, "insufficient_credits", "The workspace has no credits.")
        graph = body.get("workflow") if isinstance(body, dict) else None
        if not isinstance(graph, dict) or not graph:
            raise ApiError(422, "invalid_workflow", "There is no workflow.")
        if "nodes" in graph:
            raise ApiError(422, "workflow_format_ui", "Export the workflow in API format.")
        extra_data = body.get("extra_data") or {}
        unknown = not isinstance(extra_data, dict) or extra_data.keys() - {"api_key_comfy_org"}
        if unknown and switches.closed_extra_data:
            raise ApiError(400, "invalid_request", "extra_data has unknown keys.")
        labels = body.get("metadata")
        if labels is not None and not switches.labels:
            raise ApiError(422, "metadata_not_supported", "Labels are not taken here.")
        if len(self.workers.waiting) >= switches.queue_limit:
            raise ApiError(429, "queue_full", wait=switches.retry_after)
        for node in graph.values():
            input_ = _LOADERS.get(str(node.get("class_type")) if isinstance(node, dict) else "")
            if input_ is not None and not node.get("inputs", {}).get(input_):
                raise ApiError(422, "invalid_workflow", f"{input_} is missing.")
        for info in references(graph):
            asset = self.workers.assets.get(str(info.get("id")))
            gone = asset is None or (
                asset.expires is not None and asset.expires < datetime.now(UTC)
            )
            output = asset is not None and asset.job_id is not None
            if gone or (output and not switches.outputs_as_inputs):
                raise ApiError(422, "missing_asset", "An asset is not there.")
        self._check(graph)
        metadata = labels if isinstance(labels, dict) else {}
        return DeploymentJob(graph, extra_data, metadata, switches.release, switches.job_life)

    def _check(self, graph: dict[str, Any]) -> None:
        """Refuse what cannot run at all, where a submission is checked."""
        if self.switches.checks == "nothing":
            return
        names = {str(info.get("id")): "a file" for info in references(graph)}
        checked = resolved(graph, names)
        found = validate(checked, catalog=self.nodes, targets=None, files=lambda _: True)
        if found.error is None:
            return
        errors: dict[str, Any] = dict(found.node_errors)
        if self.switches.checks == "documented":
            errors = {
                node: [
                    {"field": reason["details"], "reason": reason["message"]}
                    for reason in about["errors"]
                ]
                for node, about in errors.items()
            }
        details = {"node_errors": errors}
        raise ApiError(422, "invalid_workflow", str(found.error["message"]), details=details)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if not self.switches.lists:
            raise ApiError(403, "public_deployment_no_list")
        wanted = {
            name[len("metadata[") : -1]: value
            for name, value in request.query.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        found = [
            job.record()
            for job in reversed(self.jobs.values())
            if wanted.items() <= job.metadata.items() or not self.switches.filters
        ]
        return answer({"jobs": found[: int(request.query.get("limit", 20))]})

    async def _job(self, request: web.Request) -> web.StreamResponse:
        limit = self.switches.read_limit
        now = asyncio.get_running_loop().time()
        self._reads = [at for at in self._reads if at > now - 1.0] + [now]
        if limit is not None and len(self._reads) > limit:
            raise ApiError(429, "rate_limited", wait=self.switches.retry_after)
        return answer(self._shown(self._find(request)))

    async def _workflow(self, request: web.Request) -> web.StreamResponse:
        return answer({"workflow": self._find(request).graph, "format": "api"})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        self._find(request)
        return web.Response(status=204)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        self.workers.cancel(job)
        return answer(self._shown(job))

    # --- streams ---------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        if not self.switches.streaming:
            raise ApiError(501, "not_implemented")
        if len(self._streams) >= self.switches.streams:
            raise ApiError(429, "too_many_streams", wait=self.switches.retry_after)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self._streams[id(request)] = request
        try:
            with contextlib.suppress(ConnectionError):
                await self._tell(job, response)
        finally:
            del self._streams[id(request)]
        return response

    async def _tell(self, job: DeploymentJob, response: web.StreamResponse) -> None:
        """Send the present state, then each change, no oftener than `frames` says."""
        sent: dict[str, Any] = {}
        told: set[str] = set()

        async def send(type_: str, data: Any) -> None:
            if sent.get(type_) != data and data is not None:
                sent[type_] = data
                frame = f"event: {type_}\ndata: {codec.dumps(data)}\n\n"
                await response.write(frame.encode())

        async def send_outputs() -> None:
            for output in list(job.outputs):
                if output["id"] not in told:
                    told.add(output["id"])
                    await send("output", output)

        while True:
            version, changed = job.version, job.changed
            if not job.ended:
                await send("status", {"status": job.status})
            await send("progress", job.progress)
            await send("preview", job.preview)
            if not self.switches.outputs_late:
                await send_outputs()
            if job.ended:
                await send("status", {"status": job.status})
                await send_outputs()
                if self.switches.streams_hang:
                    await asyncio.sleep(self.switches.keepalive)
                return
            if version == job.version:
                try:
                    async with asyncio.timeout(self.switches.keepalive):
                        await changed.wait()
                except TimeoutError:
                    await response.write(b": keepalive\n\n")
            await asyncio.sleep(self.switches.frames)

    # --- files -----------------------------------------------------------------------------

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        fields: dict[str, str] = {}
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or part.name is None:
                continue
            if part.name != "file":
                fields[part.name] = (await part.read()).decode()
                continue
            if "content_type" not in fields or "file_path" not in fields:
                raise ApiError(422, "invalid_body", "content_type and file_path come first.")
            data = bytes(await part.read())
            if self.switches.strips_metadata:
                data += b"without metadata"
            digest = blake3(data).hexdigest()
            if fields.get("expected_hash", f"blake3:{digest}") != f"blake3:{digest}":
                raise ApiError(409, "hash_mismatch", "The content has another hash.")
            if len(data) > self.switches.upload_limit:
                return web.Response(status=413, text="Payload Too Large")
            same = (asset for asset in self.workers.assets.values() if asset.digest == digest)
            first = next(same, None)
            known = first is not None
            if first is not None and self.switches.one_record:
                return answer(self._asset_shown(first, created_new=False))
            self.storage.put(f"{digest}-input", data, media.media_type("bin"))
            asset = self._input(digest, len(data), fields["content_type"], fields["file_path"])
            if self.switches.expires_in and "expires_in" in fields:
                asset.expires = asset.created + timedelta(seconds=int(fields["expires_in"]))
            return answer(self._asset_shown(asset, created_new=not known), 200 if known else 201)
        raise ApiError(422, "invalid_body", "There is no file.")

    def _input(self, digest: str, size: int, content_type: str, path: str) -> DeploymentAsset:
        if not path or "/" in path or ".." in path:
            raise ApiError(422, "validation_error", "file_path has an unknown root.")
        life = self.switches.input_life
        expires = None if life is None else datetime.now(UTC) + timedelta(seconds=life)
        asset = DeploymentAsset(f"{digest}-input", digest, size, content_type, path, expires)
        self.workers.assets[asset.id] = asset
        return asset

    async def _from_hash(self, request: web.Request) -> web.StreamResponse:
        body = codec.loads(await request.content.read())
        digest = str(body.get("hash", "")).removeprefix("blake3:")
        for known in list(self.workers.assets.values()):
            if known.digest == digest:
                data = self.storage.get(known.stored)
                self.storage.put(f"{digest}-input", data, known.content_type)
                path = str(body.get("file_path") or known.file_path)
                asset = self._input(digest, known.size, known.content_type, path)
                return answer(self._asset_shown(asset), 201)
        raise ApiError(404, "blob_not_found")

    async def _by_hash(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["hash"].removeprefix("blake3:")
        known = any(asset.digest == digest for asset in self.workers.assets.values())
        return web.Response(status=200 if known else 404)

    def _found(self, request: web.Request) -> DeploymentAsset:
        asset = self.workers.assets.get(request.match_info["id"])
        if asset is None:
            raise ApiError(404, "asset_not_found")
        return asset

    def _asset_shown(self, asset: DeploymentAsset, **more: object) -> dict[str, Any]:
        return asset.shown(str(self.storage.sign(asset.stored)), **more)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        return answer(self._asset_shown(self._found(request)))

    async def _content(self, request: web.Request) -> web.StreamResponse:
        location = str(self.storage.sign(self._found(request).stored))
        return web.Response(status=302, headers={"Location": location})

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        asset = self._found(request)
        if asset.job_id is not None:
            raise ApiError(409, "asset_in_use")
        del self.workers.assets[asset.id]
        return web.Response(status=204)


def _age(at: datetime) -> float:
    return (datetime.now(UTC) - at).total_seconds()
