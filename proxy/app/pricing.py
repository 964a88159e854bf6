"""What jobs cost, as the settings and the catalog say."""

from __future__ import annotations

from proxy.catalog.service import Catalog
from proxy.costs.credits import from_credits
from proxy.costs.job_cost import Pricing
from proxy.costs.prices import estimated_price
from proxy.settings import Settings


def pricing_of(settings: Settings, catalog: Catalog) -> Pricing:
    """Return the rates of the accounts, with the prices of the classes in the catalog."""
    return Pricing(
        catalog.known,
        estimated_price,
        from_credits(settings.credits_per_second),
        {
            table.name: from_credits(table.credits_per_second)
            for table in settings.accounts
            if table.credits_per_second is not None
        },
    )
