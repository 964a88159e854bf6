"""`member` and `token`: who may use a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import typer

from proxy.admin.schema.administration import LastUse, TokenShown, member_shown, token_shown
from proxy.cli.common import (
    CommandError,
    UsageError,
    argument,
    command,
    examples,
    in_database,
    option,
)
from proxy.cli.tables import AsJson, Columns, print_json, print_table, say, shown_time
from proxy.members import audit as record
from proxy.members.directory import Directory
from proxy.members.marker import marker_of
from proxy.members.member import (
    DirectoryError,
    LimitFields,
    Member,
    MemberFields,
    NewMember,
    NewToken,
    validated,
)
from proxy.members.tokens import Token
from proxy.settings import Settings, load, record_options
from proxy.storage.database import StorageError
from proxy.storage.members import MemberRepository
from proxy.storage.start import has_database, opened_database
from proxy.storage.usage import UsageRepository

T = TypeVar("T")


#: The word that removes a limit.
NONE = "none"


member = typer.Typer(
    help="Manage members and their limits.",
    no_args_is_help=True,
    epilog=examples("member add anna", "member list"),
)
token = typer.Typer(
    help="Create and revoke tokens.", no_args_is_help=True, epilog=examples("token new anna")
)

Name = Annotated[str, argument("NAME", "The member.")]

_MAXIMUM = "The maximum {}; none removes the limit."

#: The options for what a member may do, by their names in `MemberFields`.
_LIMITS: dict[str, Any] = {
    "role": Annotated[Literal["user", "admin"] | None, option("user|admin", "The role.")],
    "weight": Annotated[str | None, option("NUMBER", "The share of turns. The default is 1.")],
    **{
        name: Annotated[str | None, option("N", _MAXIMUM.format(what))]
        for name, what in {
            "max_queued": "number of waiting jobs",
            "max_running": "number of running jobs",
            "jobs_per_day": "number of jobs per day (UTC)",
            "upload_bytes_per_day": "bytes of uploads per day (UTC)",
            "stored_bytes": "bytes of user data and settings",
            "requests_per_second": "number of requests per second",
        }.items()
    },
    **{
        f"{kind}credits_per_{period}": Annotated[
            str | None,
            option(
                "CREDITS",
                f"The {word} budget of a {period} (UTC) in credits; none uses the setting.",
            ),
        ]
        for kind, word in (("", "hard"), ("soft_", "soft"))
        for period in ("day", "month")
    },
    "denied_classes": Annotated[
        list[str] | None,
        option(
            "CLASS",
            "A node class that workflows must not contain. Can be repeated; none allows all.",
            "--deny-class",
        ),
    ],
    "deny_partner_nodes": Annotated[
        bool | None,
        typer.Option(
            "--deny-partner-nodes/--allow-partner-nodes",
            help="Refuse or allow partner nodes, which cost credits.",
            show_default=False,
        ),
    ],
    "client_parallelism": Annotated[
        Literal["auto", "one", "many", "none"] | None,
        option("auto|one|many", "How many jobs of one client run at once; none uses the setting."),
    ],
    "account": Annotated[
        str | None,
        option("NAME", "The account that gets the jobs of the member first; none has no such one."),
    ],
    "identities": Annotated[
        list[str] | None,
        option(
            "IDENTITY",
            "Who signs in as the member: `header NAME` for a reverse proxy. Can be repeated; none "
            "removes all.",
            "--identity",
        ),
    ],
}


_OPTIONS = {"identities": "identity", "denied_classes": "deny_class"}
#: What the values of options must be, where it is not in the help.
_RULES = {
    "weight": "a number from 0.01 to 1000",
    **dict.fromkeys(
        ("max_queued", "max_running", "jobs_per_day", "upload_bytes_per_day", "stored_bytes"),
        "a whole number of at least 0, or none",
    ),
    "requests_per_second": "a number above 0, or none",
    **dict.fromkeys(
        (name for name in _LIMITS if "credits" in name), "a number of at least 0, or none"
    ),
    "denied_classes": "the name of a node class, or none",
    "identities": "the issuer and the name there, such as 'header anna', or none",
}


@command(
    member,
    "add",
    "member add anna --role admin",
    "member add bot --max-running 1 --jobs-per-day 100",
    more=_LIMITS,
)
def _add(
    options: dict[str, Any],
    name: Name,
    restore: Annotated[
        bool, typer.Option("--restore", help="Restore a removed member with history and files.")
    ] = False,
) -> int:
    """Add a member. With at least one member, every client needs a token."""

    wanted = {**_limits_of(options), "name": name, "restore": restore}
    settings = load(options)

    async def add(directory: Directory) -> Member:
        checked = validated(wanted, NewMember, strict=False)
        return await directory.add(checked.member(), restore=checked.restore)

    member = _with_directory(settings, add, make=True)
    note_action(settings, "member_added", name=member.name, role=member.role)
    say(
        f"{member.name} was added ({member.role}). "
        f"Next: comfy-cloud-proxy token new {member.name}{record_options(settings)}"
    )
    return 0


@command(member, "list", "member list", "member list --json")
def _list(options: dict[str, Any], as_json: AsJson = False) -> int:
    """List the members with their limits."""

    async def rows(directory: Directory) -> list[dict[str, Any]]:
        members = directory.members()
        return [msgspec.to_builtins(member_shown(directory, member)) for member in members]

    found = _with_directory(load(options), rows)
    if as_json:
        return print_json(found)
    columns: Columns = {
        "Name": lambda member: member["name"],
        "Role": lambda member: member["role"],
        "State": lambda member: "disabled" if member["disabled"] else "enabled",
        "Weight": lambda member: f"{member['weight']:g}",
        "Tokens": lambda member: str(member["tokens"]),
        "Limits": _limits,
        "Since": lambda member: shown_time(member["created"]),
    }
    return print_table(found, columns)


@command(
    member,
    "set",
    "member set anna --weight 2 --max-queued none",
    short="Change the role, weight or limits of a member.",
    more=_LIMITS,
)
def _set(options: dict[str, Any], name: Name) -> int:
    """Change the role, weight or limits of a member."""

    wanted = _limits_of(options)
    settings = load(options)
    if not wanted:
        raise UsageError("No option given: see comfy-cloud-proxy member set --help.")

    async def change(directory: Directory) -> Member:
        checked = validated(wanted, MemberFields, strict=False)
        return await directory.change(name, **checked.changes())

    member = _with_directory(settings, change)
    note_action(settings, "member_changed", name=member.name, what=", ".join(sorted(wanted)))
    say(f"{member.name} is changed.")
    return 0


@command(member, "disable", "member disable anna")
def _disable(options: dict[str, Any], name: Name) -> int:
    """Disable a member at once. Jobs, files and tokens are kept."""
    return _enabled(load(options), name, enabled=False)


@command(member, "enable", "member enable anna")
def _enable(options: dict[str, Any], name: Name) -> int:
    """Enable a disabled member."""
    return _enabled(load(options), name, enabled=True)


@command(member, "remove", "member remove anna")
def _remove(options: dict[str, Any], name: Name) -> int:
    """Remove a member and its tokens. History and files stay on disk, hidden from all members."""
    settings = load(options)

    async def remove(directory: Directory) -> tuple[Member, bool]:
        return await directory.remove(name), not directory.members()

    member, last = _with_directory(settings, remove)
    note_action(settings, "member_removed", name=member.name)
    say(
        f"{member.name} and its tokens were removed. Its history and files stay in the data "
        "folder; `member add --restore` makes them available again."
    )
    if last:
        say(
            "This was the last member: a running proxy refuses all clients until you restart it. "
            "It then serves one person without tokens."
        )
    return 0


@command(token, "new", "token new anna --expires 90d --note laptop")
def _new(
    options: dict[str, Any],
    name: Name,
    expires: Annotated[
        str | None,
        option(
            "TIME", "The time after which it expires, such as 90d or 12h. The default is never."
        ),
    ] = None,
    note: Annotated[str, option("TEXT", "A description.")] = "",
    as_json: AsJson = False,
) -> int:
    """Create a token for a member and print it once."""

    settings = load(options)

    async def make(directory: Directory) -> tuple[str, TokenShown]:
        wanted = {"member": name, "expires": expires, "note": note}
        checked = validated(wanted, NewToken)
        text, token = await directory.new_token(checked.member, **checked.values())
        return text, token_shown(directory, token)

    text, described = _with_directory(settings, make)
    note_action(settings, "token_created", name=described["member"], token=described["shown"])
    if as_json:
        return print_json({**described, "token": text})
    say(text)
    say("The token is shown only once; keep it like a password.", err=True)
    return 0


@command(token, "revoke", "token revoke ccp_ab12", short="Revoke a token at once.")
def _revoke(
    options: dict[str, Any],
    prefix: Annotated[str, argument("PREFIX", "The first letters of the token, such as ccp_ab12.")],
) -> int:
    """Revoke a token at once, and close the connections that use it."""
    settings = load(options)
    token: Token = _with_directory(settings, lambda directory: directory.revoke(prefix))
    note_action(settings, "token_revoked", name=token.member, token=token.shown)
    say(f"The token {token.shown} of {token.member} was revoked.")
    return 0


@command(token, "list", "token list", "token list anna --json", short="List tokens.")
def _list_tokens(
    options: dict[str, Any],
    name: Annotated[str | None, argument("NAME", "Only this member.")] = None,
    as_json: AsJson = False,
) -> int:
    """List the first letters of each token, with the time and address of its last use."""

    async def rows(directory: Directory) -> list[TokenShown]:
        member = None if name is None else directory.find(name).name
        return [token_shown(directory, token) for token in directory.tokens(member)]

    found = _with_directory(load(options), rows)
    if as_json:
        return print_json(found)

    def used(use: LastUse | None) -> str:
        return (
            f"{shown_time(use['at'], '%Y-%m-%d %H:%M')} from {use['address']}" if use else "never"
        )

    columns: Columns = {
        "Token": lambda token: token["shown"],
        "Member": lambda token: token["member"],
        "Note": lambda token: token["note"],
        "Created": lambda token: shown_time(token["created"]),
        "Expires": lambda token: shown_time(token["expires"]) if token["expires"] else "never",
        "Last used": lambda token: used(token["last_used"]),
    }
    return print_table(found, columns)


def _enabled(settings: Settings, name: str, *, enabled: bool) -> int:
    member = _with_directory(
        settings, lambda directory: directory.change(name, disabled=not enabled)
    )
    note_action(settings, "member_enabled" if enabled else "member_disabled", name=member.name)
    say(f"{member.name} is {'enabled' if enabled else 'disabled'}.")
    return 0


def _with_directory(
    settings: Settings, use: Callable[[Directory], Awaitable[T]], *, make: bool = False
) -> T:
    """Return what `use` gives for the members of the data folder.

    Where there are none yet, `make` lets their database be made; otherwise nothing is.
    """

    folder, shared = settings.data_dir, settings.database is not None
    known = make or has_database(settings)
    if not known and not folder.is_dir():
        raise UsageError(
            f"There is no data folder {folder}: set --data-dir to the folder of the proxy."
        )

    async def run() -> T:
        if not known:
            return await use(Directory())
        async with opened_database(settings) as database:
            directory = Directory(MemberRepository(database), marker=marker_of(settings))
            await directory.load()
            return await use(directory)

    try:
        return asyncio.run(run())
    except DirectoryError as error:
        raise UsageError(str(error)) from None
    except StorageError as error:
        raise CommandError(
            f"The members cannot be used: {error}."
            if shared
            else f"The members in {folder} cannot be used ({error}): set --data-dir to the folder "
            "of the proxy, or correct its permissions."
        ) from None


def _limits_of(options: dict[str, Any]) -> dict[str, Any]:
    """Take what a member may do out of the options, as `MemberFields` has it."""
    values = {name: options.pop(name) for name in _LIMITS if name in options}
    values = {
        name: None if value == NONE else [] if value == [NONE] else value
        for name, value in values.items()
    }
    own = ("role", "weight", "client_parallelism", "account", "identities")
    chosen: dict[str, Any] = {name: values.pop(name) for name in own if name in values}
    for fields, kind in ((chosen, MemberFields), (values, LimitFields)):
        for name, value in fields.items():
            _check_option(name, value, kind)
    return {**chosen, **({"limits": values} if values else {})}


def _check_option(name: str, value: object, kind: type[Any]) -> None:
    """Check the value of one option, so that an error names it. Raises `UsageError`."""
    try:
        validated({name: value}, kind, strict=False)
    except DirectoryError as error:
        if (rule := _RULES.get(name)) is None:
            raise UsageError(str(error)) from None
        shown = NONE if value is None else ", ".join(value) if isinstance(value, list) else value
        raise UsageError(
            f"--{_OPTIONS.get(name, name).replace('_', '-')} is '{shown}', but must be {rule}."
        ) from None


def note_action(settings: Settings, action: str, **about: record.Value) -> None:
    """Write an action of the command line to the audit log, or say that it cannot be written."""
    if settings.audit_days == 0:
        return

    try:
        in_database(
            settings, lambda database: record.note(UsageRepository(database), action, **about)
        )
    except StorageError as error:
        say(f"The audit log could not be written ({error}).", err=True)


def _limits(member: Mapping[str, Any]) -> str:
    limits = member["limits"]
    parts = [
        f"{name} {', '.join(value) if isinstance(value, list | tuple) else f'{value:,}'}"
        for name, value in limits.items()
        if value not in (None, False, (), []) and not isinstance(value, bool)
    ]
    parts += [
        f"{name} {member[name]}" for name in ("client_parallelism", "account") if member[name]
    ]
    if limits["deny_partner_nodes"]:
        parts.append("no partner nodes")
    return "; ".join(parts)
