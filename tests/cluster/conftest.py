"""The servers of the tests of this folder, and a mark that leaves it to `make test-cluster`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import gated
import pytest
import pytest_asyncio
import servers as server_processes
from cluster.replicas import Cluster, Person, Servers, running_cluster
from stack import Client

from proxy.simulator import Simulator, Switches


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL, of this process of tests."""
    with server_processes.postgresql() as postgresql:
        yield Servers(postgresql)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A cloud whose jobs take long enough to meet what befalls the replicas."""
    async with Simulator(plan="pro", switches=Switches(pace=0.05)) as running:
        yield running


@pytest.fixture
async def cluster(tmp_path: Path, servers: Servers, simulator: Simulator) -> AsyncIterator[Cluster]:
    """Three replicas that take jobs."""
    async with running_cluster(tmp_path, servers, simulator) as running:
        yield running


@dataclass
class Team:
    """Three replicas with members, for all tests of a module, and a node that waits for `gate`.

    The cloud runs one job at once.
    """

    cluster: Cluster
    simulator: Simulator
    gate: asyncio.Event


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_team(
    tmp_path_factory: pytest.TempPathFactory, servers: Servers
) -> AsyncIterator[Team]:
    gate = asyncio.Event()
    async with (
        Simulator(
            switches=Switches(cache_nodes=False), extra_nodes=[gated.gate(gate)]
        ) as simulator,
        running_cluster(
            tmp_path_factory.mktemp("team"), servers, simulator, members=True
        ) as running,
    ):
        yield Team(running, simulator, gate)


@pytest_asyncio.fixture(loop_scope="module")
async def team(shared_team: Team) -> AsyncIterator[Team]:
    """The replicas with the gate closed; behind the test it is open."""
    shared_team.gate.clear()
    yield shared_team
    shared_team.gate.set()


@pytest_asyncio.fixture(loop_scope="module")
async def person(team: Team) -> AsyncIterator[Person]:
    """A new member."""
    async with team.cluster.person() as person:
        yield person


@pytest.fixture
def clients(person: Person) -> list[Client]:
    """The member's client, at each replica."""
    return person.clients
