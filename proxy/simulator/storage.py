"""The storage: contents by name behind signed URLs that expire, on an origin of its own.

It imitates Google Cloud Storage: XML errors, `Range`, `ETag`; and it notes every request, because
none may carry a credential of the account.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiohttp import web
from yarl import URL

from proxy.simulator import delivery
from proxy.simulator.delivery import Listener
from proxy.simulator.faults import Faults
from proxy.simulator.record import Record, RequestRecord
from proxy.simulator.switches import Switches

BUCKET = "comfy-cloud-user-content"
_SIGNED = (
    "X-Goog-Algorithm",
    "X-Goog-Credential",
    "X-Goog-Date",
    "X-Goog-Expires",
    "X-Goog-SignedHeaders",
    "response-content-disposition",
)


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A stored content."""

    data: bytes
    media_type: str
    etag: str


class Storage:
    """The contents and the server that hands them out.

    `requests` records what came in; `leaks` those requests that carried a credential.
    """

    def __init__(
        self, switches: Switches, faults: Faults, keys: Callable[[], Iterable[str]]
    ) -> None:
        self._switches = switches
        self._faults = faults
        self._keys = keys
        self._secret = secrets.token_bytes(32)
        self._blobs: dict[str, StoredContent] = {}
        self._listener = Listener(self._app)
        self.record = Record()
        self.leaks: list[RequestRecord] = []

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests to this origin, oldest first."""
        return list(self.record.requests)

    @property
    def url(self) -> URL:
        """The origin."""
        return self._listener.url

    def put(self, name: str, data: bytes, media_type: str) -> None:
        """Store a content; the same name again changes nothing, as names tell contents."""
        if name not in self._blobs:
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            self._blobs[name] = StoredContent(data, media_type, f'"{etag}"')

    def get(self, name: str) -> bytes:
        """Return the content of that name. Raises `KeyError`."""
        return self._blobs[name].data

    def remove(self, name: str) -> None:
        """Delete a content."""
        self._blobs.pop(name, None)

    def sign(self, name: str, *, filename: str | None = None) -> URL:
        """Return a URL that gives the content for as long as the switch `signed_url_life` says."""
        query = {
            "X-Goog-Algorithm": "GOOG4-HMAC-SHA256",
            "X-Goog-Credential": "simulator@comfy-cloud.iam.gserviceaccount.com",
            "X-Goog-Date": repr(time.time()),
            "X-Goog-Expires": repr(self._switches.signed_url_life),
            "X-Goog-SignedHeaders": "host",
        }
        if filename is not None:
            query["response-content-disposition"] = f'attachment; filename="{filename}"'
        query["X-Goog-Signature"] = self._signature(name, query)
        return self.url / BUCKET / name % query

    async def start(self, host: str) -> None:
        """Listen on a free port."""
        await self._listener.start(host, 0)

    async def stop(self) -> None:
        """Stop listening and drop what is connected."""
        await self._listener.stop()

    def _signature(self, name: str, query: dict[str, str]) -> str:
        signed = "\n".join([name, *(query.get(field, "") for field in _SIGNED)])
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).hexdigest()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle, allow_head=False)
        app.router.add_route("*", "/{path:.*}", self._refuse)
        return app

    def _note(self, request: web.Request) -> RequestRecord:
        record = self.record.note(request, f"{request.method} storage", self._keys())
        if record.credentials:
            self.leaks.append(record)
        return record

    async def _refuse(self, request: web.Request) -> web.Response:
        self._note(request).status = 403
        return _mismatch()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        record = self._note(request)
        fault = self._faults.http(record.route)

        async def serve(request: web.Request) -> web.StreamResponse:
            return self._serve(request)

        response = await delivery.answer(request, serve, fault)
        record.status = response.status
        return response

    def _serve(self, request: web.Request) -> web.Response:
        bucket, _, name = request.match_info["path"].partition("/")
        query = dict(request.query)
        signature = query.pop("X-Goog-Signature", "")
        if not hmac.compare_digest(signature.encode(), self._signature(name, query).encode()):
            return _mismatch()
        if time.time() > float(query["X-Goog-Date"]) + float(query["X-Goog-Expires"]):
            return _error(
                self._switches.expired_status, "ExpiredToken", "The provided token has expired."
            )
        blob = self._blobs.get(name)
        if bucket != BUCKET or blob is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        return self._content(request, blob, query.get("response-content-disposition"))

    def _content(
        self, request: web.Request, blob: StoredContent, disposition: str | None
    ) -> web.Response:
        headers = {
            "ETag": blob.etag,
            "Content-Type": blob.media_type
            if self._switches.storage_content_type
            else "application/octet-stream",
            "Cache-Control": "private, max-age=0",
        }
        if disposition:
            headers["Content-Disposition"] = disposition
        if blob.etag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        size = len(blob.data)
        if not self._switches.storage_range:
            return web.Response(body=blob.data, headers=headers)
        headers["Accept-Ranges"] = "bytes"
        if request.headers.get("If-Range", blob.etag) != blob.etag:
            return web.Response(body=blob.data, headers=headers)
        try:
            wanted = request.http_range
        except ValueError:
            return web.Response(body=blob.data, headers=headers)
        if wanted.start is None and wanted.stop is None:
            return web.Response(body=blob.data, headers=headers)
        start, stop, _ = wanted.indices(size)
        if start >= stop:
            response = _error(416, "InvalidRange", "The requested range cannot be satisfied.")
            response.headers["Content-Range"] = f"bytes */{size}"
            return response
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return web.Response(status=206, body=blob.data[start:stop], headers=headers)


def _mismatch() -> web.Response:
    """Return what a wrong signature gets, and any method but GET, for which none is signed."""
    return _error(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided.",
    )


def _error(status: int, code: str, message: str) -> web.Response:
    text = (
        "<?xml version='1.0' encoding='UTF-8'?>"
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return web.Response(status=status, text=text, content_type="application/xml", charset="utf-8")
