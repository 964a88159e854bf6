"""The command line: `serve`, `check` and `run`."""

from proxy.cli.commands import main

__all__ = ["main"]
