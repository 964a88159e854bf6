"""The simulator as a server: two origins, one for the API and the event socket, one for bytes."""

from __future__ import annotations

from functools import cached_property

from aiohttp import web
from yarl import URL

from proxy.simulator import gate
from proxy.simulator.delivery import Listener
from proxy.simulator.routes import ROUTES
from proxy.simulator.world import World


class Simulator(World):
    """A Comfy Cloud in a box.

        sim = Simulator(plan="creator", switches=Switches(pace=0.1))
        await sim.start()
        ...  # sim.base_url, sim.key
        await sim.stop()

    `key` is the key of its account, by default a new one. `extra_nodes` are node classes beside
    the built-in ones. All contents are in memory.
    """

    @cached_property
    def _listener(self) -> Listener:
        return Listener(self._app)

    @property
    def base_url(self) -> URL:
        """The origin of the API and of the event socket."""
        return self._listener.url

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on the port (0: a free one), and with the storage on another free one.

        Raises `OSError` when the port is taken.
        """
        await self._listener.start(host, port)
        try:
            await self.storage.start(host)
        except OSError:
            await self._listener.stop()
            raise

    async def stop(self) -> None:
        """End all jobs and sockets, release the ports, and forget what nodes gave."""
        await self.close_sockets()
        await self._listener.stop()
        for tenant in self.tenants:
            await tenant.queue.stop()
            tenant.account.cache.clear()  # aiohttp keeps the newest 1,024 handlers, and so all this
        await self.storage.stop()

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[gate.middleware(self)])
        for route in ROUTES:
            handler = gate.enter(self, route.handler, route.access)
            if route.method == "GET":
                app.router.add_get(route.path, handler)
            else:
                app.router.add_route(route.method, route.path, handler)
        return app
