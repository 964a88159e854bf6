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
    to_blobs,
    to_bus,
    to_database,
    to_encryption_key,
    to_hosts,
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
GROUPS = (
    "General",
    "Comfy Cloud",
    "Clients",
    "Gateway",
    "Replicas",
    "Files and history",
    "Logs",
)


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
    """The account's name in logs, lists and metrics. Do not change it: the account's files and jobs
    are stored under it."""

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
    """Names of the members whose jobs may run on the account; by default those of every member."""

    base_url: Annotated[
        URL | None,
        BeforeValidator(to_url),
        Entry("Accounts", shown="the setting base_url", example="https://cloud.comfy.org"),
    ] = None
    """The address of the account's cloud, if it differs from the setting `base_url`. The list of
    nodes and models comes from the first account that answers."""


#: The keys of a table in the order in which they are documented.
ACCOUNT_ENTRIES: tuple[tuple[str, Entry], ...] = tuple(entries(AccountSettings))


def default_data_dir(*, simulated: bool) -> Path:
    """The platform's folder for a user's data; what was simulated has a folder of its own."""
    folder = platformdirs.user_data_path(NAME, appauthor=False)
    return folder / "simulator" if simulated else folder


def place_options(settings: Settings) -> str:
    """The options by which another command finds the same records; empty for the default."""
    if settings.database is not None:
        return ""
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
    """The folder for the database, files and the list of nodes. It is created if it is missing."""

    insecure_allow_anyone: Annotated[bool, Entry("General")] = False
    """Listen beyond this machine without members: anyone who reaches the port can run jobs on your
    account and read its files. For private networks only."""

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
    """The API key of the Comfy Cloud account. It has no option, so that it never shows in a list of
    processes. Prefer `api_key_file` where others can read the environment."""

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
    """The address of Comfy Cloud."""

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
    """Encrypts the API keys that clients send for their own jobs while these jobs wait: 32 random
    bytes, as from `openssl rand -base64 32`. By default the file credentials.key in the data folder
    holds one. After a change, waiting jobs run without these keys."""

    send_partner_key: Annotated[bool, Entry("Comfy Cloud")] = True
    """Send the account's API key to partner nodes (as `extra_data.api_key_comfy_org`) when the
    client has sent none."""

    slots: Annotated[int, Field(ge=0, le=1000), Entry("Comfy Cloud", metavar="JOBS")] = 0
    """How many jobs an account runs at once, unless its table sets it; 0 learns it from the
    account."""

    slots_ahead: Annotated[int, Field(ge=0, le=100), Entry("Comfy Cloud", metavar="JOBS")] = 0
    """How many more jobs than an account runs at once are sent to it, so that the next one starts
    without a round trip. All others wait in the proxy, where their order can still change. At least
    one until the number of slots is known."""

    unable_timeout: Annotated[
        float, Field(ge=0, le=86_400), Entry("Comfy Cloud", metavar="SECONDS")
    ] = 60.0
    """Seconds after which an accepted job fails if no account can take it: no credits, a key that
    does not work, or a full queue on the cloud. The error says which. 0 lets the job wait."""

    lost_timeout: Annotated[
        float, Field(ge=0, le=604_800), Entry("Comfy Cloud", metavar="SECONDS")
    ] = 3600.0
    """Seconds after which a job fails as lost if its account can no longer be read: the key does
    not work, the account was removed from the settings, or Comfy Cloud cannot be reached. 0 lets
    the job wait."""

    client_parallelism: Annotated[
        Literal["auto", "one", "many"],
        BeforeValidator(to_lower),
        Entry("Clients", expects="auto, one or many"),
    ] = "auto"
    """How many jobs of one client_id run at once. auto: one, as on a local ComfyUI, unless the
    client has announced that it understands several, or never listens on a websocket. A member can
    have a value of its own."""

    fair_by: Annotated[Literal["jobs", "time"], BeforeValidator(to_lower), Entry("Gateway")] = (
        "jobs"
    )
    """What members share fairly: the number of jobs, or their running time."""

    cors_origins: Annotated[
        tuple[str, ...],
        BeforeValidator(to_origins),
        Entry(
            "Clients", expects="a list of origins such as https://app.example", metavar="ORIGINS"
        ),
    ] = ()
    """Origins of web pages that may use the API from a browser, such as `https://app.example`,
    separated by commas; `*` allows any. Others are refused, as by a local ComfyUI."""

    compress: Annotated[bool, Entry("Clients")] = False
    """Compress JSON and text (gzip, deflate) for clients that accept it, as ComfyUI does with
    --enable-compress-response-body. `/object_info` is always compressed."""

    max_upload_mb: Annotated[
        float,
        Field(gt=0, le=1_000_000),
        Entry("Clients", expects="a number greater than 0", metavar="MIB"),
    ] = 100
    """The largest request body in MiB; a larger one gets 413."""

    max_json_mb: Annotated[
        float,
        Field(gt=0, le=1024),
        Entry("Clients", expects="a number greater than 0, at most 1024", metavar="MIB"),
    ] = 32
    """The largest JSON body in MiB, after decompression; a larger one gets 413."""

    ping_interval: Annotated[float, Field(ge=0, le=86_400), Entry("Clients", metavar="SECONDS")] = (
        30
    )
    """Seconds without a message to a websocket after which it gets a ping, to detect clients that
    are gone; 0 sends none."""

    max_connections: Annotated[
        int, Field(ge=1, le=1_000_000), Entry("Clients", metavar="COUNT")
    ] = 20_000
    """The most connections at once; one more gets 503. The system's limit of open files may allow
    fewer."""

    max_header_kb: Annotated[float, Field(ge=1, le=1024), Entry("Clients", metavar="KIB")] = 16
    """The largest request header, and the longest request line, in KiB; more gets 400."""

    header_timeout: Annotated[float, Field(ge=0, le=3600), Entry("Clients", metavar="SECONDS")] = 20
    """Seconds a client may take to send the headers of a request before the connection is closed; 0
    is no limit."""

    body_timeout: Annotated[float, Field(ge=0, le=3600), Entry("Clients", metavar="SECONDS")] = 60
    """Seconds within which the next 16 KiB of a request body, or the rest of it, must arrive;
    otherwise the answer is 408. 0 is no limit."""

    write_timeout: Annotated[float, Field(ge=0, le=3600), Entry("Clients", metavar="SECONDS")] = 60
    """Seconds within which a client must take the next part of an answer; otherwise the connection
    is closed. 0 is no limit. Websockets are not affected."""

    idle_timeout: Annotated[float, Field(ge=0, le=86_400), Entry("Clients", metavar="SECONDS")] = (
        660
    )
    """Seconds a connection may stay open between two requests; 0 is no limit. One without an
    authenticated request may stay 60 seconds at most. Set a shorter time in reverse proxies."""

    shutdown_timeout: Annotated[
        float, Field(ge=0, le=3600), Entry("Clients", metavar="SECONDS")
    ] = 10
    """Seconds the proxy may take to stop after SIGTERM: requests finish, websockets are closed.
    Jobs continue on the cloud."""

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
    """A path before all routes, such as `/comfy/`, behind a reverse proxy that serves other things
    too. Routes answer with and without it."""

    require_members: Annotated[bool, Entry("Gateway")] = False
    """Refuse to start without members. `trusted_proxies` and a data folder that has had members
    require them too."""

    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        BeforeValidator(to_networks),
        Entry(
            "Gateway",
            expects="a list of addresses or networks such as 10.0.0.0/8",
            metavar="NETWORKS",
        ),
    ] = ()
    """Addresses and networks of reverse proxies, separated by commas, whose headers
    `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` are trusted."""

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
    """A PEM file with the certificate chain of this server. With tls_key the server listens on
    https. Both files are read again when they change."""

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

    database: Annotated[
        SecretStr | None,
        BeforeValidator(to_database),
        Entry(
            "Replicas",
            expects="sqlite, postgresql://USER:PASSWORD@HOST/NAME, or file:PATH of a file that "
            "holds one of them",
            option=False,
            secret=True,
            shown="sqlite",
            example="postgresql://comfy:...@db.internal/comfy",
        ),
    ] = None
    """Where records are kept: `sqlite`, a file in the data folder, for one process; or a PostgreSQL
    database that all replicas share, which needs `bus` too and the extra `cluster`. `file:PATH`
    names a file that holds the address. It has no option, because the address holds a password."""

    database_direct: Annotated[
        SecretStr | None,
        BeforeValidator(to_database),
        Entry(
            "Replicas",
            expects="postgresql://USER:PASSWORD@HOST/NAME, or file:PATH of a file that holds it",
            option=False,
            secret=True,
            shown="the setting database",
            example="postgresql://comfy:...@db.internal/comfy",
        ),
    ] = None
    """The address at which PostgreSQL itself answers, for migrations, where `database` leads to a
    connection pooler such as PgBouncer."""

    bus: Annotated[
        SecretStr | None,
        BeforeValidator(to_bus),
        Entry(
            "Replicas",
            expects="memory, redis://HOST, rediss://USER:PASSWORD@HOST, or file:PATH of a file "
            "that holds one of them",
            option=False,
            secret=True,
            shown="memory",
            example="rediss://comfy:...@valkey.internal",
        ),
    ] = None
    """What carries messages between replicas: `memory` for one process, or the address of a Valkey
    or Redis server that all replicas share. `file:PATH` names a file that holds the address."""

    blobs: Annotated[
        str | None,
        BeforeValidator(to_blobs),
        Entry(
            "Replicas",
            expects="the path of a folder, or s3://BUCKET/PREFIX",
            metavar="PLACE",
            example="s3://comfy-uploads/production",
        ),
    ] = None
    """Where the bytes of uploads are kept beside Comfy Cloud: a folder, or a bucket of an
    S3-compatible store, that all replicas share. The data folder is a cache then. An upload is
    answered when it is kept there, and nothing is deleted. The keys of a bucket come from
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from the file of AWS_SHARED_CREDENTIALS_FILE, or
    from the machine's role. Needs the extra `cluster`. By default uploads are kept in the cache and
    on Comfy Cloud."""

    blobs_endpoint: Annotated[
        URL | None,
        BeforeValidator(to_url),
        Entry("Replicas", metavar="URL", shown="Amazon S3", example="https://minio.internal:9000"),
    ] = None
    """The address of the S3-compatible store of `blobs`."""

    blobs_region: Annotated[str, Field(min_length=1), Entry("Replicas", expects="a name")] = (
        "us-east-1"
    )
    """The region of the bucket of `blobs`."""

    secret_file: Annotated[
        Path | None,
        BeforeValidator(to_path),
        Entry("Replicas", example="/run/secrets/comfy_proxy_secret"),
    ] = None
    """A file with the secrets by which replicas encrypt and sign what the others read, one a line,
    each 32 random bytes as from `openssl rand -base64 32`. The first one is used, the others and
    `credentials_key` are for what was made before: to change the secret, put a new one first and
    keep the old one for a while. By default one is kept in the database, or with SQLite in the file
    credentials.key of the data folder."""

    engine_lease: Annotated[float, Field(ge=2, le=300), Entry("Replicas", metavar="SECONDS")] = 10.0
    """Seconds for which the replica that runs jobs may do so without renewing its lease in the
    database. When it fails, another one takes over after at most this time."""

    history_size: Annotated[int, Field(ge=1), Entry("Files and history", metavar="JOBS")] = 10_000
    """The most finished jobs in the history; the oldest are removed first."""

    cache_mb: Annotated[float, Field(ge=0), Entry("Files and history", metavar="MIB")] = 2048
    """The size of the disk cache of pictures and other files, in MiB; the least recently used are
    removed first."""

    prefetch: Annotated[
        Literal["off", "images", "all"],
        BeforeValidator(to_lower),
        Entry("Files and history", metavar="WHICH"),
    ] = "images"
    """Which outputs are fetched from the cloud when a job ends: off, images or all. With replicas
    none are, because a client may ask another replica for them."""

    userdata: Annotated[
        Literal["disk", "cloud"],
        BeforeValidator(to_lower),
        Entry("Files and history", metavar="WHERE"),
    ] = "disk"
    """Where settings and saved workflows of the web interface are stored: on disk, separately for
    each member, or in the Comfy Cloud account, whose own web interface shows them too. cloud is for
    one person and is refused when there are members."""

    catalogue_max_age: Annotated[
        float, Field(ge=0), Entry("Files and history", metavar="SECONDS")
    ] = 3600
    """Seconds after which the list of nodes and models is fetched again."""

    helper_nodes: Annotated[bool, Entry("Clients")] = True
    """Run nodes that desktop clients bring along to carry pictures and texts, such as those of
    Krita AI Diffusion: core nodes take their place on the cloud. They are listed in `/object_info`,
    and the routes of their packs answer; docs/helper-nodes.md has all of them."""

    prefer_helper_nodes: Annotated[bool, Entry("Clients")] = False
    """Run these nodes in the proxy even where Comfy Cloud has them itself."""

    url_hosts: Annotated[
        tuple[str, ...],
        BeforeValidator(to_hosts),
        Entry(
            "Clients",
            expects="a list of hosts such as images.example or *.images.example",
            metavar="HOSTS",
        ),
    ] = ()
    """Hosts from which nodes that load a picture from an address may have it, separated by commas;
    `*.images.example` allows all below one. The proxy fetches it, never from private addresses. By
    default no host is allowed."""

    validate_graphs: Annotated[bool, Entry("Comfy Cloud")] = True
    """Check each workflow against the list of nodes before its job is queued. What the list cannot
    tell is left to the cloud; without this check, everything is."""

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
    """Serve /metrics and the dashboard at this address only. Whoever reaches it can read all
    metrics: allow only Prometheus and admins."""

    audit_days: Annotated[
        int,
        Field(ge=0, le=36_500),
        Entry("Logs", expects="a whole number of days from 0", metavar="DAYS"),
    ] = 90
    """Days for which audit entries are kept; 0 keeps none."""

    log_format: Annotated[
        Literal["console", "json"], BeforeValidator(to_lower), Entry("Logs", metavar="FORMAT")
    ] = "console"
    """The format of log lines: console for people, json for programs."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(to_lower),
        Entry("Logs", metavar="LEVEL"),
    ] = "info"
    """The lowest level that is logged: debug, info, warning or error."""

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
