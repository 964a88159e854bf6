"""A proxy with members, for tests: Ann, an admin, and Bob."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from backend import open_database, settings_of
from stack import Client, Proxy, running_proxy
from yarl import URL

from proxy.api.keys import MEMBERS
from proxy.members.directory import Directory
from proxy.members.marker import marker_of
from proxy.members.member import Limits, Member, Role
from proxy.simulator import Simulator
from proxy.storage.members import MemberRepository


@dataclass
class Team:
    """A running proxy and the tokens of its members."""

    proxy: Proxy
    ann: str
    bob: str

    @property
    def url(self) -> URL:
        return self.proxy.url

    @property
    def members(self) -> Directory:
        return self.proxy.services[MEMBERS]


@asynccontextmanager
async def running_team(simulator: Simulator, folder: Path, **settings: Any) -> AsyncIterator[Team]:
    """The proxy before `simulator`, shared by two members."""
    tokens = await add_members(folder, {"ann": "admin", "bob": "user"})
    async with running_proxy(simulator, folder, **settings) as proxy:
        yield Team(proxy, tokens["ann"], tokens["bob"])


async def add_members(folder: Path, roles: Mapping[str, Role]) -> dict[str, str]:
    """Add members to the data of a proxy that is not running; a token of each."""
    return await added(folder, [Member(name, role=role) for name, role in roles.items()])


async def added(folder: Path, members: Iterable[Member]) -> dict[str, str]:
    """Add members as they are to the data of a proxy that is not running; a token of each."""
    database = await open_database(folder)
    directory = Directory(MemberRepository(database), marker=marker_of(settings_of(folder)))
    await directory.load()
    tokens = {}
    for member in members:
        await directory.add(member)
        tokens[member.name], _ = await directory.new_token(member.name)
    await directory.close()
    await database.close()
    return tokens


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str, user: str = "x") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()}


@asynccontextmanager
async def limited_member(proxy: Proxy, **limits: Any) -> AsyncIterator[Client]:
    """A client of a member with limits."""
    directory = proxy.services[MEMBERS]
    await directory.add(Member("alice", limits=Limits(**limits)))
    token, _ = await directory.new_token("alice")
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        yield Client(session, proxy.url)
