"""`jobs`: the jobs that a restored database brings back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import typer

from proxy.cli.common import CommandError, UsageError, command, examples
from proxy.cli.records import in_database, record_action
from proxy.cli.tables import say
from proxy.settings import Settings, load
from proxy.storage.database import Database, StorageError
from proxy.storage.held import hold_waiting, release_held
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.start import has_database

jobs = typer.Typer(
    help="Release the waiting jobs of a restored backup.",
    no_args_is_help=True,
    epilog=examples("jobs release"),
)


@command(jobs, "release", "jobs release")
def _release(options: dict[str, Any]) -> int:
    """Send the jobs that waited in a backup. A running proxy does so within a few seconds."""
    settings = load(options)
    count = _changed(settings, lambda database: database.write(release_held))
    record_action(settings, "jobs_released", count=count)
    say(f"{count} held {'job is' if count == 1 else 'jobs are'} sent in turn.")
    return 0


@command(jobs, "hold", "jobs hold --config config.toml")
def _hold(options: dict[str, Any]) -> int:
    """Hold the waiting jobs until you release them: for a database that other tools have restored.

    Stop all processes first. `restore` does the same itself.
    """

    async def hold(database: Database) -> int:
        if await LeaseRepository(database).holder(ENGINE) is not None:
            raise StorageError("a proxy uses the database: stop it first")
        return await database.write(hold_waiting)

    settings = load(options)
    count = _changed(settings, hold)
    record_action(settings, "jobs_held", count=count)
    say(held_sentence(count) if count else "No job waits.")
    return 0


def held_sentence(count: int) -> str:
    """Return what to do about so many held jobs."""
    what = "1 job that waited is" if count == 1 else f"{count} jobs that waited are"
    return (
        f"{what} held: such a job may have run since the backup. Start the proxy, cancel what has "
        "run, and send the others on the dashboard, or with comfy-cloud-proxy jobs release."
    )


def _changed(settings: Settings, change: Callable[[Database], Awaitable[int]]) -> int:
    if not has_database(settings):
        raise UsageError(
            f"There is no database in {settings.data_dir}: set --data-dir to the folder of the "
            "proxy."
        )
    try:
        return in_database(settings, change)
    except StorageError as error:
        raise CommandError(f"The jobs cannot be changed: {error}.") from None
