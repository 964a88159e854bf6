"""Our answers beside those of a real ComfyUI, recording by recording."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fidelity.deviations import DEVIATIONS, Row
from fidelity.recording import FOLDER, load
from fidelity.replay import Finding, Replay
from fidelity.seed import seed, simulated
from stack import running_proxy

from proxy.app import resources
from proxy.packs.discovery import offered

SCENARIOS = sorted(path.stem for path in FOLDER.glob("*.json"))

#: What the options of the recorded server are for us.
SETTINGS: dict[str, dict[str, Any]] = {
    "queue_running_pending": {"slots": 1},
    "cors": {"cors_origins": ("*",)},
    "small_upload_limit": {"max_upload_mb": 0.01},
}

Record = Callable[[str, object], None]


@pytest.fixture
async def bare_session() -> Any:
    """A client that shows answers as they are."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_answers_and_messages_are_as_recorded(
    scenario: str,
    tmp_path: Path,
    bare_session: aiohttp.ClientSession,
    record_property: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording = load(scenario)
    if scenario == "save_image_websocket":  # the proxy's own, as where an account lacks it
        monkeypatch.setattr(resources, "offered", lambda classes, _: offered(classes, classes))
    async with (
        simulated(recording) as simulator,
        running_proxy(simulator, tmp_path / "data", **SETTINGS.get(scenario, {})) as proxy,
    ):
        await seed(recording, proxy)
        findings = await Replay(recording, proxy, bare_session).run()
    explained = [(finding, _explained(scenario, finding)) for finding in findings]
    for finding, reasons in explained:
        about = [finding.kind, sorted({row.reason for row in reasons.values() if row})]
        record_property("fidelity", about)
    unexplained = [
        f"{finding.name}\n    {difference}"
        for finding, reasons in explained
        for difference, row in reasons.items()
        if row is None
    ]
    assert not unexplained, "\n".join(unexplained)
    used = {row for _, reasons in explained for row in reasons.values()}
    own = [row for row in DEVIATIONS if row.recording == scenario and not row.chance]
    assert not [row for row in own if row not in used]


def _explained(scenario: str, finding: Finding) -> dict[str, Row | None]:
    """The row that explains each difference."""
    return {
        difference: next(
            (row for row in DEVIATIONS if row.explains(scenario, finding.name, difference)),
            None,
        )
        for difference in finding.differences
    }
