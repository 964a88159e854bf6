"""The local API on a real socket, above small rooms that do and remember what a test says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from aiohttp.test_utils import BaseTestServer, TestClient
from backend import open_database
from stack import serving
from wire import Running
from yarl import URL

from proxy.api import ApiOptions, keys
from proxy.api.journal import Journal
from proxy.api.keys import Services
from proxy.api.readiness import Report
from proxy.api.spool import Spool
from proxy.api.web_interface import WebInterface
from proxy.app.server import Server
from proxy.catalog.bodies import Body, Coding, Whole
from proxy.catalog.file_lists import Listing
from proxy.edge.accepting import listen
from proxy.edge.context import ConnectionLimits
from proxy.edge.listener import address_of
from proxy.files.conversions import Conversion
from proxy.files.namespace import Named, make_record
from proxy.files.picture_parts import Edits
from proxy.jobs.clients import Clients
from proxy.jobs.models import JobRecord, JobRequest
from proxy.jobs.service import JobQuery
from proxy.jobs.subscribers import Subscribers
from proxy.members.accounting import Accounting
from proxy.members.directory import Directory
from proxy.members.member import Limits, Member
from proxy.metrics import Metrics
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.loop_turns import LoopTurns
from proxy.sharing.pool import Pool
from proxy.sharing.turns import thread_turns
from proxy.storage.database import Database
from proxy.storage.encryption import Cipher
from proxy.storage.file_tables import FileRecord
from proxy.storage.usage import UsageRepository
from proxy.translate import codec
from proxy.translate.errors import LocalError
from proxy.translate.events import Event
from proxy.translate.names import Place
from proxy.userdata.stored import StoredUserData

MEMBER = "local"
JOB = "14a1c0de-0000-4000-8000-000000000001"
LETTERS = b"abcdefghijklmnopqrstuvwxyz"
#: 2024-01-02 03:04:05 UTC
WRITTEN = 1704164645.0


@dataclass
class HistoryOfTests:
    """The ended jobs, of which there are none."""

    asked: list[tuple[Any, ...]]

    async def json(
        self, member: str, *, max_items: int | None, offset: int | None, reserve: Any
    ) -> bytes:
        self.asked.append(("history", max_items, offset))
        return b"{}"

    async def entry_json(self, member: str, prompt_id: str) -> bytes:
        self.asked.append(("history entry", prompt_id))
        return b"{}"

    async def forget(self, member: str, ids: list[str] | None) -> None:
        self.asked.append(("clear history",) if ids is None else ("delete history", *ids))


@dataclass
class RoomOfJobs:
    """Answers what it is told to, and remembers what it was asked."""

    clients: Clients = field(default_factory=Clients)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    remaining: int = 0
    node: str | None = None
    refusal: LocalError | None = None
    failure: Exception | None = None
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = HistoryOfTests(self.asked)
        self.subscribers = Subscribers(self.clients, Supervisor())
        self.submissions = self.feed = self

    @contextmanager
    def watched(self, changed: Callable[[], None]) -> Iterator[None]:
        yield

    def attach(self, member: str, client_id: str, *given: Any, **named: Any) -> None:
        self.subscribers.attach(member, client_id, *given, **named)
        if self.node is not None:
            executing = Event("executing", {"node": self.node})
            self.subscribers.send_to(member, client_id, executing)

    @asynccontextmanager
    async def submitted(
        self, member: str, request: JobRequest, *, again: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(("submit", member, request))
        if self.refusal is not None:
            raise self.refusal
        if self.failure is not None:
            raise self.failure
        number = request.number or 0
        yield {"prompt_id": request.prompt_id or JOB, "number": number, "node_errors": {}}
        self.asked.append(("release", member))

    async def stop(self) -> None:
        pass

    def queue_remaining(self, member: str) -> int:
        return self.remaining

    async def queue_json(self, member: str) -> bytes:
        if self.failure is not None:
            raise self.failure
        return b'{"queue_running": [], "queue_pending": []}'

    async def history_json(self, member: str, prompt_id: str) -> bytes:
        return await self.history.entry_json(member, prompt_id)

    async def list_jobs(self, member: str, query: JobQuery) -> dict[str, Any]:
        self.asked.append(("list", query))
        return {"jobs": [], "pagination": {}}

    async def job(self, member: str, prompt_id: str) -> JobRecord | None:
        job = self.jobs.get(prompt_id)
        if job is None or "outputs" not in job:
            return None if job is None else JobRecord(b"{}", b"{}", job)
        result = codec.dump_bytes({"outputs": job["outputs"], "status": {}})
        return JobRecord(b"{}", b"{}", summary=codec.dump_bytes(job), result=result)

    async def delete_pending(self, member: str, ids: list[str] | None) -> None:
        self.asked.append(("clear pending",) if ids is None else ("delete pending", *ids))

    async def interrupt(
        self,
        member: str,
        prompt_id: str | None,
        *,
        submitter: str = "",
        client_id: str | None = None,
    ) -> None:
        self.asked.append(("interrupt", prompt_id))

    async def cancel(self, member: str, prompt_id: str) -> bool:
        self.asked.append(("cancel", prompt_id))
        return prompt_id in self.jobs

    async def cancelled_of(self, member: str, prompt_ids: Iterable[str]) -> list[str]:
        return [id_ for id_ in dict.fromkeys(prompt_ids) if await self.cancel(member, id_)]


@dataclass
class OpenFile:
    """A content: complete on disk, or (with `arriving`) on its way."""

    path: Path | None
    size: int | None
    arriving: list[bytes | Exception] = field(default_factory=list)
    edits: Edits = field(default_factory=Edits)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @cached_property
    def file(self) -> int:
        assert self.path is not None
        return os.open(self.path, os.O_RDONLY)

    async def pieces(
        self, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes | tuple[int, int]]:
        if self.path is not None:
            for part in self.edits.pieces(start, stop):
                if isinstance(part, bytes):
                    yield part
                elif part.stop is not None:
                    yield part.start, part.stop
        for piece in self.arriving:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        if "file" in vars(self):
            os.close(vars(self).pop("file"))
        self.closed.set()


@dataclass
class RoomOfFiles:
    """Files that a test put there, and uploads as they came."""

    folder: Path
    records: dict[tuple[str, str, str], FileRecord] = field(default_factory=dict)
    contents: dict[str, OpenFile] = field(default_factory=dict)
    opened: list[OpenFile] = field(default_factory=list)
    uploaded: list[dict[str, Any]] = field(default_factory=list)
    conversions: list[Conversion] = field(default_factory=list)

    def add(
        self, filename: str, data: bytes = LETTERS, *, type_: str = "output", subfolder: str = ""
    ) -> FileRecord:
        """A complete file on disk, last written at `WRITTEN`."""
        path = self.folder / f"content-{len(self.records)}"
        path.write_bytes(data)
        record = make_record(
            MEMBER,
            Place(type_, f"{subfolder}/{filename}" if subfolder else filename),
            cloud_name="0" * 64,
            cloud_type="input",
            modified=WRITTEN,
            content=("0" * 64, len(data)),
        )
        self.records[type_, subfolder, filename] = record
        self.contents[record.path] = OpenFile(path, len(data))
        return record

    def add_arriving(self, filename: str, *pieces: bytes | Exception, size: int | None) -> None:
        """A file that is not there yet and arrives in pieces."""
        record = msgspec.structs.replace(self.add(filename), size=None, hash=None)
        self.records["output", "", filename] = record
        self.contents[record.path] = OpenFile(None, size, list(pieces))

    @property
    def namespace(self) -> Self:
        return self

    uploads = namespace

    async def find(
        self, member: str, type_: str, subfolder: str, filename: str
    ) -> FileRecord | None:
        return self.records.get((type_, subfolder, filename))

    async def get(self, member: str, place: Place) -> FileRecord | None:
        filename = place.path.rpartition("/")[2]
        return await self.find(member, place.type, place.subfolder, filename)

    async def open(self, record: FileRecord) -> OpenFile:
        self.opened.append(replace(self.contents[record.path]))
        return self.opened[-1]

    async def convert(self, record: FileRecord, wanted: Conversion) -> bytes:
        self.conversions.append(wanted)
        return b"picture"

    async def listing(self, member: str, type_: str) -> Listing:
        found = [record for (kind, _, _), record in self.records.items() if kind == type_]
        return {
            record.path: record.size for record in sorted(found, key=lambda record: record.path)
        }

    async def upload(self, member: str, body: AsyncIterator[bytes], **named: Any) -> Named:
        data = b"".join([chunk async for chunk in body])
        self.uploaded.append({"data": data, **named})
        return Named(named["filename"], named["subfolder"], named["type"])


@dataclass
class RoomOfNodes:
    """A catalog of one of each, or one that is not to be had."""

    refusal: LocalError | None = None
    files: Listing = field(default_factory=dict)

    @property
    def extras(self) -> Self:
        return self

    async def load(self, timeout: float) -> bool:
        return True

    async def object_info(self, member: str, files: Listing, coding: Coding) -> Body:
        if self.refusal is not None:
            raise self.refusal
        self.files = files
        return Whole([b'{"LoadImage": {}}']).body(files, coding)

    async def node_class_json(self, member: str, name: str, files: Listing) -> bytes:
        return codec.dump_bytes({name: {}} if name == "LoadImage" else {})

    async def model_folders(self) -> list[str]:
        return ["loras"]

    async def models(self, member: str, folder: str) -> list[str] | None:
        return ["a.safetensors"] if folder == "loras" else None

    async def model_folders_in_detail(self) -> list[dict[str, Any]]:
        return [{"name": "loras", "folders": ["loras"]}]

    async def models_in_detail(self, member: str, folder: str) -> list[dict[str, Any]] | None:
        return [{"name": "a.safetensors", "pathIndex": 0}] if folder == "loras" else None

    async def embeddings(self, member: str) -> list[str]:
        return ["bad-hands"]

    async def subgraphs(self) -> dict[str, Any]:
        return {"x": {"source": "templates", "name": "X", "info": {"node_pack": "y"}}}

    async def subgraph(self, id_: str) -> dict[str, Any] | None:
        about = (await self.subgraphs()).get(id_)
        return None if about is None else {**about, "data": "{}"}

    async def node_replacements(self) -> dict[str, Any]:
        return {"Old": [{"new_node_id": "New"}]}

    async def preview(self, folder: str, index: int, file: str) -> tuple[bytes, str] | None:
        return (b"picture", "image/webp") if (folder, index) == ("loras", 0) else None

    async def template_picture(self, name: str) -> tuple[bytes, str] | None:
        return (name.encode(), "image/webp") if name.startswith("one") else None


@pytest.fixture
def room_of_jobs() -> RoomOfJobs:
    return RoomOfJobs()


@pytest.fixture
def room_of_files(tmp_path: Path) -> RoomOfFiles:
    return RoomOfFiles(tmp_path)


@pytest.fixture
def room_of_nodes() -> RoomOfNodes:
    return RoomOfNodes()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_database(tmp_path / "kept")
    yield database
    await database.close()


@pytest.fixture
def userdata(kept: Database) -> StoredUserData:
    return StoredUserData(kept)


@pytest.fixture
def accounting(kept: Database) -> Accounting:
    """For members without limits."""
    free = Limits(stored_bytes=None)
    return Accounting(Metrics(), UsageRepository(kept), lambda name: Member(name, limits=free))


class AlwaysReady:
    """A process that can take jobs."""

    async def report(self, *, patient: bool = False) -> Report:
        return Report()


class NoObservations:
    """Observations of no account."""

    async def report(self) -> list[dict[str, Any]]:
        return []


class NoAssets:
    """The assets API of members without records."""

    async def newest_of(self, *_: Any) -> None:
        return None

    async def of_job(self, *_: Any) -> dict[str, Any]:
        return {}


#: Bytes of the memory budget, as by default.
DEFAULT_MEMORY = 256 * 1024 * 1024


def services_over(jobs: Any, files: Any, catalog: Any, userdata: Any, **more: Any) -> Services:
    """Services over the rooms of a test."""
    rooms: dict[str, Any] = {
        "members": Directory(),
        "webhooks": None,
        "balances": None,
        "history": None,
        "observations": NoObservations(),
        "readiness": AlwaysReady(),
        "journal": Journal(jobs.subscribers),
        "interface": WebInterface(),
        "budget": MemoryBudget(DEFAULT_MEMORY),
        "spool": Spool(ApiOptions().max_upload_bytes),
        "streams": Pool(1000, 4),
        "cipher": Cipher(),
        "supervisor": Supervisor(),
    }
    names = set(ApiOptions.__struct_fields__)
    options = ApiOptions(**{name: more.pop(name) for name in names & more.keys()})
    rooms |= {"jobs": jobs, "files": files, "catalog": catalog, "userdata": userdata}
    rooms |= {"options": options, "turns": thread_turns(), "pools": {}, "providers": {}}
    rooms |= {"assets": NoAssets(), "packs": None, "loop_turns": LoopTurns()} | more
    services = keys.Services()
    for name, room in rooms.items():
        services[getattr(keys, name.upper())] = room
    return services


class ServerUnderTest(BaseTestServer):
    """The server as it is run, for aiohttp's test client."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self.server = Server(services, stop_timeout=0.5)
        self.app = self.server.app
        self._stack = AsyncExitStack()

    async def start_server(self, *_: Any, **__: Any) -> None:
        if self._root is None:
            self._root = URL(await self._stack.enter_async_context(serving(self.server)))
            self.port = self._root.port

    async def close(self) -> None:
        await self._stack.aclose()

    async def _make_runner(self, **_: Any) -> Any:
        raise NotImplementedError


