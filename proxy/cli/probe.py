"""`probe`: measures what the documents of Comfy Cloud leave open, and prints a line for each."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import typer

from proxy import logging as logs
from proxy.cli.clouds import chosen_accounts
from proxy.cli.failure import CommandError
from proxy.probe.points import Findings, Level
from proxy.probe.service import CONSENT, probe
from proxy.settings import Settings

_WORDS = {
    "as_assumed": "as assumed",
    "tolerated": "tolerated",
    "not_understood": "NOT UNDERSTOOD",
    "not_seen": "not seen",
}
_EXIT_CODES = {"works": 0, "limited": 1, "fails": 2}


def run_probe(settings: Settings, *, level: Level, to: Path | None, consent: bool) -> int:
    """Probe the first account. Returns 0 if the proxy works with it, 1 with limits, 2 if not."""
    logs.configure()
    logging.disable(logging.CRITICAL)  # the report says what went wrong
    if level == "run" and not consent:
        _ask()
    findings = asyncio.run(_probe(settings, level))
    report = findings.report()
    _print(report)
    if to is not None:
        _write(report, to)
    return _EXIT_CODES[report["verdict"]]


def _ask() -> None:
    if not sys.stdin.isatty():
        raise CommandError("The level run submits jobs: confirm it with --yes.", exit_code=2)
    typer.echo(CONSENT)
    typer.confirm("Go on?", abort=True)


async def _probe(settings: Settings, level: Level) -> Findings:
    async with chosen_accounts(settings) as chosen:
        account = chosen.accounts[0]
        return await probe(account.base_url, account.key, level)


def _print(report: dict[str, Any]) -> None:
    for row in report["points"]:
        observed = row["observed"] or "-"
        assumed = "" if row["verdict"] == "as_assumed" else f" (assumed: {row['assumed']})"
        typer.echo(f"{_WORDS[row['verdict']]:<15}{row['id']:<23}{observed}{assumed}")
    typer.echo(report["conclusion"])


def _write(report: dict[str, Any], to: Path) -> None:
    try:
        to.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{to} cannot be written ({error.strerror}): choose another file."
        ) from None
