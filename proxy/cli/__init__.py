"""The command line."""

from proxy.cli.commands import main

__all__ = ["main"]
