"""What `serve` says at its start: where things are, and what keeps jobs from being taken."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from logging.handlers import MemoryHandler
from typing import Any

import structlog
import typer

from proxy import __version__
from proxy.api import web_interface
from proxy.api.keys import READINESS, Services
from proxy.cli.common import Chosen
from proxy.settings import Settings

log = structlog.get_logger(__name__)

#: Maximum number of log lines that are held until the banner is complete.
_MAX_HELD = 1000


def here(url: str) -> str:
    """Return the URL by which this machine calls a server that listens on all its addresses."""
    for anywhere, local in (("//0.0.0.0:", "//127.0.0.1:"), ("//[::]:", "//[::1]:")):
        url = url.replace(anywhere, local)
    return url


class Banner:
    """The first output that a person at a terminal sees.

    Log lines come after it; of those that are written before its end only warnings are kept.
    """

    def __init__(self, settings: Settings, handler: logging.Handler, *, has_members: bool) -> None:
        self._settings = settings
        self._has_members = has_members
        self._handler = handler
        # Where the process ends before the banner does, logging writes at exit what is held.
        self._held = MemoryHandler(_MAX_HELD, flushLevel=logging.CRITICAL, target=handler)
        self._held.setLevel(logging.WARNING)
        root = logging.getLogger()
        root.removeHandler(handler)
        root.addHandler(self._held)

    def ready(self, url: str, chosen: Chosen) -> None:
        """Say where clients and people find what."""
        settings = self._settings
        base = f"{here(url)}{settings.base_path}"
        admin = settings.admin_listen
        rows = {
            "ComfyUI API": base,
            "Web interface": f"{base}/"
            if web_interface.frontend()
            else "not installed: pip install '.[ui]'",
            "Dashboard": f"http://{admin[0]}:{admin[1]}/proxy/" if admin else f"{base}/proxy/",
            "Clients": "each needs a token" if self._has_members else "no token needed",
            "Runs on": str(chosen),
            "Pictures": _output_places(settings),
        }
        self._say(f"{_styled('comfy-cloud-proxy', bold=True)} {__version__}\n")
        for name, value in rows.items():
            self._say(f"  {name:<15}{value}")

    def tell(self, problems: Problems, plans: Sequence[str]) -> None:
        """Say what plans the accounts have, if they tell, whether the keys work, and what is wrong
        otherwise."""
        for plan in plans:
            self._say(f"  {'Plan':<15}{plan}")
        if not problems:
            self._say(f"  {'API key':<15}{_styled('accepted', fg='green')}")
        for account, problem in problems:
            word = _styled("Problem", fg="yellow", bold=True)
            self._say(f"\n  {word}{f' with account {account}' if account else ''}: {problem}")
        self._say("\nPress Ctrl-C to stop.\n")
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.removeHandler(self._held)
        self._held.close()

    def _say(self, line: str) -> None:
        typer.echo(line, color=False if os.environ.get("NO_COLOR") else None)


def _output_places(settings: Settings) -> str:
    """Return where outputs are."""
    if settings.output_directory is None:
        return "by GET /view; to have them in a folder: --output-directory DIR"
    return str(settings.output_directory)


def _styled(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
    return typer.style(text, fg=fg, bold=bold)


#: What keeps jobs from being taken: the account (`""` for the only one and the store), a sentence.
Problems = Sequence[tuple[str, str]]


async def print_problems(
    services: Services, tell: Callable[[Problems, Sequence[str]], None]
) -> None:
    """Tell what keeps jobs from being taken, as `GET /readyz` does.

    The event sockets are left out: they open a little later, and say themselves if they cannot.
    """
    report = await services[READINESS].report(patient=True)
    accounts: Mapping[str, Any] = report.checks.get("accounts", {"": report.checks})
    found = {("", report.checks.get("store", "ok"))}
    found |= {(name, checks.get("key", "ok")) for name, checks in accounts.items()}
    plans = [(account.name, account.plan.sentence()) for account in services[READINESS].accounts()]
    several = len(plans) > 1
    known = [f"{name}: {plan}" if several else plan for name, plan in plans if plan]
    tell([(name, problem) for name, problem in sorted(found) if problem != "ok"], known)


def log_problems(problems: Problems, plans: Sequence[str]) -> None:
    """Log what `Banner.tell` says."""
    for plan in plans:
        log.info("plan_read", plan=plan)
    for name, problem in problems:
        log.warning("readiness_failed", reason=problem, **({"account": name} if name else {}))
