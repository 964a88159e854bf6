"""The whole stack, for every room's tests."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import aiohttp
import pytest
from backend import open_database, running_servers
from cloud_process import CloudProcess, running_cloud
from deployments import Place
from hypothesis import settings
from quiet import logging_restored
from stack import Client, Proxy, running_proxy

from proxy.cli import main
from proxy.engine import accounts as health
from proxy.runtime.backoff import Backoff
from proxy.simulator import Simulator
from proxy.simulator.deployment import SimulatedDeployment
from proxy.storage.database import Database

# The same examples everywhere, and none is too slow: a busy machine is no counterexample.
settings.load_profile("ci")

# A shell without job control ignores SIGINT in what it starts in the background, and children would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    """Refuse an environment in which an older version is installed: it would have other packs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for group, points in project["entry-points"].items():
        found = {point.name: point.value for point in entry_points(group=group)}
        if not points.items() <= found.items():
            pytest.exit(
                "The environment is older than pyproject.toml. Install the project again: "
                f"{sys.executable} -m pip install --no-deps --no-build-isolation --editable {ROOT}",
                returncode=4,
            )


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """No test leaves its logging to the next."""
    with logging_restored():
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Twice as many workers as cores: tests wait for more than half of their time."""
    if config.getoption("--backend") != "sqlite":
        return None  # each worker has servers of its own
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Search for no garbage while the tests are collected: all that is made then stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=["sqlite", "postgresql"],
        default="sqlite",
        help="what the proxies of the tests run on; SQLite or postgresql",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--backend") != "sqlite":
        reason = pytest.mark.skip(reason="it is about SQLite, the data folder or one process")
        for item in items:
            if item.get_closest_marker("sqlite") is not None:
                item.add_marker(reason)


@pytest.fixture(scope="session", autouse=True)
def _backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    if request.config.getoption("--backend") == "sqlite":
        yield
        return
    with running_servers():
        yield


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command on a data folder; its exit code, output and complaint."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--data-dir", str(tmp_path)])
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return call


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_database(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
def opened() -> asyncio.Event:
    """Whether the nodes of `gated.gate` end."""
    return asyncio.Event()


@pytest.fixture
async def cloud_process(tmp_path: Path) -> AsyncIterator[CloudProcess]:
    async with running_cloud(tmp_path) as running:
        yield running


@pytest.fixture
async def deployment() -> AsyncIterator[SimulatedDeployment]:
    async with SimulatedDeployment() as running:
        yield running


@pytest.fixture
def place(
    simulator: Simulator,
    deployment: SimulatedDeployment,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> Place:
    return Place(simulator, deployment, tmp_path, session)


@pytest.fixture
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that is set aside is tried again soon."""
    for reason in health.RESTS:
        monkeypatch.setitem(health.RESTS, reason, Backoff(0.1, 0.2))


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(simulator, tmp_path / "data") as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def client(proxy: Proxy, session: aiohttp.ClientSession) -> Client:
    return Client(session, proxy.url)
