"""A client finds what it would find on the disk of a local ComfyUI, whatever it does.

`FILES_EXAMPLES` and `FILES_STEPS` make the test longer.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import graphs
from files.disk import Disk
from files.pictures import converted, decoded, loaded, picture
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stack import Client, bare, running_proxy

from proxy.simulator import Simulator, Switches
from proxy.translate.names import TYPES

T = TypeVar("T")

CONTENTS = st.sampled_from(
    [picture("RGBA", 8), picture("RGB", 8), picture("L", 9), picture("RGBA", 9)]
)
FOLDERS = st.sampled_from(TYPES)
SUBFOLDERS = st.sampled_from(["", "sub", "sub/deep", "./sub//", "../x"])
NAMES = st.sampled_from(
    [
        "cat.png",
        "cat (1).png",
        "katze-ü.png",
        "a.tar.png",
        "sub/cat.png",
        "../cat.png",
        "cat_00002_.png",
    ]
)
PREFIXES = st.sampled_from(["ComfyUI", "cat", "sub/cat", "sub/deep/x"])
CONVERSIONS = st.sampled_from(
    [
        (None, None),
        (None, None),
        ("webp;75", None),
        ("jpeg", None),
        ("jpeg;60", "rgba"),
        (None, "rgb"),
        (None, "a"),
        (None, "odd"),
    ]
)


class LikeADisk(RuleBasedStateMachine):
    """One client, the disk that it believes in, and the proxy with the simulator behind it.

    Nodes are run again though their inputs are the same, as by a ComfyUI without its cache.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.disk = Disk(self.folder / "disk")
        self.runner = asyncio.Runner()
        self.simulator = Simulator(switches=Switches(cache_nodes=False))
        self.previews: list[tuple[dict[str, str], bytes]] = []
        self.run(self.simulator.start())
        self.run(self.open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def open(self) -> None:
        self.stack = AsyncExitStack()
        started = running_proxy(self.simulator, self.folder / "data", cache_mb=0.005)
        proxy = await self.stack.enter_async_context(started)
        session = await self.stack.enter_async_context(aiohttp.ClientSession())
        self.client = Client(session, proxy.url)

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.run(self.simulator.stop())
        self.runner.close()
        shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        self.run(self.stack.aclose())
        self.run(self.open())

    @rule(data=CONTENTS, name=NAMES, subfolder=SUBFOLDERS, type_=FOLDERS, overwrite=st.booleans())
    def upload(self, data: bytes, name: str, subfolder: str, type_: str, overwrite: bool) -> None:
        expected: dict[str, str] | None
        try:
            chosen = self.disk.upload(data, name, subfolder, type_, overwrite)
            expected = {"name": chosen, "subfolder": subfolder, "type": type_}
        except (OSError, ValueError):
            expected = None
        self.disk.tidy()
        fields = {"subfolder": subfolder, "type": type_, "overwrite": str(overwrite).lower()}
        status, answer = self.run(self.sent(data, name, fields))
        if expected is None:
            assert status == 400
            return
        assert (status, bare(answer)) == (200, expected)
        _, asset = self.run(self.client.get(f"api/assets/{answer['asset']['id']}"))
        assert (asset["size"], asset["name"]) == (len(data), chosen.rpartition("/")[2])

    async def sent(self, data: bytes, name: str, fields: dict[str, str]) -> tuple[int, Any]:
        form = aiohttp.FormData(fields, quote_fields=False)
        form.add_field("image", data, filename=name)
        url = self.client.url / "upload/image"
        async with self.client.session.post(url, data=form) as answer:
            return answer.status, await answer.json() if answer.status == 200 else None

    def files(self) -> list[tuple[str, str]]:
        """What there is, as type and path."""
        return [(type_, path) for type_ in TYPES for path in sorted(self.disk.listing(type_))]

    @precondition(lambda self: self.files())
    @rule(data=st.data(), prefix=PREFIXES, backslashes=st.booleans())
    def use_in_a_graph(self, data: st.DataObject, prefix: str, backslashes: bool) -> None:
        type_, path = data.draw(st.sampled_from(self.files()))
        source = self.disk.listing(type_)[path]
        written = path.replace("/", "\\") if backslashes else path
        if type_ != "input" or data.draw(st.booleans()):
            written = f"{written} [{type_}]"
        graph = graphs.inverted(written)
        graph["4"]["inputs"]["filename_prefix"] = prefix
        target = self.disk.next_output(prefix, "output")
        outputs = self.run(self.client.run(graph))["outputs"]
        place = target.relative_to(self.disk.base / "output")
        (item,), (preview,) = outputs["4"]["images"], outputs["3"]["images"]
        subfolder = "" if str(place.parent) == "." else str(place.parent)
        assert bare(item) == {"filename": place.name, "subfolder": subfolder, "type": "output"}
        shown = self.run(self.client.view(item))
        assert decoded(shown)[3] == loaded(source, inverted=True)
        target.write_bytes(shown)
        shown = self.run(self.client.view(preview))
        assert (preview["type"], decoded(shown)[3]) == ("temp", loaded(source))
        self.previews.append((preview, shown))

    @rule(name=NAMES, type_=FOLDERS)
    def miss_in_a_graph(self, name: str, type_: str) -> None:
        written = f"missing/{Path(name).name} [{type_}]"
        status, _ = self.run(self.client.post("prompt", {"prompt": graphs.inverted(written)}))
        assert status == 400

    @rule(name=NAMES, subfolder=SUBFOLDERS, type_=FOLDERS, annotated=st.booleans())
    def view_any(self, name: str, subfolder: str, type_: str, annotated: bool) -> None:
        found = self.disk.view(name, subfolder, type_)
        expected = (200, found.read_bytes()) if isinstance(found, Path) else (found, b"")
        given = f"{name} [{type_}]" if annotated else name
        other = "temp" if annotated else type_
        assert self.run(self.viewed(filename=given, subfolder=subfolder, type=other)) == expected

    @precondition(lambda self: self.files())
    @rule(data=st.data(), wanted=CONVERSIONS)
    def view_converted(self, data: st.DataObject, wanted: tuple[str | None, str | None]) -> None:
        type_, path = data.draw(st.sampled_from(self.files()))
        query = {"type": type_, "filename": Path(path).name, "subfolder": str(Path(path).parent)}
        asked = dict(zip(("preview", "channel"), wanted, strict=True))
        query.update({key: value for key, value in asked.items() if value is not None})
        status, shown = self.run(self.viewed(**query))
        expected = converted(self.disk.listing(type_)[path], *wanted)
        assert (status, decoded(shown)) == (200, decoded(expected))

    async def viewed(self, **query: str) -> tuple[int, bytes]:
        url = (self.client.url / "view").with_query(query)
        async with self.client.session.get(url, allow_redirects=False) as answer:
            return answer.status, await answer.read()

    @invariant()
    def the_same_files(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        for type_, path in self.files():
            place = {"filename": Path(path).name, "subfolder": str(Path(path).parent)}
            status, shown = await self.viewed(type=type_, **place)
            assert (status, shown) == (200, self.disk.listing(type_)[path]), (type_, path)
        for item, data in self.previews:
            assert await self.client.view(item) == data
        _, info = await self.client.get("object_info/LoadImage")
        choices = info["LoadImage"]["input"]["required"]["image"][0]
        assert choices == sorted(name for name in self.disk.listing("input") if "/" not in name)


TestFilesLikeADisk = LikeADisk.TestCase
TestFilesLikeADisk.settings = settings(
    max_examples=int(os.environ.get("FILES_EXAMPLES", "8")),
    stateful_step_count=int(os.environ.get("FILES_STEPS", "12")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
