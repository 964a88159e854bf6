"""`python -m proxy.simulator`: a simulator in a process of its own.

The key is taken from `COMFY_CLOUD_API_KEY`; without it a new one is made and shown. There may be
more accounts beside that one; several simulators have switches of their own too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys

from proxy.simulator.account import SLOTS
from proxy.simulator.server import Simulator
from proxy.simulator.switches import Switches
from proxy.translate import codec


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m proxy.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--plan", choices=list(SLOTS), default="standard")
    parser.add_argument(
        "--account",
        action="append",
        default=[],
        metavar="KEY=PLAN",
        help="another account, with separate jobs and files",
    )
    parser.add_argument(
        "--switch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a switch; the value is JSON or a word",
    )
    return parser.parse_args(arguments)


def switches_of(settings: list[str]) -> Switches:
    """Return the switches of `NAME=VALUE`. Raises `ValueError`."""
    values: dict[str, object] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            values[name] = codec.loads(text)
        except ValueError:
            values[name] = text
    switches = Switches()
    switches.update(values)
    return switches


async def serve(options: argparse.Namespace, switches: Switches) -> None:
    """Run until SIGINT or SIGTERM."""
    key = os.environ.get("COMFY_CLOUD_API_KEY")
    simulator = Simulator(key=key, plan=options.plan, switches=switches)
    for account in options.account:
        other, _, plan = account.rpartition("=")
        simulator.add_account(other, plan)
    await simulator.start(options.host, options.port)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    shown = "" if key else f" with the key {simulator.key}"
    sys.stdout.write(f"listening on {simulator.base_url}{shown}\n")
    sys.stdout.flush()
    try:
        await ended.wait()
    finally:
        await simulator.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    options = parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        asyncio.run(serve(options, switches_of(options.switch)))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
