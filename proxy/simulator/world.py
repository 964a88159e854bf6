"""The whole state of a simulated cloud: accounts, contents, switches, faults and the record."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import uuid4

from proxy.simulator.account import Plan, SimulatedAccount
from proxy.simulator.faults import Faults
from proxy.simulator.jobs import SimulatedJob
from proxy.simulator.nodes import (
    NodeClass,
    NodeClasses,
    object_info,
    pack_nodes,
    standard_nodes,
    with_imports,
)
from proxy.simulator.queue import SimulatedQueue
from proxy.simulator.record import Record, RequestRecord, Signal
from proxy.simulator.run import Bench
from proxy.simulator.sockets import EventConnection, EventSockets
from proxy.simulator.storage import Storage
from proxy.simulator.switches import Switches
from proxy.simulator.uploads import DirectUploads
from proxy.translate import codec


@dataclass(frozen=True, slots=True)
class Tenant:
    """An account with what serves it."""

    account: SimulatedAccount
    event_sockets: EventSockets
    queue: SimulatedQueue


class World:
    """See the module. Everything here may be read and changed while the simulator runs."""

    def __init__(
        self,
        *,
        key: str | None = None,
        plan: Plan = "standard",
        switches: Switches | None = None,
        extra_nodes: Iterable[NodeClass] = (),
    ) -> None:
        self.switches = switches or Switches()
        self.faults = Faults()
        self.record = Record()
        self.signal = Signal()
        self.nodes = standard_nodes() | {node.name: node for node in extra_nodes}
        self._with_packs = ChainMap(self.nodes, pack_nodes())
        self._object_infos: dict[bool, bytes] = {}
        self.tenants: list[Tenant] = []
        self.storage = Storage(
            self.switches, self.faults, lambda: [tenant.account.key for tenant in self.tenants]
        )
        self.direct_uploads = DirectUploads()
        self._bench = Bench(
            self.switches, self.faults, self.storage, self._with_packs, self.signal.notify
        )
        self.account = self.add_account(key or f"comfyui-{uuid4().hex}{uuid4().hex}", plan)

    def add_account(
        self,
        key: str,
        plan: Plan = "standard",
        *,
        credits: int | None = None,  # noqa: A002
    ) -> SimulatedAccount:
        """Add an account. Raises `ValueError` for an unknown plan or a key that is taken."""
        if not key or self.tenant(key) is not None:
            raise ValueError("this key belongs to another account already")
        account = SimulatedAccount(key, plan, credits)
        event_sockets = EventSockets(self.switches, self.faults, self.signal.notify)
        self.tenants.append(
            Tenant(account, event_sockets, SimulatedQueue(account, event_sockets, self._bench))
        )
        return account

    def set_plan(self, plan: Plan, account: SimulatedAccount | None = None) -> None:
        """Change the plan of an account (the first one); waiting jobs may start at once."""
        changed = account or self.account
        changed.plan = plan
        for tenant in self.tenants:
            if tenant.account is changed:
                tenant.queue.refill()

    def tenant(self, key: str) -> Tenant | None:
        """Return whose key this is."""
        for tenant in self.tenants:
            if key and tenant.account.key == key:
                return tenant
        return None

    @property
    def key(self) -> str:
        """The key of the first account."""
        return self.account.key

    @property
    def jobs(self) -> dict[str, SimulatedJob]:
        """The jobs of all accounts by id, in the order of their submission to each."""
        every = [tenant.account.jobs for tenant in self.tenants]
        return {id_: job for jobs in every for id_, job in jobs.items()}

    @property
    def sockets(self) -> list[EventConnection]:
        """The open event sockets."""
        return [socket for tenant in self.tenants for socket in tenant.event_sockets.sockets]

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests to the API, oldest first."""
        return list(self.record.requests)

    @property
    def calls(self) -> Counter[str]:
        """How often each route was called, as `sim.calls["GET /api/jobs/{id}"]`."""
        return self.record.calls

    @property
    def leaks(self) -> list[RequestRecord]:
        """The requests to the storage that carried a credential. There must be none."""
        return self.storage.leaks

    def drop_sockets(self) -> None:
        """Reset every event socket."""
        for tenant in self.tenants:
            tenant.event_sockets.drop()

    async def close_sockets(self, code: int = 1001) -> None:
        """Close every event socket with this code."""
        for tenant in self.tenants:
            await tenant.event_sockets.close(code)

    async def wait_for(self, job_id: str, status: str, timeout: float = 20.0) -> SimulatedJob:
        """Wait until a job is or has been in a state, given by its raw or its friendly name.

        The job need not exist yet. Raises `TimeoutError` after `timeout` seconds.
        """

        def reached() -> bool:
            job = self.jobs.get(job_id)
            return job is not None and job.reached(status)

        await self.signal.until(reached, timeout)
        return self.jobs[job_id]

    async def wait_for_end(self, job_id: str, timeout: float = 20.0) -> SimulatedJob:
        """Wait until a job is in a last state and nothing about it is late.

        `wait_for(id, "cancelled")` ends when the cancelling begins. Raises `TimeoutError`.
        """

        def ended() -> bool:
            job = self.jobs.get(job_id)
            return job is not None and job.terminal and not job.outputs_hidden

        await self.signal.until(ended, timeout)
        return self.jobs[job_id]

    async def wait_for_calls(self, route: str, count: int = 1, timeout: float = 20.0) -> None:
        """Wait until a route was called so often in all. Raises `TimeoutError`."""
        await self.signal.until(lambda: self.calls[route] >= count, timeout)

    async def wait_for_sockets(self, count: int = 1, timeout: float = 20.0) -> None:
        """Wait until exactly this many event sockets are open. Raises `TimeoutError`."""
        await self.signal.until(lambda: len(self.sockets) == count, timeout)

    @property
    def catalog(self) -> NodeClasses:
        """The node classes that there are, with those of packs or without."""
        return self._with_packs if self.switches.node_packs else self.nodes

    def catalog_of(self, account: SimulatedAccount) -> NodeClasses:
        """Return the node classes with the models that the account has imported."""
        return with_imports(self.catalog, account.imports) if account.imports else self.catalog

    @property
    def object_info(self) -> bytes:
        """The body of `GET /api/object_info`. Uploads are not in its lists."""
        packs = self.switches.node_packs
        if packs not in self._object_infos:
            self._object_infos[packs] = codec.dump_bytes(object_info(self.catalog))
        return self._object_infos[packs]

    def object_info_of(self, account: SimulatedAccount) -> bytes:
        """Return the body of `catalog_of` for `include_user_models=true`."""
        if not account.imports:
            return self.object_info
        return codec.dump_bytes(object_info(self.catalog_of(account)))
