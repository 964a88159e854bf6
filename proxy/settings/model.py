"""The tables of the settings: those of the program, and those of an account.

Every setting is one annotated field of `Settings` with its docstring. Its option, its variable, its
key of the TOML file, `config.example.toml` and the reference in `docs/` are drawn from it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import BaseModel, BeforeValidator, Field, SecretStr
from yarl import URL

from proxy.settings.table import (
    STRICT,
    Entry,
    entries,
    to_address,
    to_base_path,
    to_encryption_key,
    to_lower,
    to_networks,
    to_origins,
    to_path,
    to_url,
)

NAME = "comfy-cloud-proxy"
PREFIX = "COMFY_PROXY_"
#: How the variables begin that are meant for this program: an unknown one is a mistake.
PREFIXES = (PREFIX, "COMFY_CLOUD_")

#: The headings under which the settings stand, in this order.
GROUPS = ("General", "Comfy Cloud", "Clients", "Gateway", "Files and history", "Logs")


#: Jobs at once by plan.
PLANS = {"standard": 1, "creator": 3, "pro": 5}


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table, with its three forms: option, environment, TOML key."""

    name: str
    entry: Entry
    default: object
    environment: str
    option: str | None
    key: str | None
    is_flag: bool


class AccountSettings(BaseModel):
    """One table of `[[accounts]]`, checked."""

    model_config = STRICT

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"),
        Entry(
            "Accounts",
            expects="a name of at most 32 letters, digits, `.`, `_` and `-` that no other account "
            "has",
            example="studio",
        ),
    ]
    """How the account is called in logs, lists and metrics. Keep it: the files and jobs of the
    account are found by it."""

    key_file: Annotated[
        Path | None,
        BeforeValidator(to_path),
        Entry("Accounts", example="/run/secrets/comfy_cloud_studio"),
    ] = None
    """A file that holds nothing but the account's API key; the recommended form. It is read again
    when it changes and on SIGHUP."""

    key: Annotated[
        SecretStr | None,
        Entry(
            "Accounts",
            expects="one line of printable characters without spaces",
            secret=True,
            example="comfyui-...",
        ),
    ] = None
    """The API key itself, in place of `key_file`. Whoever can read this file has it then, so prefer
    the file form. Read again on SIGHUP."""

    plan: Annotated[
        Literal["standard", "creator", "pro"] | None,
        BeforeValidator(to_lower),
        Entry("Accounts", example="creator"),
    ] = None
    """The account's plan, which says how many jobs it runs at once: standard 1, creator 3, pro 5.
    In place of `slots`."""

    slots: Annotated[int, Field(ge=0, le=1000, strict=True), Entry("Accounts")] = 0
    """How many jobs the account runs at once; 0 learns it from what the account does."""

    weight: Annotated[
        float,
        Field(gt=0, le=1000),
        Entry("Accounts", expects="a number greater than 0, at most 1000"),
    ] = 1.0
    """Among accounts with a free slot, one with twice the weight gets twice the jobs."""

    members: Annotated[
        tuple[str, ...], Entry("Accounts", expects="a list of names of members")
    ] = ()
    """The names of the members whose jobs may run on the account; none named is everybody."""

    base_url: Annotated[
        URL | None,
        BeforeValidator(to_url),
        Entry("Accounts", shown="the setting base_url", example="https://cloud.comfy.org"),
    ] = None
    """Where the account's cloud answers, if that differs from the setting `base_url`. The list of
    nodes and models is that of the first account that answers, whatever the clouds of the others
    have."""


#: The keys of a table in the order in which they are documented.
ACCOUNT_ENTRIES: tuple[tuple[str, Entry], ...] = tuple(entries(AccountSettings))


def default_data_dir(*, simulated: bool) -> Path:
    """The platform's folder for a user's data; what was simulated has a folder of its own."""
    folder = platformdirs.user_data_path(NAME, appauthor=False)
    return folder / "simulator" if simulated else folder


def place_options(settings: Settings) -> str:
    """The options by which another command finds the same data folder; empty for the default."""
    if settings.data_dir != default_data_dir(simulated=settings.simulate):
        return f" --data-dir {shlex.quote(str(settings.data_dir))}"
    return " --simulate" if settings.simulate else ""


