"""Inputs of a deployment: which are there, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from proxy.cloud.answers import Answer
from proxy.cloud.calls import JSON, SentFile
from proxy.cloud.errors import CloudGarbage, CloudRefused
from proxy.cloud.http import Http
from proxy.runtime import clock
from proxy.translate import codec
from proxy.translate.times import ms_of
from proxy.translate.v2.assets import asset_id, cloud_name, file_path

#: Of how many inputs it is remembered that they are there.
_REMEMBERED = 10_000
#: Seconds for which that is believed, and those before its end at which an input counts as gone.
_BELIEVED, _MARGIN = 600.0, 300.0


@dataclass(eq=False, repr=False)
class DeploymentUploads:
    """The inputs that an account has at its deployment.

    A content is uploaded once: the platform is asked for a new record of it by its hash first.
    """

    http: Http
    _until: LRUCache[str, float] = field(init=False, default_factory=lambda: LRUCache(_REMEMBERED))

    async def store(self, path: Path, hash_: str, filename: str, content_type: str) -> str:
        """Return the proxy's name of an input with this content. Raises `CloudError`."""
        placed = file_path(filename, hash_)
        asset = await self._known(hash_, placed)
        if asset is None:
            asset = await self._upload(path, placed, content_type)
        return self._named(asset, placed, content_type)

    async def holds(self, name: str) -> bool:
        """Return whether an input is still there. Raises `CloudError`."""
        if self._until.get(name, 0.0) > clock.monotonic():
            return True
        asset = await self.http.lookup("v2/assets/{id}", Answer.object, id=asset_id(name))
        if asset is not None:
            self._remember(name, asset)
        return asset is not None and self._until[name] > clock.monotonic()

    def forget(self) -> None:
        """Believe of no input any longer that it is there."""
        self._until.clear()

    async def _known(self, hash_: str, placed: str) -> dict[str, Any] | None:
        """Return a new record of a content that the platform has, `None` if it has it not."""
        body = {"hash": f"blake3:{hash_}", "file_path": placed, "tags": ["input"]}
        call = self.http.call("POST", "v2/assets/from-hash")
        try:
            return await self.http.read(
                call, Answer.object, data=codec.dump_bytes(body), headers=JSON
            )
        except CloudRefused as error:
            if error.status in (400, 404, 405, 422):
                return None
            raise

    async def _upload(self, path: Path, placed: str, content_type: str) -> dict[str, Any]:
        fields = {"content_type": content_type, "file_path": placed, "tags": "input"}
        file = SentFile(path, "file", placed, content_type)
        call = self.http.call("POST", "v2/assets")
        return await self.http.send_file(call, Answer.object, fields, file)

    def _named(self, asset: Mapping[str, Any], placed: str, content_type: str) -> str:
        id_ = asset.get("id")
        if not isinstance(id_, str) or not id_:
            raise CloudGarbage("POST /api/v2/assets: no id in the answer")
        name = cloud_name(id_, placed, content_type)
        self._remember(name, asset)
        return name

    def _remember(self, name: str, asset: Mapping[str, Any]) -> None:
        left = _BELIEVED
        if (expires := ms_of(asset.get("expires_at"))) is not None:
            left = min(left, (expires - clock.now()) / 1000 - _MARGIN)
        self._until[name] = clock.monotonic() + left
