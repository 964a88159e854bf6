"""The files of an account as the cloud keeps book of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from proxy.simulator import media


@dataclass(eq=False, slots=True)
class SimulatedAsset:
    """A file: its human `name` and folder beside the name of its content on the cloud."""

    name: str
    cloud_name: str
    digest: str
    size: int
    media_type: str
    tags: tuple[str, ...]
    subfolder: str = ""
    job_id: str | None = None
    node_id: str | None = None
    output_key: str | None = None
    output_index: int | None = None
    id: str = field(default_factory=lambda: str(uuid4()))
    created: float = field(default_factory=time.time)
    #: Sent to `/api/upload/image`, and not as an asset.
    uploaded: bool = False

    @property
    def family(self) -> str:
        """What kind of file it is ("image", "video"...)."""
        return media.family(self.cloud_name.rpartition(".")[2])

    @property
    def created_at(self) -> str:
        """RFC 3339."""
        return datetime.fromtimestamp(self.created, UTC).isoformat()


@dataclass(slots=True)
class Layers:
    """The pictures that belong together in a mask, by their cloud names."""

    mask: str
    painted_masked: str
    paint: str | None = None
    painted: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """Return the layers as `GET /api/files/mask-layers` answers them."""
        return {
            "mask": self.mask,
            "paint": self.paint,
            "painted": self.painted,
            "painted_masked": self.painted_masked,
        }


class AssetLibrary:
    """The assets of an account by id and by cloud name."""

    def __init__(self) -> None:
        self._by_id: dict[str, SimulatedAsset] = {}
        self._by_name: dict[str, list[SimulatedAsset]] = {}
        self.layers: dict[str, Layers] = {}

    def __iter__(self) -> Iterator[SimulatedAsset]:
        return iter(list(self._by_id.values()))

    def add(self, asset: SimulatedAsset) -> None:
        """Note an asset."""
        self._by_id[asset.id] = asset
        self._by_name.setdefault(asset.cloud_name, []).append(asset)

    def get(self, asset_id: str) -> SimulatedAsset | None:
        """Return the asset of that id."""
        return self._by_id.get(asset_id)

    def newest(self, cloud_name: str) -> SimulatedAsset | None:
        """Return the latest asset with that content."""
        assets = self._by_name.get(cloud_name)
        return assets[-1] if assets else None

    def of(self, cloud_name: str) -> list[SimulatedAsset]:
        """Return all assets with that content."""
        return self._by_name.get(cloud_name, [])

    def remove(self, asset: SimulatedAsset) -> bool:
        """Forget an asset; answers whether no other one has its content."""
        self._by_id.pop(asset.id, None)
        left = [other for other in self._by_name.get(asset.cloud_name, []) if other is not asset]
        if left:
            self._by_name[asset.cloud_name] = left
            return False
        self._by_name.pop(asset.cloud_name, None)
        return True
