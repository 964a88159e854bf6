"""A Valkey server in memory for the real `ValkeyBus`: connections are slow, stall and break."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import msgspec
from proxy.bus.publishers import ID_BYTES
from redis.exceptions import ConnectionError as RedisConnectionError
from simulation.loop import Process

if TYPE_CHECKING:
    from simulation.world import World


#: Seconds between two things that are in order: what is due at once runs in any order.
_APART = 1e-6


class ValkeyServer:
    """Channels and who subscribes to them, in the order in which they did."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.channels: dict[str, dict[int, ServerConnection]] = {}
        self.connections: dict[int, ServerConnection] = {}
        self._numbers = 0

    def connect(self, process: Process | None) -> ServerConnection:
        """Return a connection of a process."""
        self._numbers += 1
        connection = ServerConnection(self, self._numbers, process)
        self.connections[self._numbers] = connection
        return connection

    def execute(self, connection: ServerConnection, command: tuple[Any, ...]) -> None:
        """Carry a command out, and answer it."""
        name, *arguments = command
        match name:
            case "SUBSCRIBE":
                self.channels.setdefault(arguments[0], {})[connection.number] = connection
                connection.answer([b"subscribe", arguments[0].encode(), 1])
            case "UNSUBSCRIBE":
                self.channels.get(arguments[0], {}).pop(connection.number, None)
                connection.answer([b"unsubscribe", arguments[0].encode(), 0])
            case "PUBLISH":
                channel, payload = arguments
                process = connection.process
                is_newer = process is not None and process.is_newer
                is_beat = channel.endswith(":beats")
                payloads = _of_next_release(payload) if is_newer and not is_beat else [payload]
                listeners = list(self.channels.get(channel, {}).values())
                for listener in listeners:
                    if listener.process is not process:  # it leaves out its own
                        for each in payloads:
                            listener.answer([b"message", channel.encode(), each])
                connection.answer(len(listeners))
            case _:
                connection.answer(b"PONG")

    def cut(self, process: Process | None = None) -> None:
        """Break the connections of a process, or all."""
        for connection in list(self.connections.values()):
            if process in (None, connection.process):
                connection.cut()


class ServerConnection:
    """One connection: what is sent arrives in order, after delays that are drawn."""

    def __init__(self, server: ValkeyServer, number: int, process: Process | None) -> None:
        self.number = number
        self.process = process
        self._server = server
        self._weather = server.world.weather
        self._loop = server.world.loop
        self._arrives = [0.0, 0.0]
        self._inbox: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._is_open = True

    def pack_commands(self, commands: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return the commands as they are sent."""
        return list(commands)

    async def send_packed_command(
        self, commands: list[tuple[Any, ...]], check_health: bool = True
    ) -> None:
        """Send commands. Raises `RedisConnectionError`."""
        del check_health
        self._check()
        await asyncio.sleep(0)
        self._check()
        self._travel(0, self._received, commands)

    async def read_response(self, *, timeout: float, push_request: bool) -> Any:
        """Return the next answer. Raises `RedisConnectionError`."""
        del timeout, push_request
        while not self._inbox:
            self._check()
            self._reader = self._loop.create_future()
            await self._reader
        return self._inbox.popleft()

    def answer(self, answer: Any) -> None:
        """Send an answer back."""
        self._travel(1, self._answered, answer)

    def cut(self) -> None:
        """Break the connection: what is under way is lost."""
        self._is_open = False
        self._server.connections.pop(self.number, None)
        for listeners in self._server.channels.values():
            listeners.pop(self.number, None)
        self._wake()

    def _travel(self, way: int, arrived: Any, what: Any) -> None:
        now = self._loop.time()
        at = max(self._arrives[way] + _APART, now + self._weather.way_to_bus(self.process))
        self._arrives[way] = at
        self._loop.in_world(at - now, arrived, what)

    def _received(self, commands: list[tuple[Any, ...]]) -> None:
        if not self._is_open:
            return
        for command in commands:
            self._server.execute(self, command)

    def _answered(self, answer: Any) -> None:
        if self._is_open:
            self._inbox.append(answer)
            self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _check(self) -> None:
        if not self._is_open:
            raise RedisConnectionError("the connection was closed by the server")


def _of_next_release(payload: bytes) -> list[bytes]:
    """Return a message as the next release sends it, with one more field, behind one that this
    release does not know."""
    head, body = payload[: ID_BYTES + 1], payload[ID_BYTES + 1 :]
    fields = msgspec.msgpack.decode(body)
    for changed in (fields, fields.get("job")):
        if isinstance(changed, dict):
            changed["colour"] = "grey"
    unknown = {**fields, "type": "JobPainted"}
    return [head + msgspec.msgpack.encode(each) for each in (unknown, fields)]


class SimulatedRedis:
    """Stands for `redis.asyncio.Redis`, as far as `ValkeyBus` uses it."""

    #: The server of the current run.
    server: ValkeyServer

    def __init__(self) -> None:
        self.connection_pool = SimpleNamespace(connection_kwargs={"db": 0})

    @classmethod
    def from_url(cls, _url: str, **_options: Any) -> Self:
        """Return a client."""
        return cls()

    def pubsub(self, **_options: Any) -> PubSub:
        """Return what can subscribe."""
        return PubSub(self.server)

    async def aclose(self) -> None:
        """Close all connections; they are those of `pubsub`."""


class PubSub:
    """A connection that subscribes."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self.connection: ServerConnection | None = None

    async def connect(self) -> None:
        """Connect. Raises `RedisConnectionError`."""
        world = self._server.world
        process = world.process()
        await asyncio.sleep(world.weather.draw(0.0005, 0.01))
        if world.weather.bus_away(process):
            await asyncio.sleep(world.weather.draw(0.0, 0.5))
            raise RedisConnectionError("connection refused")
        self.connection = self._server.connect(process)

    async def aclose(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.cut()
