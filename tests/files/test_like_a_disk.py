"""Whatever is done to them, a member's files are what a ComfyUI would have on its disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from files.helpers import MemoryCloud, body, bytes_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.files.record import FileRecord, Named
from proxy.files.service import Files
from proxy.store.sqlite import SqliteStore
from proxy.translate.errors import LocalError
from proxy.translate.names import TYPES, view_place

T = TypeVar("T")

MEMBERS = st.sampled_from(["ann", "bob"])
FOLDERS = st.sampled_from(TYPES)
CONTENTS = st.sampled_from([b"red", b"blue", b"green"])
SUBFOLDERS = st.sampled_from(["", "sub", "sub/deep", "./sub//", "sub/..", "../x", "/x", "cat.png"])
NAMES = st.sampled_from(
    [
        "cat.png",
        "cat (1).png",
        "a.tar.gz",
        ".hidden",
        "sub",
        "sub/cat.png",
        "../cat.png",
        "new/cat.png",
        "..",
        "cat_00002_.png",
        "cat_00007_x_.png",
        "y" * 256,
        "é\0.png",
    ]
)
PREFIXES = st.sampled_from(["cat", "sub/cat", "cat_00002", "sub//deep/../x"])


def is_file(path: str) -> bool:
    """Also of names that no disk takes."""
    return os.path.isfile(path)  # noqa: PTH113


class Disk:
    """A ComfyUI's three folders on a real disk, and the rules by which it writes to them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for type_ in TYPES:
            (base / type_).mkdir(parents=True)

    def upload(self, data: bytes, name: str, subfolder: str, type_: str, overwrite: bool) -> str:
        """Raises `OSError` or `ValueError` where ComfyUI refuses or fails."""
        root = str(self.base / type_)
        folder = os.path.join(root, os.path.normpath(subfolder))  # noqa: PTH118
        target = os.path.abspath(os.path.join(folder, name))  # noqa: PTH100, PTH118
        if os.path.commonpath([root, target]) != root:
            raise ValueError("outside")
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        stem, extension = os.path.splitext(name)  # noqa: PTH122
        number, found = 0, False
        while not overwrite and os.path.exists(target):  # noqa: PTH110
            if Path(target).read_bytes() == data:
                found = True
                break
            number += 1
            name = f"{stem} ({number}){extension}"
            target = os.path.join(folder, name)  # noqa: PTH118
        if not found:
            Path(target).write_bytes(data)
        return name

    def save(self, data: bytes, prefix: str, type_: str) -> str:
        """The path of an output that a node writes."""
        root = self.base / type_
        subfolder, stem = os.path.split(os.path.normpath(prefix))
        folder = root / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [0]
        for name in os.listdir(folder):  # noqa: PTH208
            if name.startswith(stem + "_"):
                with contextlib.suppress(ValueError):
                    numbers.append(int(name[len(stem) + 1 :].split("_")[0]))
        path = folder / f"{stem}_{max(numbers) + 1:05}_.png"
        path.write_bytes(data)
        return str(path.relative_to(root))

    def tidy(self) -> None:
        """Remove the empty folders that an upload leaves; we have none of them."""
        for folder, _, _ in os.walk(self.base, topdown=False):
            if Path(folder).parent != self.base and Path(folder) != self.base:
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()

    def listing(self, type_: str) -> dict[str, bytes]:
        root = self.base / type_
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }


