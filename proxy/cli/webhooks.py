"""`webhook`: the webhooks of the gateway and of its members."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from proxy import clock
from proxy.admin.schema.webhooks import DeliveryShown, WebhookShown, webhook_shown
from proxy.cli.common import WHERE, CommandError, UsageError, argument, command, examples, option
from proxy.cli.records import in_database, note_action
from proxy.cli.tables import AsJson, Columns, print_json, print_table, say, shown_time
from proxy.members.directory import Directory
from proxy.members.member import LOCAL, DirectoryError, validated
from proxy.settings import SETTINGS, Settings, load, read_secrets
from proxy.storage.database import Database, StorageError
from proxy.storage.encryption import SECRET_FILE, Cipher, stored_secrets
from proxy.storage.members import MemberRepository
from proxy.storage.start import has_database
from proxy.storage.webhooks import GATEWAY, StoredDelivery, WebhookRepository
from proxy.translate.errors import LocalError
from proxy.webhooks.addresses import WebhookAddresses
from proxy.webhooks.endpoints import DEFAULT_TYPES, NewWebhook, Webhooks
from proxy.webhooks.messages import TYPES

T = TypeVar("T")

#: Seconds that `test` waits for the outcome, and between two looks at it.
_TIMEOUT, _INTERVAL = 30.0, 0.25

webhook = typer.Typer(
    help="Add, test and remove webhooks.",
    no_args_is_help=True,
    epilog=examples("webhook add https://example.com/hooks", "webhook list"),
)

Id = Annotated[str, argument("ID", "The id of the webhook, as `webhook list` prints it.")]

_NETWORKS = [row for row in SETTINGS if row.name == "webhook_networks"]


@command(webhook, "list", "webhook list", "webhook list --json")
def _list(options: dict[str, Any], as_json: AsJson = False) -> int:
    """List the webhooks with the last attempt of each."""
    listed = _with_webhooks(load(options), lambda webhooks, _: webhooks.endpoints(None))
    found = [webhook_shown(*endpoint) for endpoint in listed]
    if as_json:
        return print_json(found)

    def last(delivery: DeliveryShown | None) -> str:
        if delivery is None or delivery["attempted"] is None:
            return "never"
        at = shown_time(delivery["attempted"], "%Y-%m-%d %H:%M")
        return f"{delivery['outcome']} {at} {delivery['note']}".strip()

    columns: Columns = {
        "Id": lambda row: row["id"],
        "Member": lambda row: row["member"] or "all",
        "URL": lambda row: row["url"] or "URLs that jobs name",
        "Messages": lambda row: ", ".join(row["types"]),
        "State": lambda row: f"disabled: {row['disabled']}" if row["disabled"] else "enabled",
        "Last attempt": lambda row: last(row["last"]),
    }
    return print_table(found, columns)


@command(
    webhook,
    "add",
    "webhook add https://example.com/hooks",
    "webhook add https://example.com/hooks --type job.failed",
    settings=[*WHERE, *_NETWORKS],
)
def _add(
    options: dict[str, Any],
    url: Annotated[str, argument("URL", "The address that gets the messages.")],
    member: Annotated[
        str | None,
        option("NAME", "The member of whose jobs it tells. The default is all members."),
    ] = None,
    types: Annotated[
        list[str] | None,
        option(
            "TYPE",
            f"A type of message, one of {', '.join(TYPES)}. Can be repeated. The default is "
            f"{', '.join(DEFAULT_TYPES)}.",
            "--type",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Add a webhook and print its secret once."""
    settings = load(options)

    async def add(webhooks: Webhooks, directory: Directory) -> tuple[str, WebhookShown]:
        owner = GATEWAY
        if member is not None:
            known = directory.has_members or member != LOCAL
            owner = directory.find(member).name if known else LOCAL
        wanted = validated({"url": url, "types": types or DEFAULT_TYPES}, NewWebhook, strict=False)
        secret, made = await webhooks.add(owner, wanted)
        return secret, webhook_shown(made, None)

    secret, described = _with_webhooks(settings, add, make=True)
    note_action(
        settings, "webhook_added", name=described["member"] or GATEWAY, webhook=described["id"]
    )
    if as_json:
        return print_json({**described, "secret": secret})
    say(secret)
    say(
        f"The webhook {described['id']} was added. The secret signs its messages; it is shown only "
        "once.",
        err=True,
    )
    return 0


@command(webhook, "test", "webhook test wh_4f1c22a9d0b7e3c5")
def _test(options: dict[str, Any], id_: Id) -> int:
    """Send a message to a webhook and print the outcome. A proxy must be running."""

    async def test(webhooks: Webhooks, _: Directory) -> tuple[str, StoredDelivery]:
        found = await webhooks.find(id_, None)
        message = await webhooks.test(found, LOCAL)
        until = clock.monotonic() + _TIMEOUT
        while clock.monotonic() < until:
            for entry in await webhooks.log(found):
                if entry.message == message and entry.outcome != "waiting":
                    return found.member, entry
            await asyncio.sleep(_INTERVAL)
        raise CommandError(
            f"No proxy has sent the message within {_TIMEOUT:g} s: start one. It sends the message "
            "then."
        )

    settings = load(options)
    owner, sent = _with_webhooks(settings, test)
    note_action(settings, "webhook_tested", name=owner, webhook=id_)
    if sent.outcome != "delivered":
        raise CommandError(f"The message was not delivered: {sent.note}")
    say(f"The message was delivered; the endpoint answered {sent.status}.")
    return 0


@command(webhook, "remove", "webhook remove wh_4f1c22a9d0b7e3c5")
def _remove(options: dict[str, Any], id_: Id) -> int:
    """Remove a webhook and its log."""

    async def remove(webhooks: Webhooks, _: Directory) -> str:
        found = await webhooks.find(id_, None)
        await webhooks.remove(found)
        return found.member

    settings = load(options)
    owner = _with_webhooks(settings, remove)
    note_action(settings, "webhook_removed", name=owner, webhook=id_)
    say(f"The webhook {id_} was removed.")
    return 0


def _with_webhooks(
    settings: Settings, use: Callable[[Webhooks, Directory], Awaitable[T]], *, make: bool = False
) -> T:
    """Return what `use` gives for the webhooks and the members of the data folder.

    Without `make` the database must be there.
    """
    if not (make or has_database(settings)):
        raise UsageError(
            f"There is no database in {settings.data_dir}: set --data-dir to the folder of the "
            "proxy."
        )

    async def run(database: Database) -> T:
        directory = Directory(MemberRepository(database))
        await directory.load()
        addresses = WebhookAddresses(settings.webhook_networks)
        cipher = await _cipher(settings, database)
        return await use(Webhooks(WebhookRepository(database), cipher, addresses), directory)

    try:
        return in_database(settings, run)
    except (DirectoryError, LocalError) as error:
        raise UsageError(error.message if isinstance(error, LocalError) else str(error)) from None
    except StorageError as error:
        raise CommandError(f"The webhooks cannot be used: {error}.") from None


async def _cipher(settings: Settings, database: Database) -> Cipher:
    """Return what the proxy encrypts secrets with."""
    secret = read_secrets(settings)
    cipher = Cipher(settings.data_dir / SECRET_FILE, secret=secret)
    if secret is None and database.shared:
        cipher.use(await stored_secrets(database))
    return cipher
