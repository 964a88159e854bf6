"""Settings of the process: where it listens, its data, its logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import platformdirs

from proxy.settings.fields import SettingsTable, setting
from proxy.settings.values import HomePath, HostAndPort

_NAME = "comfy-cloud-proxy"


def default_data_dir(*, simulated: bool) -> Path:
    """Return the platform's folder for a user's data; what was simulated has a folder of its
    own."""
    folder = platformdirs.user_data_path(_NAME, appauthor=False)
    return folder / "simulator" if simulated else folder


class GeneralSettings(SettingsTable):
    """The settings under the heading General."""

    group = "General"

    host: str = setting(
        "127.0.0.1",
        "The address to listen on, or several with commas between them, such as `127.0.0.1,::1`. "
        "Addresses other than loopback require members or insecure_allow_anyone.",
        metavar="HOST",
        expects="IP addresses or host names of this machine",
        min_length=1,
        pattern=r"[^,\s]",
    )
    port: int = setting(
        8188,
        "The port to listen on; 0 picks a free one.",
        metavar="PORT",
        ge=0,
        le=65535,
    )
    config: HomePath | None = setting(
        None,
        "A TOML file with settings.",
        expects="the path of a TOML file",
        in_file=False,
    )
    simulate: bool = setting(
        False,
        "Run workflows on a Comfy Cloud simulator inside this process. Needs no key.",
    )
    simulate_deployment: bool = setting(
        False,
        "With `simulate`: add a simulated deployment with made-up node packs, as the account "
        "`studio`.",
    )
    data_dir: HomePath = setting(
        None,
        "The folder for the database, files and the list of nodes. The proxy creates it if it "
        "does not exist.",
        metavar="DIR",
        expects="the path of a folder that can be written",
        shown="the platform's folder for user data, on Linux ~/.local/share/comfy-cloud-proxy "
        "(with simulate its subfolder simulator)",
        example="/var/lib/comfy-cloud-proxy",
        default_factory=lambda values: default_data_dir(simulated=values["simulate"]),
    )
    insecure_allow_anyone: bool = setting(
        False,
        "Listen on other addresses than loopback, or behind `trusted_proxies`, without members. "
        "Anyone who reaches the port can run jobs on your account and read its files. Use it only "
        "on private networks.",
    )
    open: bool = setting(
        False,
        "Open the web interface in the browser when the proxy listens.",
        for_once=True,
    )
    start_empty: bool = setting(
        False,
        "Replace a damaged database by an empty one. The damaged file is kept.",
        for_once=True,
    )

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses of `host`."""
        return tuple(part.strip() for part in self.host.split(",") if part.strip())


class LogSettings(SettingsTable):
    """The settings under the heading Logs."""

    group = "Logs"

    admin_listen: HostAndPort | None = setting(
        None,
        "Serve /metrics and the audit log at this address only, and the dashboard here too. "
        "Anyone who reaches it can read all metrics: allow only Prometheus and admins.",
        example="127.0.0.1:9188",
    )
    audit_days: int = setting(
        90,
        "Days for which audit entries are stored; 0 stores none.",
        metavar="DAYS",
        expects="a whole number of days from 0",
        ge=0,
        le=36_500,
    )
    log_format: Literal["console", "json"] = setting(
        "console",
        "The format of log lines: console for people, json for programs.",
        metavar="FORMAT",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        "The minimum level of log lines: debug, info, warning or error.",
        metavar="LEVEL",
    )
