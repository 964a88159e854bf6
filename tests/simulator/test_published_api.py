"""The simulator against a published OpenAPI description of Comfy Cloud.

The description is not part of the project: `make conformance OPENAPI=/path/to/it`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from proxy.simulator import Simulator
from proxy.simulator.routes import ROUTES

DESCRIPTION = os.environ.get("COMFY_CLOUD_OPENAPI")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def described() -> dict[str, Any]:
    """The description, with what newer ones say of bad queries."""
    api: dict[str, Any] = YAML(typ="safe").load(Path(str(DESCRIPTION)).read_text(encoding="utf-8"))
    api["paths"]["/api/jobs"]["get"]["responses"]["400"] = {"description": "A bad query."}
    return api


def served(api: dict[str, Any]) -> list[str]:
    """The operations of the description that the simulator has, as `METHOD /path`."""
    known = {(route.method, re.sub(r"\{\w+\}", "{}", route.path)) for route in ROUTES}
    return [
        f"{method.upper()} {path}"
        for path, operations in api["paths"].items()
        for method in operations
        if (method.upper(), re.sub(r"\{\w+\}", "{}", path)) in known
    ]


@pytest.mark.skipif(DESCRIPTION is None, reason="COMFY_CLOUD_OPENAPI is not set")
async def test_the_simulator_answers_as_the_description_says(tmp_path: Path) -> None:
    api = described()
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(api, default=str), encoding="utf-8")

    names = [word for name in served(api) for word in ("--include-name", name)]
    assert len(names) > 40
    async with Simulator() as simulator:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(file), *names),
            *("--url", str(simulator.base_url).rstrip("/"), "--no-color", "--mode", "positive"),
            *("-H", f"X-API-Key: {simulator.key}", "--checks", ",".join(CHECKS)),
            *("--phases", "examples,fuzzing", "--max-examples", "20", "--seed", "3"),
        ]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
