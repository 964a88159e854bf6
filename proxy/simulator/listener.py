"""A listening port, and the end of everything that came through it."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from yarl import URL


class Listener:
    """Serves an application on one address; may be started again after a stop."""

    def __init__(self, make_app: Callable[[], web.Application]) -> None:
        self._make_app = make_app
        self._runner: web.AppRunner | None = None
        self._url: URL | None = None

    @property
    def url(self) -> URL:
        """The origin. Raises `RuntimeError` before the start."""
        if self._url is None:
            raise RuntimeError("the simulator does not listen yet: await start() first")
        return self._url

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises `OSError` when the address is not free."""
        runner = web.AppRunner(self._make_app(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        address = runner.addresses[0]
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        self._url = URL(f"http://{name}:{address[1]}")

    async def stop(self) -> None:
        """Release the port; requests in progress are cut off."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
