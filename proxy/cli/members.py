"""`member` and `token`, `usage` and `audit`: who may use a proxy, and who used what."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proxy import logging as logs
from proxy.cli.common import CommandError
from proxy.members import audit as record
from proxy.members.directory import Directory, marker_of
from proxy.members.member import (
    DirectoryError,
    Member,
    MemberFields,
    NewMember,
    NewToken,
    describe_member,
    describe_token,
    validated,
)
from proxy.members.tokens import Token
from proxy.settings import Settings, place_options
from proxy.storage.database import FILE, StorageError
from proxy.storage.jobs import day_of
from proxy.storage.legacy import MEMBERS
from proxy.storage.members import MemberRepository
from proxy.storage.start import locked_folder, open_folder, opened_database
from proxy.storage.usage import COUNTED, UsageRepository, UsageRow

T = TypeVar("T")

#: What takes a limit away again.
NONE = "none"

#: Letters of a line where no terminal says how many there is room for.
_WIDTH = 200


def add_member(settings: Settings, name: str, given: Mapping[str, Any], *, restore: bool) -> int:
    """Add a member."""

    async def add(directory: Directory) -> Member:
        wanted = {**_member(given), "name": name, "restore": restore}
        checked = validated(wanted, NewMember, strict=False)
        return await directory.add(checked.member(), restore=checked.restore)

    member = _with_directory(settings, add, make=True)
    _note(settings, "member_added", name=member.name, role=member.role)
    _say(
        f"{member.name} was added ({member.role}). "
        f"Next: comfy-cloud-proxy token new {member.name}{place_options(settings)}"
    )
    return 0


def set_member(settings: Settings, name: str, given: Mapping[str, Any]) -> int:
    """Change a member."""
    wanted = _member(given)
    if not wanted:
        raise CommandError("No option given: see comfy-cloud-proxy member set --help.", exit_code=2)

    async def change(directory: Directory) -> Member:
        checked = validated(wanted, MemberFields, strict=False)
        return await directory.change(name, **checked.changes())

    member = _with_directory(settings, change)
    _note(settings, "member_changed", name=member.name, what=", ".join(sorted(wanted)))
    _say(f"{member.name} is changed.")
    return 0


def enable_member(settings: Settings, name: str, *, enabled: bool) -> int:
    """Let a member in again, or no longer."""
    member = _with_directory(settings, lambda one: one.change(name, disabled=not enabled))
    _note(settings, "member_enabled" if enabled else "member_disabled", name=member.name)
    _say(f"{member.name} is {'enabled' if enabled else 'disabled'}.")
    return 0


def remove_member(settings: Settings, name: str) -> int:
    """Remove a member and its tokens."""

    async def remove(directory: Directory) -> tuple[Member, bool]:
        return await directory.remove(name), not directory.members()

    member, last = _with_directory(settings, remove)
    _note(settings, "member_removed", name=member.name)
    _say(
        f"{member.name} and its tokens were removed. Its history and files stay in the data "
        "folder; `member add --restore` makes them available again."
    )
    if last:
        _say(
            "This was the last member: a running proxy refuses all clients until you restart it. "
            "It then serves one person without tokens."
        )
    return 0


def list_members(settings: Settings, *, as_json: bool) -> int:
    """Print the members."""

    async def rows(directory: Directory) -> list[dict[str, Any]]:
        return [describe_member(directory, member) for member in directory.members()]

    found = _with_directory(settings, rows)
    if as_json:
        return _print_json(found)
    columns = ("Name", "Role", "State", "Weight", "Tokens", "Limits", "Since")
    _print_table(
        columns,
        (
            (
                one["name"],
                one["role"],
                "disabled" if one["disabled"] else "enabled",
                f"{one['weight']:g}",
                str(one["tokens"]),
                _limits(one["limits"] | {"client_parallelism": one["client_parallelism"]}),
                _day(one["created"]),
            )
            for one in found
        ),
    )
    return 0


def new_token(
    settings: Settings, name: str, *, expires: str | None, note: str, as_json: bool
) -> int:
    """Make a token and print it, once."""

    async def make(directory: Directory) -> tuple[str, dict[str, Any]]:
        wanted = {"member": name, "expires": expires, "note": note}
        checked = validated(wanted, NewToken)
        text, token = await directory.new_token(checked.member, **checked.values())
        return text, describe_token(directory, token)

    text, described = _with_directory(settings, make)
    _note(settings, "token_made", name=described["member"], of=described["shown"])
    if as_json:
        return _print_json({**described, "token": text})
    _say(text)
    sys.stderr.write("The token is shown only once; keep it like a password.\n")
    return 0


def revoke_token(settings: Settings, prefix: str) -> int:
    """Revoke a token."""
    token: Token = _with_directory(settings, lambda one: one.revoke(prefix))
    _note(settings, "token_revoked", name=token.member, of=token.shown)
    _say(f"The token {token.shown} of {token.member} was revoked.")
    return 0


def list_tokens(settings: Settings, name: str | None, *, as_json: bool) -> int:
    """Print tokens, never whole."""

    async def rows(directory: Directory) -> list[dict[str, Any]]:
        member = None if name is None else directory.find(name).name
        return [describe_token(directory, token) for token in directory.tokens(member)]

    found = _with_directory(settings, rows)
    if as_json:
        return _print_json(found)
    _print_table(
        ("Token", "Member", "Note", "Made", "Expires", "Last used"),
        (
            (
                one["shown"],
                one["member"],
                one["note"],
                _day(one["created"]),
                _day(one["expires"]) if one["expires"] else "never",
                f"{_minute(one['last_used']['at'])} from {one['last_used']['address']}"
                if one["last_used"]
                else "never",
            )
            for one in found
        ),
    )
    return 0


def _with_directory(
    settings: Settings, use: Callable[[Directory], Awaitable[T]], *, make: bool = False
) -> T:
    """What `use` gives for the members of the data folder.

    Where there are none yet, `make` lets their database be made; otherwise nothing is.
    """
    folder, shared = settings.data_dir, settings.database is not None
    legacy = not shared and (folder / MEMBERS).exists()
    known = shared or make or legacy or (folder / FILE).exists()
    if not known and not folder.is_dir():
        raise CommandError(
            f"There is no data folder {folder}: set --data-dir to the folder of the proxy.",
            exit_code=2,
        )

    async def run() -> T:
        if legacy:  # no server of this version has run here yet
            logs.configure()
            with locked_folder(folder):
                await (await open_folder(folder)).close()
        if not known:
            return await use(Directory())
        async with opened_database(settings) as database:
            directory = Directory(MemberRepository(database), marker=marker_of(settings))
            await directory.load()
            return await use(directory)

    try:
        return asyncio.run(run())
    except DirectoryError as error:
        raise CommandError(str(error), exit_code=2) from None
    except StorageError as error:
        if shared:
            raise CommandError(f"The members cannot be used: {error}.") from None
        raise CommandError(
            f"The members in {folder} cannot be used ({error}): set --data-dir to the folder of "
            "the proxy, or correct its permissions."
        ) from None


def _member(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as `MemberFields` takes them."""
    values = {
        name: None if value == NONE else value for name, value in given.items() if value is not None
    }
    if "denied_classes" in values:
        classes = values["denied_classes"]
        values["denied_classes"] = [] if classes == [NONE] else classes
    own = ("role", "weight", "client_parallelism")
    chosen: dict[str, Any] = {name: values.pop(name) for name in own if name in values}
    return {**chosen, **({"limits": values} if values else {})}


