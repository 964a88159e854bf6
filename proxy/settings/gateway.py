"""Settings of a gateway that a team shares, and of what its members may spend."""

from __future__ import annotations

from typing import Literal

from proxy.settings.fields import SettingsTable, setting
from proxy.settings.values import BasePath, Credits, HomePath, Networks

_PEM = "the path of a PEM file that can be read"


class GatewaySettings(SettingsTable):
    """The settings under the heading Gateway."""

    group = "Gateway"

    fair_by: Literal["jobs", "time"] = setting(
        "jobs",
        "What members share equally: the number of jobs, or running time.",
    )
    base_path: BasePath = setting(
        "",
        "A path before all routes, such as `/comfy/`, for a reverse proxy that also serves other "
        "applications. Routes answer with and without it.",
        example="/comfy/",
    )
    trusted_proxies: Networks = setting(
        (),
        "Addresses and networks of reverse proxies, separated by commas, whose headers "
        "`X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` are trusted. They require "
        "members or insecure_allow_anyone.",
    )
    tls_cert: HomePath | None = setting(
        None,
        "A PEM file with the certificate chain of this server. With tls_key, the server uses "
        "https. Both files are reloaded when they change.",
        expects=_PEM,
        example="/etc/comfy/fullchain.pem",
    )
    tls_key: HomePath | None = setting(
        None,
        "A PEM file with the private key of tls_cert, without a passphrase.",
        expects=_PEM,
        example="/etc/comfy/privkey.pem",
    )
    webhook_networks: Networks = setting(
        (),
        "Addresses and networks that webhooks may connect to although they are not public, "
        "separated by commas, such as `127.0.0.1` for a program on this machine. By default "
        "webhooks reach public addresses only.",
    )


class CostSettings(SettingsTable):
    """The settings under the heading Costs."""

    group = "Costs"

    credits_per_second: float = setting(
        0.27,
        "What a running second of a job costs, in credits, unless the account's table sets it. "
        "The default is the rate of Comfy Cloud's own GPU nodes, $0.001295 a second. Jobs that "
        "have ended keep their cost.",
        metavar="CREDITS",
        ge=0,
        le=1000,
    )
    credits_per_day: Credits | None = setting(
        None,
        "The hard budget of each member for a day (UTC), in credits, unless the member has its "
        "own. A job that would exceed it, with the jobs under way, is refused.",
        example=50,
    )
    credits_per_month: Credits | None = setting(
        None,
        "The hard budget of each member for a calendar month (UTC), as `credits_per_day` is for a "
        "day.",
        example=1000,
    )
    soft_credits_per_day: Credits | None = setting(
        None,
        "The soft budget of each member for a day (UTC), in credits, unless the member has its "
        "own. It refuses nothing: the dashboard shows that it is reached.",
        example=40,
    )
    soft_credits_per_month: Credits | None = setting(
        None,
        "The soft budget of each member for a calendar month (UTC), as `soft_credits_per_day` is "
        "for a day.",
        example=800,
    )
