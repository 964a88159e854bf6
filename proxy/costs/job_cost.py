"""What a job costs: its running seconds, and the partner nodes that ran. Pure.

Comfy Cloud names no price with a job. The GPU is charged by the second, so that its part is always
`estimated`. Partner nodes write their price into their progress text (`Price: 8.4 credits`), which
is `reported`; without it the price of the class is an estimate, or the cost is `unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from proxy.costs.credits import PriceOf, Source, from_credits, from_usd
from proxy.translate.graph_shape import class_of
from proxy.translate.jobs import inputs_of

#: As partner nodes write it in their progress text: `Price: 8.4 credits`, or `Price: $0.0400`.
_PRICE = re.compile(
    r"^(?:Price|Credits(?: used)?): *(?P<dollar>\$)?(?P<number>[0-9][0-9,]{0,12}(?:\.[0-9]{1,9})?)",
    re.MULTILINE | re.IGNORECASE,
)


class Charge(Struct, frozen=True):
    """A part of a job's cost: nodes of a partner class, or the GPU, whose `node_class` is empty.

    `amount` is in millionths of a credit; what is `unknown` has 0. `nodes` counts partner nodes.
    """

    node_class: str
    source: Source
    amount: int = 0
    nodes: int = 0


class JobCost(Struct, frozen=True):
    """What a job has cost, in parts that differ in their class or source."""

    charges: tuple[Charge, ...] = ()

    @property
    def amount(self) -> int:
        """The sum in millionths of a credit, without what is unknown."""
        return sum(charge.amount for charge in self.charges)

    @property
    def source(self) -> Source:
        """The source of the sum, which is that of its least certain part."""
        sources = {charge.source for charge in self.charges}
        if "unknown" in sources:
            return "unknown"
        return "reported" if sources == {"reported"} else "estimated"


def reported_price(text: str) -> int | None:
    """Return the price in a node's progress text, in millionths of a credit; `None` if it has
    none."""
    found = _PRICE.search(text)
    if found is None:
        return None
    number = found["number"].replace(",", "")
    try:
        return from_usd(number) if found["dollar"] else from_credits(number)
    except ValueError:
        return None


def seconds_cost(ms: int, rate: int) -> int:
    """Return what running for `ms` costs at `rate` millionths of a credit a second, rounded up."""
    return -(-max(0, ms) * rate // 1000)


class JobRun(Struct, frozen=True):
    """What a job's cost depends on: its graph, and which of its nodes ran on which `account`.

    `ms` is how long it ran. `ran` returns the nodes that are known to have succeeded; it is called
    for each partner node, which most graphs do not have. `reported` are the prices that nodes have
    written.
    """

    graph: Mapping[str, Any]
    account: str
    ms: int
    ran: Callable[[], Collection[str]]
    reported: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Pricing:
    """The prices of all accounts and classes.

    `known` returns a class of `object_info`, `price_of` its price. `rates` are in millionths of a
    credit a second, by account; `rate` is that of all others.
    """

    known: Callable[[str], Mapping[str, Any] | None]
    price_of: PriceOf
    rate: int
    rates: Mapping[str, int] = field(default_factory=dict)

    def knows_all(self, graph: Mapping[str, Any]) -> bool:
        """Return whether the classes of all nodes are known: one that is not may have a price."""
        return all(self.known(class_of(node)) is not None for node in graph.values())

    def dearest_rate(self, accounts: Collection[str]) -> int:
        """Return the highest rate of some accounts, of which nobody knows which one it will be."""
        return max((self.rates.get(name, self.rate) for name in accounts), default=self.rate)

    def cost_of(self, run: JobRun) -> JobCost:
        """Return what a job has cost; nothing for one that ran on no account."""
        if not run.account:
            return JobCost()
        return self.cost_at(run, self.rates.get(run.account, self.rate))

    def cost_at(self, run: JobRun, rate: int) -> JobCost:
        """Return what a job costs at `rate` a second, wherever it runs."""
        charges: dict[tuple[str, Source], Charge] = {}
        if run.ms > 0:
            charges["", "estimated"] = Charge("", "estimated", seconds_cost(run.ms, rate))
        for node_class, source, amount in self._partner_nodes(run):
            known = charges.get((node_class, source), Charge(node_class, source))
            known = replace(known, amount=known.amount + amount, nodes=known.nodes + 1)
            charges[node_class, source] = known
        return JobCost(tuple(charges.values()))

    def _partner_nodes(self, run: JobRun) -> Iterator[tuple[str, Source, int]]:
        """Yield class, source and amount of the partner nodes that ran.

        A text of any other class that looks like a price is none.
        """
        for node_id, node in run.graph.items():
            node_class = class_of(node)
            info = self.known(node_class)
            reported = run.reported.get(node_id)
            if reported is not None and (info is None or info.get("api_node")):
                yield node_class, "reported", reported
            elif info and info.get("api_node") and node_id in run.ran():
                price = self.price_of(info, inputs_of(node))
                yield node_class, "unknown" if price is None else "estimated", price or 0
