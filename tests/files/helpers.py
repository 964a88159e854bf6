"""A cloud in memory, for what does not depend on how bytes travel, and readers of recordings."""

from __future__ import annotations

import io
import json
import posixpath
import struct
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import HTTP
from pathlib import Path
from typing import Any

from blake3 import blake3
from PIL import Image
from yarl import URL

from proxy.cloud.errors import CloudRefused
from proxy.cloud.observations import AccountObservations
from proxy.cloud.upstream import Capabilities
from proxy.files.service import Files
from proxy.storage.file_tables import FileRecord
from proxy.translate.names import annotate
from proxy.translate.output_files import OutputNode

RECORDINGS = Path(__file__).parent.parent / "recordings"


@dataclass
class Arriving:
    """A download of the memory cloud."""

    rest: bytes
    size: int | None

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.rest


@dataclass
class MemoryCloud:
    """Contents by hash name. `sent` and `fetched` count; `refuse` is raised by uploads."""

    base_url: URL = field(default_factory=lambda: URL("http://cloud"))
    contents: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    refuse: Exception | None = None
    observations: AccountObservations = field(default_factory=AccountObservations)
    capabilities: Capabilities = field(default_factory=Capabilities)

    async def holds(self, _name: str) -> bool:
        return True

    def reference(self, cloud_name: str, type_: str) -> str:
        return annotate(cloud_name, type_)

    async def upload(self, path: Path, *, filename: str, **_: Any) -> str:
        self.sent.append(filename)
        if self.refuse is not None:
            raise self.refuse
        data = path.read_bytes()  # noqa: ASYNC240
        return self.add(data, posixpath.splitext(filename)[1])

    def add(self, data: bytes, extension: str = ".png") -> str:
        """Store a content as a job would; returns its name."""
        name = blake3(data).hexdigest() + extension
        self.contents[name] = data
        return name

    @asynccontextmanager
    async def download(
        self, cloud_name: str, type_: str, offset: int = 0
    ) -> AsyncIterator[Arriving]:
        self.fetched.append(cloud_name)
        if cloud_name not in self.contents:
            raise CloudRefused("no such file", 404)
        data = self.contents[cloud_name]
        yield Arriving(data[offset:], len(data))


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def upload(
    files: Files, data: bytes, name: str = "cat.png", *, member: str = "local", **options: Any
) -> str:
    """Upload a file; the name that it gets."""
    return (await files.upload(member, body(data), filename=name, **options)).name


async def record_of(
    files: Files, path: str = "cat.png", type_: str = "input", member: str = "local"
) -> FileRecord:
    record = await files.find(member, type_, "", path)
    assert record is not None
    return record


async def bytes_of(files: Files, record: FileRecord) -> bytes:
    with closing(await files.open(record)) as content:
        return b"".join([chunk async for chunk in content.read()])


def item(name: str, **more: Any) -> dict[str, Any]:
    """A file of an output as the cloud tells it."""
    return {"filename": name, "subfolder": "", "type": "output", **more}


async def output_of(
    files: Files, cloud_name: str, account: str = "default", **more: Any
) -> FileRecord:
    """The record of an output that an account has made."""
    output, job = {"images": [item(cloud_name, **more)]}, f"job {account} {cloud_name}"
    local = await files.outputs.localise(OutputNode("local", job, "9", None, account), output)
    return await record_of(files, local["images"][0]["filename"], "output")


async def loaded(
    files: Files, value: Any, account: str = "default", *, member: str = "local"
) -> Any:
    """What the account is told to load for a member's name."""
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": value}}}
    sent = await files.graphs.substitute(
        member, graph, shapes=lambda _: None, account=account, job="sent"
    )
    return sent["1"]["inputs"]["image"]


def png(size: tuple[int, int] = (8, 6), colour: Any = (200, 10, 30), mode: str = "RGB") -> bytes:
    target = io.BytesIO()
    Image.new(mode, size, colour).save(target, format="PNG")
    return target.getvalue()


RED, BLUE = png(colour=(255, 0, 0)), png(colour=(0, 0, 255))


def header(width: int, height: int) -> bytes:
    """A PNG of which there is nothing but the header."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    whole = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + whole + struct.pack(">I", 0) + b"IDAT" + b"\x35\xaf\x06\x1e"


def progressive(side: int, scans: int) -> bytes:
    """A grey JPEG that says in each of so many scans that all blocks are as they were (ITU-T T.81,
    G.1.2.2)."""

    def segment(marker: int, data: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data

    frame = struct.pack(">BHHB", 8, side, side, 1) + bytes((1, 0x11, 0))
    table = bytes((0x10, 1)) + bytes(15) + b"\xe0"  # one code, of one bit: EOB14
    blocks, bits = (-(-side // 8)) ** 2, ""
    while blocks:
        run = min(blocks, (1 << 15) - 1)
        bits += f"0{run - (1 << 14):014b}"
        blocks -= run
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    scan = segment(0xDA, bytes((1, 1, 0, 1, 1, 0))) + coded
    tables = segment(0xDB, bytes(1) + b"\1" * 64) + segment(0xC2, frame) + segment(0xC4, table)
    return b"\xff\xd8" + tables + scan * scans + b"\xff\xd9"


def pixels(data: bytes) -> tuple[str, tuple[int, int], bytes]:
    """Mode, size and pixels of a picture."""
    with Image.open(io.BytesIO(data)) as picture:
        return picture.mode, picture.size, picture.tobytes()


def recorded(name: str) -> Iterable[tuple[dict[str, Any], dict[str, Any], str]]:
    """Requests, answers and labels of a recording, those of its cleaning up left out."""
    events = json.loads((RECORDINGS / f"{name}.json").read_text())["events"]
    for event in events:
        if event["kind"] == "http" and not event.get("setup"):
            yield event["request"], event["response"], event.get("label", "")


def recorded_bytes(message: dict[str, Any]) -> bytes:
    """The whole body of a recorded message."""
    about = message["body"]
    if about["kind"] == "text":
        return str(about["text"]).encode()
    return b64decode(about["b64"])


def recorded_form(request: dict[str, Any]) -> dict[str, tuple[str | None, bytes]]:
    """The first part of each name of a multipart body: its filename and its bytes."""
    head = "".join(f"{name}: {value}\r\n" for name, value in request["headers"])
    whole = head.encode() + b"\r\n" + recorded_bytes(request)
    form: dict[str, tuple[str | None, bytes]] = {}
    for part in message_from_bytes(whole, policy=HTTP.clone(utf8=True)).iter_parts():
        name = part.get_param("name", header="content-disposition")
        filename = part.get_param("filename", header="content-disposition")
        if isinstance(filename, str):
            filename = filename.encode("utf-8", "surrogateescape").decode()
        form.setdefault(str(name), (filename, part.get_payload(decode=True)))
    return form