def _note(settings: Settings, action: str, **about: str) -> None:
    if settings.audit_days == 0:
        return

    async def write() -> None:
        async with opened_database(settings) as database:
            await record.note(UsageRepository(database), action, **about)

    try:
        asyncio.run(write())
    except StorageError as error:
        sys.stderr.write(f"The audit log could not be written ({error}).\n")


def _limits(limits: Mapping[str, Any]) -> str:
    said = [
        f"{name} {', '.join(value) if isinstance(value, list | tuple) else f'{value:,}'}"
        for name, value in limits.items()
        if value not in (None, False, (), []) and not isinstance(value, bool)
    ]
    return "; ".join([*said, *(["no partner nodes"] if limits["deny_partner_nodes"] else [])])


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def _minute(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _print_json(value: object) -> int:
    _say(json.dumps(value, indent=2))
    return 0


def _print_table(columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table, or a card for each row in a terminal that is too narrow for the table."""
    rows = list(rows)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    unbounded = console.options.update(width=10_000)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return
    for first, *others in rows:
        console.print(Text(first, style="bold"))
        for column, value in zip(columns[1:], others, strict=True):
            if value:
                console.print(Padding(Text(f"{column}: {value}"), (0, 0, 0, 2), expand=False))


Form = Literal["table", "csv", "json"]

_COLUMNS = ("day", "member", *COUNTED)


def usage(
    settings: Settings, *, first: str | None, last: str | None, member: str | None, form: Form
) -> int:
    """Print the usage from day to day, both included. Returns 0.

    Raises `CommandError` for days that are none and a database that cannot be read.
    """
    until = _date("--to", last) if last else day_of(time.time())
    since = _date("--from", first) if first else until
    rows = _asked(settings, "usage", lambda stored: stored.days(since, until, member))
    match form:
        case "csv":
            lines = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
            lines.writeheader()
            lines.writerows(map(_values, rows))
        case "json":
            sys.stdout.write(json.dumps([_values(row) for row in rows], indent=2) + "\n")
        case "table":
            _print_usage(rows, since, until)
    return 0


def audit(settings: Settings, *, limit: int, member: str | None, action: str | None) -> int:
    """Print entries of the audit record as lines of JSON, newest first. Returns 0.

    Raises `CommandError` when it cannot be read.
    """
    for row in _asked(
        settings,
        "audit record",
        lambda stored: stored.record(limit=limit, member=member, action=action),
    ):
        sys.stdout.write(row.entry.decode() + "\n")
    return 0


def _asked(
    settings: Settings, what: str, ask: Callable[[UsageRepository], Awaitable[list[T]]]
) -> list[T]:
    """What is stored, which is nothing where no proxy has ever run."""
    shared = settings.database is not None

    async def read() -> list[T]:
        async with opened_database(settings) as database:
            return await ask(UsageRepository(database))

    try:
        known = shared or (settings.data_dir / FILE).exists()
        return asyncio.run(read()) if known else []
    except StorageError as error:
        if shared:
            raise CommandError(f"The {what} cannot be read: {error}.") from None
        raise CommandError(
            f"The {what} cannot be read ({error}): run this as the user that runs the proxy."
        ) from None


def _date(option: str, text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise CommandError(
            f"{option} {text} is not a day: use one such as 2026-01-31.", exit_code=2
        ) from None


def _values(row: UsageRow) -> dict[str, Any]:
    return {**asdict(row), "running_seconds": round(row.running_seconds, 3)}


def _print_usage(rows: list[UsageRow], first: str, last: str) -> None:
    if not rows:
        days = f"on {first}" if first == last else f"from {first} to {last}"
        _say(f"No usage {days} (UTC).")
        return
    total = UsageRow("total", "")
    for row in rows:
        total.add(row)
    _print_table(
        ("day", "member", "jobs", "failed", "running seconds", "outputs", "up", "down"),
        (
            (
                row.day,
                row.member,
                f"{row.submitted:,}",
                f"{row.failed:,}",
                f"{row.running_seconds:,.1f}",
                f"{row.outputs:,}",
                decimal(row.bytes_up),
                decimal(row.bytes_down),
            )
            for row in ([*rows, total] if len(rows) > 1 else rows)
        ),
    )
