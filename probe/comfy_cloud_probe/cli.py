"""The command `comfy-cloud-probe`: its options, its lines and its exit codes."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from comfy_cloud_probe import CONSENT, Target, probe
from comfy_cloud_probe.points import Findings, Level
from proxy import logging as logs
from proxy.catalog.owners import split_owners
from proxy.cli.common import CommandError, UsageError, chosen_accounts
from proxy.cli.tables import say
from proxy.cloud.errors import CloudError
from proxy.cloud.observations import identity_of, keep_facts
from proxy.cloud.v2.catalog import NodeList
from proxy.settings import AccountAccess, ConfigError, Settings, load
from proxy.storage.database import StorageError
from proxy.storage.start import has_database, opened_database

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_WORDS = {
    "as_assumed": "as assumed",
    "tolerated": "tolerated",
    "not_understood": "NOT UNDERSTOOD",
    "not_seen": "not seen",
}
_EXIT_CODES = {"works": 0, "limited": 1, "fails": 2}


def main() -> None:
    """Run the command and exit: 0 if the proxy works with the account, 1 with limits, 2 if not."""
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        _refuse("Aborted.", 1)
    except typer.TyperException as error:
        _refuse(error.format_message(), 2)
    except ConfigError as error:
        _refuse(str(error), 2)
    except CommandError as error:
        _refuse(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse(sentence: str, code: int) -> None:
    say(f"comfy-cloud-probe: {sentence}", err=True)
    sys.exit(code)


def _option(metavar: str, text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, show_default=False)


@app.command()
def run_probe(
    level: Annotated[
        Literal["read", "run"],
        typer.Option(metavar="read|run", help="Only read, or also run small jobs."),
    ] = "read",
    to: Annotated[Path | None, _option("FILE", "Write the report to this file.", "--json")] = None,
    idle: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=90,
            help="How long `run` watches a socket without traffic: common limits are a minute.",
        ),
    ] = 65.0,
    consent: Annotated[bool, typer.Option("--yes", help="Run jobs without asking.")] = False,
    config: Annotated[str | None, _option("FILE", "The settings file of the proxy.")] = None,
    data_dir: Annotated[str | None, _option("DIR", "The data folder of the proxy.")] = None,
    api_key_file: Annotated[str | None, _option("FILE", "A file with the API key.")] = None,
    base_url: Annotated[str | None, _option("URL", "The address of the cloud.")] = None,
    simulate: Annotated[
        bool | None, typer.Option("--simulate", help="Probe the simulator, without a key.")
    ] = None,
) -> int:
    """Measure how Comfy Cloud behaves where its documentation is unclear.

    The probe takes the accounts from the settings of comfy-cloud-proxy: its file, its variables
    and these options. The report contains no key, no signed URL and no prompts of others. The exit
    code is 0 if the proxy works with this cloud, 1 if it works with limits, and 2 if it does not.
    """
    given = {
        "config": config,
        "data_dir": data_dir,
        "api_key_file": api_key_file,
        "base_url": base_url,
        "simulate": simulate,
    }
    settings = load({name: value for name, value in given.items() if value is not None})
    logs.configure()
    logging.disable(logging.CRITICAL)  # the report says what went wrong
    if level == "run" and not consent:
        if not sys.stdin.isatty():
            raise UsageError("--level run submits jobs: confirm with --yes.")
        say(CONSENT)
        typer.confirm("Go on?", abort=True)
    report = asyncio.run(_probe(settings, level, idle)).report()
    for row in report["points"]:
        observed = row["observed"] or "-"
        assumed = "" if row["verdict"] == "as_assumed" else f" (assumed: {row['assumed']})"
        say(f"{_WORDS[row['verdict']]:<15}{row['id']:<23}{observed}{assumed}")
    say(report["conclusion"])
    if to is not None:
        try:
            to.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(
                f"{to} cannot be written ({error.strerror}): choose another file."
            ) from None
    return _EXIT_CODES[report["verdict"]]


async def _probe(settings: Settings, level: Level, idle: float) -> Findings:
    async with chosen_accounts(settings) as chosen:
        cloud = [account for account in chosen.accounts if account.nodes is None]
        deployments = [account for account in chosen.accounts if account.nodes is not None]
        if not cloud and level == "read":
            raise UsageError(
                "There is no account of Comfy Cloud to probe: add one with its key, or observe the "
                "deployment with --level run."
            )
        findings = await probe(
            Target(cloud[0].base_url, cloud[0].key) if cloud else None,
            level,
            idle=idle,
            deployment=await _deployment(deployments[0]) if deployments else None,
        )
        if cloud and not settings.simulate and findings.conclusion()[0] != "fails":
            await _keep(settings, cloud[0], findings)
        return findings


async def _deployment(account: AccountAccess) -> Target:
    """Return a deployment with the classes of its list, none if that cannot be read."""
    classes: dict[str, Any] = {}
    if account.nodes is not None:
        with suppress(CloudError, ValueError):
            classes, _ = split_owners(await NodeList(account.nodes).read())
    return Target(account.base_url, account.key, classes)


async def _keep(settings: Settings, account: AccountAccess, findings: Findings) -> None:
    """Let the proxy know what was observed, where it has a database: it guesses less then."""
    if not has_database(settings):
        return
    facts = {name: observed for name, (observed, _) in findings.observed.items()}
    try:
        async with opened_database(settings) as database:
            await keep_facts(database, identity_of(account.name, account.base_url), facts)
    except StorageError as error:
        say(f"The observations could not be stored: {error}.", err=True)