class Settings(BaseModel):
    """All settings, checked. `load` builds it from where people set them."""

    model_config = STRICT

    host: Annotated[
        str,
        Field(min_length=1),
        Entry("General", expects="an IP address or a host name of this machine", metavar="HOST"),
    ] = "127.0.0.1"
    """The address to listen on. Other than loopback only with members, or with
    insecure_allow_anyone."""

    port: Annotated[int, Field(ge=0, le=65535), Entry("General", metavar="PORT")] = 8188
    """The port to listen on; 0 picks a free one."""

    config: Annotated[
        Path | None,
        BeforeValidator(to_path),
        Entry("General", expects="the path of a TOML file", metavar="FILE", in_file=False),
    ] = None
    """A TOML file with settings."""

    simulate: Annotated[bool, Entry("General")] = False
    """Run workflows on a Comfy Cloud simulator inside this process. Needs no key."""

    simulate_pace: Annotated[float, Field(ge=0, le=3600), Entry("General", metavar="SECONDS")] = (
        0.05
    )
    """How many seconds the simulator takes for a sampling step."""

    data_dir: Annotated[
        Path,
        Field(
            default_factory=lambda checked: default_data_dir(
                simulated=bool(checked.get("simulate"))
            )
        ),
        BeforeValidator(to_path),
        Entry(
            "General",
            expects="the path of a folder that can be written",
            metavar="DIR",
            shown="the platform's folder for user data, on Linux ~/.local/share/comfy-cloud-proxy "
            "(with simulate its subfolder simulator)",
            example="/var/lib/comfy-cloud-proxy",
        ),
    ]
    """The folder for records, files and the catalogue. It is made if it is missing."""

    insecure_allow_anyone: Annotated[bool, Entry("General")] = False
    """Listen beyond this machine although anyone who reaches the port can run jobs on your account
    and read its files. For private networks only."""

    api_key: Annotated[
        SecretStr | None,
        Entry(
            "Comfy Cloud",
            expects="one line of printable characters without spaces",
            environment="COMFY_CLOUD_API_KEY",
            option=False,
            secret=True,
            metavar="KEY",
            example="comfyui-...",
        ),
    ] = None
    """The API key of the Comfy Cloud account. No option, so that it never shows in a list of
    processes. Prefer the file form where others can read the environment."""

    api_key_file: Annotated[
        Path | None,
        BeforeValidator(to_path),
        Entry(
            "Comfy Cloud",
            environment="COMFY_CLOUD_API_KEY_FILE",
            metavar="FILE",
            example="/run/secrets/comfy_cloud_api_key",
        ),
    ] = None
    """A file that holds nothing but the API key, such as a Docker secret. It is read again when it
    changes and on SIGHUP, so that another key needs no restart."""

    base_url: Annotated[
        URL,
        BeforeValidator(to_url),
        Entry("Comfy Cloud", environment="COMFY_CLOUD_BASE_URL", metavar="URL"),
    ] = URL("https://cloud.comfy.org/")
    """Where Comfy Cloud answers."""

    allow_plain_http: Annotated[bool, Entry("Comfy Cloud")] = False
    """Send the API key over `http://` beyond this machine and its private network. Without this a
    public `base_url` must begin with `https://`."""

    credentials_key: Annotated[
        SecretStr | None,
        BeforeValidator(to_encryption_key),
        Entry(
            "Gateway",
            expects="32 bytes in base64",
            option=False,
            secret=True,
            metavar="KEY",
            example="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        ),
    ] = None
    """The secret with which keys are encrypted that clients send for their own jobs, while these
    jobs wait: 32 random bytes, as from `openssl rand -base64 32`. Without it the file
    credentials.key of the data folder holds one. Another secret makes jobs run without the keys
    that were encrypted before."""

    send_partner_key: Annotated[bool, Entry("Comfy Cloud")] = True
    """Give the API key to partner nodes (as `extra_data.api_key_comfy_org`) when the client brought
    none."""

    slots: Annotated[int, Field(ge=0, le=1000), Entry("Comfy Cloud", metavar="JOBS")] = 0
    """How many jobs an account runs at once, where its table does not say it; 0 learns it from what
    the account does."""

    slots_ahead: Annotated[int, Field(ge=0, le=100), Entry("Comfy Cloud", metavar="JOBS")] = 0
    """How many jobs more than an account runs are sent to it, so that the next one begins without a
    round trip; all others wait in the proxy, where their order can still be changed. Until the
    proxy has learnt how many run, it is at least one."""

    unable_timeout: Annotated[
        float, Field(ge=0, le=86_400), Entry("Comfy Cloud", metavar="SECONDS")
    ] = 60.0
    """Seconds after which an accepted job fails that no account can take: the credits are used up,
    the key does not work, or the cloud's own queue is full. The error says which. 0 lets the job
    wait."""

    lost_timeout: Annotated[
        float, Field(ge=0, le=604_800), Entry("Comfy Cloud", metavar="SECONDS")
    ] = 3600.0
    """Seconds after which a job fails as lost that was sent to an account which cannot be read any
    more: its key does not work, it is in the settings no more, or Comfy Cloud cannot be reached. 0
    lets the job wait."""

    client_parallelism: Annotated[
        Literal["auto", "one", "many"],
        BeforeValidator(to_lower),
        Entry("Clients", expects="auto, one or many"),
    ] = "auto"
    """How many jobs of one client_id run at once. auto: one, as on a local ComfyUI, unless the
    client has announced that it understands several, or never listens on a websocket. Members may
    have a choice of their own."""

    fair_by: Annotated[Literal["jobs", "time"], BeforeValidator(to_lower), Entry("Gateway")] = (
        "jobs"
    )
    """What is shared out fairly among members: jobs, or the time that they run."""

    cors_origins: Annotated[
        tuple[str, ...],
        BeforeValidator(to_origins),
        Entry(
            "Clients", expects="a list of origins such as https://app.example", metavar="ORIGINS"
        ),
    ] = ()
    """Origins of web pages elsewhere that may use the API from a browser, as `https://app.example`,
    separated by commas; `*` is any. Other pages are refused, as a local ComfyUI does."""

    compress: Annotated[bool, Entry("Clients")] = False
    """Pack JSON and text (gzip, deflate) for clients that say they can unpack it, as ComfyUI does
    with --enable-compress-response-body. `/object_info` is packed anyway."""

    max_upload_mb: Annotated[
        float,
        Field(gt=0, le=1_000_000),
        Entry("Clients", expects="a number greater than 0", metavar="MIB"),
    ] = 100
    """The largest body of a request in MiB; a larger one is answered with 413."""

    max_json_mb: Annotated[
        float,
        Field(gt=0, le=1024),
        Entry("Clients", expects="a number greater than 0, at most 1024", metavar="MIB"),
    ] = 32
    """The largest JSON of a request, unpacked, in MiB; a larger one is answered with 413."""

    ping_interval: Annotated[float, Field(ge=0, le=86_400), Entry("Clients", metavar="SECONDS")] = (
        30
    )
    """A websocket to which nothing was sent for so many seconds gets a ping, so that clients that
    have vanished are noticed; 0 sends none."""

    max_connections: Annotated[
        int, Field(ge=1, le=1_000_000), Entry("Clients", metavar="COUNT")
    ] = 20_000
    """How many connections may be open at once; one more is answered with 503. The system's limit
    of open files may allow fewer."""

    max_header_kb: Annotated[float, Field(ge=1, le=1024), Entry("Clients", metavar="KIB")] = 16
    """The largest header of a request, and the longest first line, in KiB; more is answered with
    400."""

    header_timeout: Annotated[float, Field(ge=0, le=3600), Entry("Clients", metavar="SECONDS")] = 20
    """How many seconds a client may take to send the headers of a request before the connection is
    closed; 0 is no limit."""

    body_timeout: Annotated[float, Field(ge=0, le=3600), Entry("Clients", metavar="SECONDS")] = 60
    """In so many seconds the next 16 KiB of a request's body, or its rest, have to come, else it is
    answered with 408; 0 is no limit."""

    write_timeout: Annotated[float, Field(ge=0, le=3600), Entry("Clients", metavar="SECONDS")] = 60
    """In so many seconds a client has to take the next part of an answer, else the connection is
    closed; 0 is no limit. Websockets are not meant."""

    idle_timeout: Annotated[float, Field(ge=0, le=86_400), Entry("Clients", metavar="SECONDS")] = (
        660
    )
    """How many seconds a connection may stay open between two requests; 0 is no limit. One on which
    nothing was let in may stay 60 seconds at most. Reverse proxies should give up theirs sooner."""

    shutdown_timeout: Annotated[
        float, Field(ge=0, le=3600), Entry("Clients", metavar="SECONDS")
    ] = 10
    """How many seconds the proxy may take to stop after SIGTERM: requests under way finish,
    websockets are closed. Jobs go on on the cloud."""

    base_path: Annotated[
        str,
        BeforeValidator(to_base_path),
        Entry(
            "Gateway",
            expects="a path such as /comfy/ of plain letters, and not below /t/",
            metavar="PATH",
            example="/comfy/",
        ),
    ] = ""
    """A path before all routes, as `/comfy/`, for a reverse proxy that gives this server a part of
    a site. Routes answer with and without it."""

    require_members: Annotated[bool, Entry("Gateway")] = False
    """Refuse to start without members. A data folder that has had members, and trusted_proxies, ask
    for them too."""

    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        BeforeValidator(to_networks),
        Entry(
            "Gateway",
            expects="a list of addresses or networks such as 10.0.0.0/8",
            metavar="NETWORKS",
        ),
    ] = ()
    """Addresses and networks of reverse proxies, separated by commas, whose `X-Forwarded-For`,
    `X-Forwarded-Proto` and `X-Forwarded-Host` are believed."""

    tls_cert: Annotated[
        Path | None,
        BeforeValidator(to_path),
        Entry(
            "Gateway",
            expects="the path of a PEM file that can be read",
            metavar="FILE",
            example="/etc/comfy/fullchain.pem",
        ),
    ] = None
    """A PEM file with the certificate of this server and those above it; with tls_key it listens on
    https. Both are read again when they change."""

    tls_key: Annotated[
        Path | None,
        BeforeValidator(to_path),
        Entry(
            "Gateway",
            expects="the path of a PEM file that can be read",
            metavar="FILE",
            example="/etc/comfy/privkey.pem",
        ),
    ] = None
    """A PEM file with the private key of tls_cert, without a passphrase."""

    history_size: Annotated[int, Field(ge=1), Entry("Files and history", metavar="JOBS")] = 10_000
    """How many finished jobs the history keeps; the oldest go first."""

    cache_mb: Annotated[float, Field(ge=0), Entry("Files and history", metavar="MIB")] = 2048
    """How many MiB of pictures and other files are kept on disk; the least recently used go
    first."""

    prefetch: Annotated[
        Literal["off", "images", "all"],
        BeforeValidator(to_lower),
        Entry("Files and history", metavar="WHICH"),
    ] = "images"
    """Which outputs are fetched from the cloud when a job ends: off, images or all."""

    userdata: Annotated[
        Literal["disk", "cloud"],
        BeforeValidator(to_lower),
        Entry("Files and history", metavar="WHERE"),
    ] = "disk"
    """Where the web interface's settings and saved workflows are: on disk, each member's apart, or
    in the Comfy Cloud account, whose own web interface shows them too. cloud is for one person: it
    is refused where there are members."""

    catalogue_max_age: Annotated[
        float, Field(ge=0), Entry("Files and history", metavar="SECONDS")
    ] = 3600
    """After how many seconds the list of nodes and models is asked for again."""

    validate_graphs: Annotated[bool, Entry("Comfy Cloud")] = True
    """Check each workflow against the list of nodes before its job waits. What cannot be told from
    the list is left to the cloud; without this everything is."""

    metrics: Annotated[bool, Entry("Logs")] = True
    """Answer GET /metrics in Prometheus' format."""

    admin_listen: Annotated[
        tuple[str, int] | None,
        BeforeValidator(to_address),
        Entry(
            "Logs",
            expects="an address such as 127.0.0.1:9188 or [::1]:9188",
            metavar="HOST:PORT",
            example="127.0.0.1:9188",
        ),
    ] = None
    """Serve /metrics and the dashboard at an address of their own, and there alone. Whoever reaches
    it may read all metrics: let nobody but Prometheus and admins."""

    audit_days: Annotated[
        int,
        Field(ge=0, le=36_500),
        Entry("Logs", expects="a whole number of days from 0", metavar="DAYS"),
    ] = 90
    """For how many days the record of who did what is kept; 0 keeps none."""

    log_format: Annotated[
        Literal["console", "json"], BeforeValidator(to_lower), Entry("Logs", metavar="FORMAT")
    ] = "console"
    """How log lines look: console for people, json for machines."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(to_lower),
        Entry("Logs", metavar="LEVEL"),
    ] = "info"
    """The least level that is logged: debug, info, warning or error."""

    #: Whether an empty database may take the place of a damaged one: for one start, so that it is
    #: an option of `serve` alone.
    start_empty: bool = False

    #: Tables, which have no option and no variable: their rows are a table of their own.
    accounts: tuple[AccountSettings, ...] = ()

    @property
    def max_json_bytes(self) -> int:
        """`max_json_mb` in bytes."""
        return round(self.max_json_mb * 1024 * 1024)

    @property
    def max_upload_bytes(self) -> int:
        """`max_upload_mb` in bytes, rounded as ComfyUI rounds it."""
        return round(self.max_upload_mb * 1024 * 1024)

    @property
    def max_header_bytes(self) -> int:
        """`max_header_kb` in bytes."""
        return int(self.max_header_kb * 1024)

    @property
    def cache_bytes(self) -> int:
        """`cache_mb` in bytes."""
        return int(self.cache_mb * 1024 * 1024)


def _table() -> tuple[Setting, ...]:
    rows = []
    for name, entry in entries(Settings):
        field = Settings.model_fields[name]
        option = "--" + name.replace("_", "-")
        rows.append(
            Setting(
                name=name,
                entry=entry,
                default=None if entry.shown else field.default,
                environment=entry.environment or PREFIX + name.upper(),
                option=option if entry.option else None,
                key=name if entry.in_file else None,
                is_flag=field.annotation is bool,
            )
        )
    return tuple(sorted(rows, key=lambda row: GROUPS.index(row.entry.group)))


#: The table, in the order of `GROUPS`.
SETTINGS = _table()
