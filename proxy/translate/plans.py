"""The plan and the balance of an account, read from the cloud's answers with their units.

Sources: the specification of the cloud's ingest service and comfy-cli. All of it is optional, and
every field may be absent or of another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from msgspec import Struct

from proxy.translate.reading import field_of

#: Jobs at once by `subscription_tier`.
TIER_SLOTS: Mapping[str, int] = {
    "FREE": 1,
    "STANDARD": 1,
    "FOUNDERS_EDITION": 1,
    "CREATOR": 3,
    "PRO": 5,
    "TEAM": 25,
}

#: Minutes after which the cloud ends a run, by tier.
TIER_MINUTES: Mapping[str, int] = {
    "FREE": 10,
    "STANDARD": 30,
    "CREATOR": 30,
    "FOUNDERS_EDITION": 30,
    "PRO": 60,
}

#: No account runs more jobs at once; a larger number is not believed.
MAX_SLOTS = 1000

#: The balances in the order in which one is shown: the first that is there and not zero.
_BALANCES = ("effective_balance", "amount", "prepaid_balance", "cloud_credit_balance")


class AccountPlan(Struct, frozen=True):
    """The plan and the balance that an account reports; `None` and `""` are unknown.

    `slots` are jobs at once, which are `certain` where the cloud named them. `minutes` is the
    longest run. `balance_cents` is in hundredths of `currency`, and may be negative. A `notice`
    says what to do about the account.
    """

    tier: str = ""
    slots: int | None = None
    certain: bool = False
    minutes: int | None = None
    balance_cents: int | None = None
    currency: str = ""
    notice: str = ""

    @property
    def name(self) -> str:
        """The tier in words."""
        return self.tier.replace("_", " ").capitalize()

    @property
    def balance(self) -> str:
        """The balance for people, empty if it is unknown."""
        if self.balance_cents is None:
            return ""
        sign = "-" if self.balance_cents < 0 else ""
        whole, cents = divmod(abs(self.balance_cents), 100)
        return f"{sign}{whole}.{cents:02} {self.currency}".strip()

    def sentence(self) -> str:
        """Return all that is known as a sentence, empty if nothing is."""
        parts = [f"{self.name} plan"] if self.tier else []
        if self.slots is not None:
            parts.append(f"{self.slots} {'job' if self.slots == 1 else 'jobs'} at once")
        if self.minutes is not None:
            parts.append(f"{self.minutes} minutes for a run")
        if self.balance:
            parts.append(f"balance {self.balance}")
        if self.notice:
            parts.append(self.notice)
        return ", ".join(parts)


def plan_of(features: object, status: object, balance: object) -> AccountPlan:
    """Read the answers of `/api/features`, `/api/billing/status` and `/api/billing/balance`;
    `None` stands for one that there is not."""
    announced = _whole(field_of(features, "max_concurrent_jobs"))
    if announced is not None and not 0 < announced <= MAX_SLOTS:
        announced = None
    tier = field_of(status, "subscription_tier")
    tier = tier.upper() if isinstance(tier, str) and tier.replace("_", "").isalpha() else ""
    tier = tier[:32]
    currency = field_of(balance, "currency")
    currency = currency.upper() if isinstance(currency, str) and currency.isalpha() else ""
    return AccountPlan(
        tier,
        announced if announced is not None else TIER_SLOTS.get(tier),
        announced is not None,
        TIER_MINUTES.get(tier),
        balance_cents(balance),
        currency[:8],
    )


def run_refusal_of(capabilities: object) -> str | None:
    """Return in words why an account may run nothing (`no funds`), as `/api/billing/capabilities`
    says; empty if it may, and `None` if the answer does not say.

    `capabilities.can_run_workflows` is a truth value, or an object of `allowed` and `reason`.
    """
    can_run = field_of(field_of(capabilities, "capabilities"), "can_run_workflows")
    allowed = can_run if isinstance(can_run, bool) else field_of(can_run, "allowed")
    if allowed is not False:
        return "" if allowed is True else None
    reason = field_of(can_run, "reason")
    known = isinstance(reason, str) and reason.replace("_", "").isalnum()
    return reason[:64].replace("_", " ") if known else "no reason is given"


def balance_cents(balance: object) -> int | None:
    """Return the balance in cents; `None` if none is there.

    `*_micros` of a balance are cents in spite of their name, as `*_cents` are.
    """
    found = [
        value
        for name in _BALANCES
        for value in (
            _whole(field_of(balance, f"{name}_cents")),
            _whole(field_of(balance, f"{name}_micros")),
        )
        if value is not None
    ]
    return next((value for value in found if value), 0 if found else None)


def decimal_of(value: object) -> Decimal | None:
    """Return a number, which may come as a string; `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value))
        return number if number.is_finite() and abs(number) < 10**15 else None
    except (ArithmeticError, ValueError):  # also for an exponent beyond those of `Decimal`
        return None


def _whole(value: object) -> int | None:
    number = decimal_of(value)
    return None if number is None else int(number)
