"""A simulated deployment beside the simulated cloud, as two accounts of one proxy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from stack import Client, Proxy, running_proxy

from proxy.settings import AccountSettings
from proxy.simulator import Simulator
from proxy.simulator.deployment import SimulatedDeployment


def framed(color: int = 0xFF0000, *, size: int = 64, prefix: str = "ComfyUI") -> dict[str, Any]:
    """A picture with a frame: a node of its own, which Comfy Cloud does not have."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": size, "height": size, "batch_size": 1, "color": color},
        },
        "2": {
            "class_type": "AddFrame",
            "inputs": {"image": ["1", 0], "width": 8, "color": "gold"},
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


def stepped(steps: int = 20, color: int = 0xFF0000) -> dict[str, Any]:
    """A node of its own that takes steps."""
    graph = framed(color)
    graph["2"] = {"class_type": "ContactSheet", "inputs": {"image": ["1", 0], "steps": steps}}
    return graph


def stamped(name: str, *, prefix: str = "ComfyUI") -> dict[str, Any]:
    """A node of its own that loads a file."""
    graph = framed(prefix=prefix)
    graph["2"] = {"class_type": "StampPicture", "inputs": {"image": ["1", 0], "stamp": name}}
    return graph


@dataclass
class Place:
    """Where a proxy and its accounts `cloud` and `studio`, a deployment, run."""

    simulator: Simulator
    deployment: SimulatedDeployment
    folder: Path
    session: aiohttp.ClientSession

    def tables(self, *, cloud: bool = True, **fields: Any) -> tuple[AccountSettings, ...]:
        """The tables of the accounts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, key in (("cloud", self.simulator.key), ("studio", self.deployment.key)):
            (self.folder / f"key of {name}").write_text(key)
        listed = self.folder / "object_info.json"
        if not listed.exists():
            listed.write_bytes(self.deployment.object_info)
        first = AccountSettings(
            name="cloud",
            key_file=self.folder / "key of cloud",
            base_url=self.simulator.base_url,
            slots=1,
        )
        second = AccountSettings(
            name="studio",
            key_file=self.folder / "key of studio",
            base_url=self.deployment.base_url,
            object_info=str(listed),
            **{"slots": 2, **fields},
        )
        return (first, second) if cloud else (second,)

    def config(self, *, cloud: bool = False, **studio: Any) -> Path:
        """A settings file with the accounts. Fields of the deployment can be given, `None` leaves
        one out."""
        *others, table = self.tables(cloud=cloud)
        named = ("name", "base_url", "key_file")
        tables = [{name: getattr(other, name) for name in (*named, "slots")} for other in others]
        own = {name: getattr(table, name) for name in (*named, "object_info", "slots")}
        lines = []
        for values in (*tables, {**own, **studio}):
            lines.append("[[accounts]]")
            lines += [
                f"{name} = {value if isinstance(value, int) else json.dumps(str(value))}"
                for name, value in values.items()
                if value is not None
            ]
        path = self.folder / "config.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    @asynccontextmanager
    async def proxy(
        self, *, cloud: bool = True, fields: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncIterator[tuple[Client, Proxy]]:
        """A client of a proxy before both accounts; again is a restart."""
        tables = self.tables(cloud=cloud, **(fields or {}))
        settings = {"accounts": tables, **settings}
        async with running_proxy(self.simulator, self.folder / "data", **settings) as proxy:
            client = Client(self.session, proxy.url)
            await client.until_ready()
            yield client, proxy