class LikeADisk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.disks = {member: Disk(self.folder / "disks" / member) for member in ("ann", "bob")}
        self.cloud = MemoryCloud()
        self.loop = asyncio.new_event_loop()
        self.jobs: list[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]] = []
        self.run(self.open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def open(self) -> None:
        self.store = await SqliteStore.open(self.folder / "proxy.db")
        self.files = Files(self.store, self.cloud, self.folder / "cache", cache_bytes=10)
        await self.files.start()

    async def close(self) -> None:
        await self.files.close()
        await self.store.close()

    def teardown(self) -> None:
        self.run(self.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        self.run(self.close())
        self.run(self.open())

    @rule(
        member=MEMBERS,
        data=CONTENTS,
        name=NAMES,
        subfolder=SUBFOLDERS,
        type_=FOLDERS,
        overwrite=st.booleans(),
    )
    def upload(
        self, member: str, data: bytes, name: str, subfolder: str, type_: str, overwrite: bool
    ) -> None:
        try:
            expected = self.disks[member].upload(data, name, subfolder, type_, overwrite)
        except (OSError, ValueError):
            expected = None
        self.disks[member].tidy()
        work = self.files.upload(
            member,
            body(data),
            filename=name,
            subfolder=subfolder,
            type=type_,
            overwrite=overwrite,
        )
        if expected is None:
            with pytest.raises(LocalError, match="cannot be stored"):
                self.run(work)
        else:
            assert self.run(work) == Named(expected, subfolder, type_)

    @rule(member=MEMBERS, data=st.lists(CONTENTS, min_size=1, max_size=3), prefix=PREFIXES)
    def save(self, member: str, data: list[bytes], prefix: str) -> None:
        output = {
            "images": [
                {"filename": self.cloud.add(one), "subfolder": "", "type": "output"} for one in data
            ]
        }
        node = {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix}}
        try:
            paths = [self.disks[member].save(one, prefix, "output") for one in data]
        except OSError:  # a file is where the folder should be: such a job fails on the cloud
            self.disks[member].tidy()
            return
        job = str(len(self.jobs))
        local = self.run(self.files.localise(member, job, "9", node, output))
        shown = [f"{one['subfolder']}/{one['filename']}".lstrip("/") for one in local["images"]]
        assert shown == paths
        self.jobs.append((member, job, node, output, local))

    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        if self.jobs:
            member, job, node, output, local = data.draw(st.sampled_from(self.jobs))
            assert self.run(self.files.localise(member, job, "9", node, output)) == local

    @rule(member=MEMBERS, type_=FOLDERS, name=NAMES, subfolder=SUBFOLDERS)
    def load_in_a_graph(self, member: str, type_: str, name: str, subfolder: str) -> None:
        written = f"{subfolder}/{name} [{type_}]" if subfolder else f"{name} [{type_}]"
        graph = {"1": {"class_type": "LoadImage", "inputs": {"image": written}}}
        value = self.files.substitute(member, graph, choices=lambda _: None)["1"]["inputs"]["image"]
        root = self.disks[member].base / type_
        path = os.path.normpath(os.path.join(root, written.rpartition(" [")[0]))  # noqa: PTH118
        inside = not written.startswith("/") and path.startswith(f"{root}/")
        if inside and is_file(path):
            assert self.cloud.contents[value.partition(" ")[0]] == Path(path).read_bytes()
        else:
            assert value == written

    @rule(member=MEMBERS, type_=FOLDERS, name=NAMES, subfolder=SUBFOLDERS)
    def view(self, member: str, type_: str, name: str, subfolder: str) -> None:
        place = view_place(name, subfolder, type_)
        if isinstance(place, int):
            return
        filename = place.path.rpartition("/")[2]
        record = self.files.find(member, place.type, place.subfolder, filename)
        path = self.disks[member].base / type_ / place.path
        assert (record is not None) == is_file(str(path))
        if record is not None:
            assert self.run(bytes_of(self.files, record)) == path.read_bytes()

    @invariant()
    def the_same_files(self) -> None:
        for member, disk in self.disks.items():
            for type_ in TYPES:
                ours = {
                    record.path: self.content(record)
                    for record in self.files.records(member, type_)
                }
                assert ours == disk.listing(type_)

    def content(self, record: FileRecord) -> bytes:
        return self.cloud.contents[record.cloud_name]


TestLikeADisk = LikeADisk.TestCase
TestLikeADisk.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
