"""`balance`: what is left on the accounts, and what the cloud has booked."""

from __future__ import annotations

from typing import Annotated, Any

from proxy import clock
from proxy.admin.schema.usage import account_billed
from proxy.cli.common import CommandError, UsageError, argument
from proxy.cli.records import in_database, note_action, read_stored
from proxy.cli.tables import AsJson, Columns, print_json, print_table, say
from proxy.costs.billing import DAYS, Billing, EnteredBalance, UnknownAccountError
from proxy.costs.credits import from_credits
from proxy.settings import Settings, account_names, load
from proxy.storage.billing import BillingRepository
from proxy.storage.database import Database, StorageError
from proxy.storage.usage import day_of

#: The word that removes a balance.
NONE = "none"


def balance(
    options: dict[str, Any],
    account: Annotated[str | None, argument("ACCOUNT", "The account of a balance.")] = None,
    credits: Annotated[  # noqa: A002 (its name on the command line)
        str | None,
        argument("CREDITS", "The credits that are left on it now; none removes the balance."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Print what is left on each account, and what Comfy Cloud has booked in the last 30 days.

    The column recorded has what the jobs of the proxy have cost on the same days. Where Comfy Cloud
    does not tell its API keys what is left, enter it: costs are subtracted from then on.
    """
    settings = load(options)
    if account is None:
        return _print(settings, as_json=as_json)
    if credits is None:
        raise UsageError(f"Say how many credits are left: balance {account} 500.")
    entered = _entered(credits)
    try:
        in_database(settings, lambda database: _billing(settings, database).enter(account, entered))
    except UnknownAccountError as error:
        raise UsageError(str(error)) from None
    except StorageError as error:
        raise CommandError(f"The balance cannot be written: {error}.") from None
    note_action(settings, "balance_entered", name=account, credits=entered.credits)
    left = "no balance is entered" if entered.credits is None else f"{credits} credits are left"
    say(f"{account}: {left}.")
    return 0


def _entered(text: str) -> EnteredBalance:
    if text == NONE:
        return EnteredBalance(None)
    try:
        from_credits(text)
    except ValueError:
        raise UsageError(f"{text} is not an amount of credits: use one such as 500.") from None
    return EnteredBalance(float(text))


def _billing(settings: Settings, database: Database) -> Billing:
    return Billing(BillingRepository(database), account_names(settings))


def _print(settings: Settings, *, as_json: bool) -> int:
    now = clock.time()
    first, last = day_of(now - 86_400 * (DAYS - 1)), day_of(now)
    found = read_stored(
        settings, "balances", lambda database: _billing(settings, database).report(first, last)
    )
    if as_json:
        return print_json(list(map(account_billed, found)))
    columns: Columns = {
        "account": lambda row: row["name"],
        "left": lambda row: _credits(row["balance"]["credits"]) or row["balance"]["text"] or "?",
        "source": lambda row: row["balance"]["source"],
        "recorded": lambda row: _credits(row["ledger"]),
        "booked": lambda row: _credits(row["booked"]),
        "difference": lambda row: _credits(row["difference"]),
        "key": lambda row: _ACCESS[row["access"]],
    }
    if not found:
        say("No account has run a job.")
        return 0
    return print_table(map(account_billed, found), columns)


#: What a table says of the routes of billing.
_ACCESS = {"allowed": "reads bookings", "refused": "is refused", "unknown": "not asked yet"}


def _credits(amount: float | None) -> str:
    return "" if amount is None else f"{amount:,.2f}"
