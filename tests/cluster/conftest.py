"""The servers of the tests of this folder, and a mark that leaves it to `make test-cluster`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import servers as server_processes
from cluster.replicas import Cluster, Servers, running_cluster

from proxy.simulator import Simulator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Valkey, of this process of tests."""
    with (
        server_processes.postgresql() as postgresql,
        server_processes.valkey(tmp_path_factory.mktemp("valkey")) as valkey,
    ):
        yield Servers(postgresql, valkey)


@pytest.fixture
async def cluster(tmp_path: Path, servers: Servers, simulator: Simulator) -> AsyncIterator[Cluster]:
    """Three replicas that take jobs."""
    async with running_cluster(tmp_path, servers, simulator) as running:
        yield running
