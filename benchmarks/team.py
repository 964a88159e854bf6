"""A proxy that a team shares, and what its cloud was given: for `fairness.py` and `dispatch.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from api import HERE, KEY
from processes import server
from yarl import URL

from proxy.members.directory import Directory
from proxy.members.member import Member
from proxy.storage.members import MemberRepository
from proxy.storage.start import open_folder
from proxy.translate import codec


@dataclass(frozen=True)
class CloudJob:
    """A job as the cloud had it. Times are seconds since 1970."""

    member: str
    prompt_id: str
    arrived: float
    started: float
    ended: float


@dataclass
class Shop:
    """A running proxy, the tokens of its members, and where its cloud keeps its record."""

    url: URL
    tokens: dict[str, str]
    record: Path

    def cloud_jobs(self) -> list[CloudJob]:
        """All jobs in the order of their arrival, when the cloud has stopped."""
        return [
            CloudJob(
                member=job["mark"].split("/")[0],
                prompt_id=job["mark"].split("/")[1],
                arrived=job["created"] / 1000,
                started=job["started"] / 1000,
                ended=job["ended"] / 1000,
            )
            for job in codec.loads(self.record.read_bytes())
        ]


@asynccontextmanager
async def running(
    folder: Path, names: Iterable[str], *options: str, plan: str = "pro", pace: float = 0.0
) -> AsyncIterator[Shop]:
    """The proxy and its cloud, each in a process of its own, with members of these names."""
    tokens = {}
    database = await open_folder(folder / "data")
    directory = Directory(MemberRepository(database))
    await directory.load()
    for name in names:
        await directory.add(Member(name))
        tokens[name], _ = await directory.new_token(name)
    await directory.close()
    await database.close()
    record = folder / "jobs.json"
    cloud_options = ("--plan", plan, "--pace", str(pace), "--record", str(record))
    async with (
        server(str(HERE / "cloud.py"), KEY, *cloud_options) as cloud,
        server(
            *("-m", "proxy", "serve", "--port", "0", "--data-dir", str(folder / "data")),
            *options,
            COMFY_CLOUD_API_KEY=KEY,
            COMFY_CLOUD_BASE_URL=str(cloud.url),
        ) as proxy,
    ):
        yield Shop(proxy.url, tokens, record)


def session(token: str) -> aiohttp.ClientSession:
    """The connections of a client that has this token.

    All come from one address: those of twenty members are fewer than the new connections that it
    may have.
    """
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(limit=12)
    )
