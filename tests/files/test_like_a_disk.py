"""Whatever is done to them, a member's files are what a ComfyUI would have on its disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from backend import open_database
from files.disk import Disk, is_file
from files.helpers import MemoryCloud, body, bytes_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.files.cache import Cache
from proxy.files.library import Library
from proxy.files.namespace import Named
from proxy.files.service import Files
from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileRepository
from proxy.translate.errors import LocalError
from proxy.translate.names import TYPES, view_place
from proxy.translate.output_files import OutputNode

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
        self.database = await open_database(self.folder)
        cache = Cache(self.folder / "cache", 10)
        self.files = Files(Library({"default": self.cloud}, cache, FileRepository(self.database)))
        await self.files.start()

    async def close(self) -> None:
        await self.files.close()
        await self.database.close()

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
                {"filename": self.cloud.add(path), "subfolder": "", "type": "output"}
                for path in data
            ]
        }
        node = {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix}}
        try:
            paths = [self.disks[member].save(content, prefix, "output") for content in data]
        except OSError:  # a file is where the folder should be: such a job fails on the cloud
            self.disks[member].tidy()
            return
        job = str(len(self.jobs))
        local = self.run(
            self.files.outputs.localise(OutputNode(member, job, "9", node, "default"), output)
        )
        shown = [
            f"{image['subfolder']}/{image['filename']}".lstrip("/") for image in local["images"]
        ]
        assert shown == paths
        self.jobs.append((member, job, node, output, local))

    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        if self.jobs:
            member, job, node, output, local = data.draw(st.sampled_from(self.jobs))
            assert (
                self.run(
                    self.files.outputs.localise(
                        OutputNode(member, job, "9", node, "default"), output
                    )
                )
                == local
            )

    @rule(member=MEMBERS, type_=FOLDERS, name=NAMES, subfolder=SUBFOLDERS)
    def load_in_a_graph(self, member: str, type_: str, name: str, subfolder: str) -> None:
        written = f"{subfolder}/{name} [{type_}]" if subfolder else f"{name} [{type_}]"
        graph = {"1": {"class_type": "LoadImage", "inputs": {"image": written}}}
        sent = self.run(
            self.files.graphs.substitute(
                member, graph, shapes=lambda _: None, account="default", job="sent"
            )
        )
        value = sent["1"]["inputs"]["image"]
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
        record = self.run(self.files.find(member, place.type, place.subfolder, filename))
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
                    for record in self.run(self.files.namespace.records(member, type_))
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