Serve = Callable[..., Awaitable[TestClient[Any, Any]]]


@pytest.fixture
def serve(
    aiohttp_client: Any,
    room_of_jobs: RoomOfJobs,
    room_of_files: RoomOfFiles,
    room_of_nodes: RoomOfNodes,
    userdata: StoredUserData,
    accounting: Accounting,
) -> Serve:
    """Start the local API with settings of the test's own."""

    async def start(**settings: Any) -> TestClient[Any, Any]:
        services = services_over(
            room_of_jobs, room_of_files, room_of_nodes, userdata, accounting=accounting, **settings
        )
        client: TestClient[Any, Any] = await aiohttp_client(ServerUnderTest(services))
        return client

    return start


@pytest.fixture
async def client(serve: Serve) -> TestClient[Any, Any]:
    """The local API with the settings that it has by itself."""
    return await serve()


@pytest.fixture
async def members() -> AsyncIterator[Directory]:
    """The members Ann and Bob."""
    directory = Directory()
    for name in ("ann", "bob"):
        await directory.add(Member(name))
    yield directory
    await directory.close()


@pytest.fixture
async def token(members: Directory) -> str:
    """A token of Ann."""
    return (await members.new_token("ann"))[0]


@pytest.fixture
def running(
    room_of_jobs: Any, room_of_files: Any, room_of_nodes: Any, userdata: Any, accounting: Any
) -> Any:
    @asynccontextmanager
    async def run(
        stop_timeout: float = 1.0, members: Directory | None = None, **limits: Any
    ) -> AsyncIterator[Running]:
        began, go = asyncio.Event(), asyncio.Event()

        @asynccontextmanager
        async def submitted(
            _member: str, _request: JobRequest, **_: Any
        ) -> AsyncIterator[dict[str, Any]]:
            began.set()
            await go.wait()
            yield {"prompt_id": "p", "number": 0, "node_errors": {}}

        room_of_jobs.submitted = submitted
        services = services_over(
            room_of_jobs,
            room_of_files,
            room_of_nodes,
            userdata,
            accounting=accounting,
            members=members or Directory(),
        )
        server = Server(services, ConnectionLimits(**limits), stop_timeout=stop_timeout)
        sockets = await listen(["127.0.0.1"], 0)
        await server.start(sockets)
        url = URL(address_of(sockets, "127.0.0.1", tls=False))
        found = Running(server, url, began, go, sockets)
        try:
            yield found
        finally:
            for writer in found.writers:
                writer.transport.abort()
            await found.stop()

    return run
