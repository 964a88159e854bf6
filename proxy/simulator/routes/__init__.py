"""The routes of the cloud, one module a resource."""

from __future__ import annotations

from proxy.simulator.call import SimulatedRoute
from proxy.simulator.routes import (
    assets,
    billing,
    catalog,
    control,
    files,
    history,
    jobs,
    prompt,
    queue,
    socket,
    user,
    v2,
)

#: Every route. There is none without `/api` but `/ws`, `/view`, `/health`, and what is below
#: `/templates` and `/simulator`.
ROUTES: list[SimulatedRoute] = [
    *prompt.ROUTES,
    *queue.ROUTES,
    *jobs.ROUTES,
    *history.ROUTES,
    *files.ROUTES,
    *assets.ROUTES,
    *billing.ROUTES,
    *catalog.ROUTES,
    *user.ROUTES,
    *v2.ROUTES,
    *socket.ROUTES,
    *control.ROUTES,
]
