"""`token`: the tokens of members."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from proxy.admin.schema.administration import LastUse, TokenShown, token_shown
from proxy.cli.common import argument, command, examples, option
from proxy.cli.members import Name
from proxy.cli.records import record_action, with_directory
from proxy.cli.tables import AsJson, Columns, print_json, print_table, say, shown_time
from proxy.members.directory import Directory
from proxy.members.member import NewToken, validated
from proxy.members.tokens import Token
from proxy.settings import load

token = typer.Typer(
    help="Create and revoke tokens.", no_args_is_help=True, epilog=examples("token new anna")
)


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

    text, described = with_directory(settings, make)
    record_action(settings, "token_created", name=described["member"], token=described["shown"])
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
    token: Token = with_directory(settings, lambda directory: directory.revoke(prefix))
    record_action(settings, "token_revoked", name=token.member, token=token.shown)
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

    found = with_directory(load(options), rows)
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
