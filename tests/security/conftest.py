"""The proxy that is attacked, the figures of all attacks at the end, and a mark that leaves them to
`make attacks`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
from process import before
from security.attack import PROPERTY, Record, Target, running_target

from proxy.simulator import Simulator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        attacks = isinstance(item, pytest.Function) and "start" in item.fixturenames
        if attacks and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.attack)


class Start(Protocol):
    """Starts a proxy with options; see `running_target`."""

    def __call__(
        self, *options: str, environment: Mapping[str, str] | None = None, members: bool = True
    ) -> AbstractAsyncContextManager[Target]: ...


@pytest.fixture
def start(simulator: Simulator, tmp_path: Path, record_property: Record) -> Start:
    """Start a proxy before a simulator, or before the cloud of its `environment`."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the memory of another process is read from /proc")

    def started(
        *options: str, environment: Mapping[str, str] | None = None, members: bool = True
    ) -> AbstractAsyncContextManager[Target]:
        return running_target(
            tmp_path / "data",
            record_property,
            *options,
            environment={**before(simulator), **(environment or {})},
            members=members,
        )

    return started


@pytest.fixture
async def target(start: Start) -> AsyncIterator[Target]:
    """A proxy with members before a simulator."""
    async with start() as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures; the whole suite, which does not load this file first, prints none."""
    found = [
        (report.nodeid.rpartition("::")[2], figures)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, figures in getattr(report, "user_properties", ())
        if name == PROPERTY and report.when == "call"
    ]
    if not found:
        return
    terminalreporter.section("what others notice of attacks")
    terminalreporter.write_line(
        f"{'attack':<70}{'by':<14}{'wait':>8}{'machine':>9}{'served':>9}{'growth':>9}"
    )
    for name, figures in sorted(found, key=lambda item: (item[1]["who"], item[0])):
        terminalreporter.write_line(
            f"{name.removeprefix('test_')[:68]:<70}{figures['who']:<14}"
            f"{figures['wait']:>6.2f} s{figures['machine']:>7.2f} s{figures['served']:>7.2f} s"
            f"{figures['growth']:>6} MB"
        )
