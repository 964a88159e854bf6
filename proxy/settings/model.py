"""The table of the settings of the program.

Every setting is one annotated field of `Settings` with its docstring. Its option, its variable, its
key of the TOML file, `config.example.toml` and the reference in `docs/` are drawn from it.
"""

from __future__ import annotations

import shlex
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from msgspec import Meta, Struct
from yarl import URL

from proxy.settings.arrays import AccountSettings, ProviderSettings
from proxy.settings.table import (
    AMOUNT_FORM,
    CLOUD_PREFIX,
    KEY_FORM,
    Secret,
    Setting,
    rows_of,
    to_address,
    to_amount,
    to_base_path,
    to_blobs,
    to_bus,
    to_database,
    to_encryption_key,
    to_header,
    to_hosts,
    to_names,
    to_networks,
    to_origins,
)

_NAME = "comfy-cloud-proxy"

#: The headings under which the settings stand, in this order.
GROUPS = (
    "General",
    "Comfy Cloud",
    "Clients",
    "Gateway",
    "Costs",
    "Sign-in",
    "Replicas",
    "Files and history",
    "Logs",
)

_PEM = "the path of a PEM file that can be read"
_NETWORKS = "a list of addresses or networks such as 10.0.0.0/8"


def default_data_dir(*, simulated: bool) -> Path:
    """Return the platform's folder for a user's data; what was simulated has a folder of its
    own."""
    folder = platformdirs.user_data_path(_NAME, appauthor=False)
    return folder / "simulator" if simulated else folder


def pictures_folder(*, simulated: bool) -> Path:
    """Return the folder in which a person who uses the proxy alone finds the outputs."""
    return Path.home() / "ComfyUI-Cloud" / ("simulated" if simulated else "output")


def place_options(settings: Settings) -> str:
    """Return the options by which another command finds the same records; empty for the default."""
    if settings.database is not None:
        return ""
    if settings.data_dir != default_data_dir(simulated=settings.simulate):
        return f" --data-dir {shlex.quote(str(settings.data_dir))}"
    return " --simulate" if settings.simulate else ""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings, checked. `load` builds it from where people set them."""

    host: Annotated[
        str,
        Meta(min_length=1, pattern=r"[^,\s]"),
        Setting(
            "General",
            "HOST",
            expects="IP addresses or host names of this machine",
        ),
    ] = "127.0.0.1"
    """The address to listen on, or several with commas between them, such as `127.0.0.1,::1`.
    Addresses other than loopback require members or insecure_allow_anyone."""

    port: Annotated[int, Meta(ge=0, le=65535), Setting("General", "PORT")] = 8188
    """The port to listen on; 0 picks a free one."""

    config: Annotated[
        Path | None, Setting("General", expects="the path of a TOML file", in_file=False)
    ] = None
    """A TOML file with settings."""

    simulate: Annotated[bool, Setting("General")] = False
    """Run workflows on a Comfy Cloud simulator inside this process. Needs no key."""

    simulate_pace: Annotated[float, Meta(ge=0, le=3600), Setting("General", "SECONDS")] = 0.05
    """Seconds that the simulator takes for one sampling step."""

    data_dir: Annotated[
        Path,
        Setting(
            "General",
            "DIR",
            expects="the path of a folder that can be written",
            shown="the platform's folder for user data, on Linux ~/.local/share/comfy-cloud-proxy "
            "(with simulate its subfolder simulator)",
            example="/var/lib/comfy-cloud-proxy",
        ),
    ]
    """The folder for the database, files and the list of nodes. The proxy creates it if it does not
    exist."""

    insecure_allow_anyone: Annotated[bool, Setting("General")] = False
    """Listen on other addresses than loopback without members. Anyone who reaches the port can run
    jobs on your account and read its files. Use it only on private networks."""

    api_key: Annotated[
        Secret | None,
        Setting(
            "Comfy Cloud",
            "KEY",
            prefix=CLOUD_PREFIX,
            expects=KEY_FORM,
            secret=True,
            example="comfyui-...",
        ),
    ] = None
    """The API key of the Comfy Cloud account. It has no option, because other users can list
    command lines. If others can read the environment, use `api_key_file`."""

    api_key_file: Annotated[
        Path | None,
        Setting("Comfy Cloud", prefix=CLOUD_PREFIX, example="/run/secrets/comfy_cloud_api_key"),
    ] = None
    """A file that contains only the API key, such as a Docker secret. The proxy reloads it when it
    changes and on SIGHUP."""

    base_url: Annotated[URL, Setting("Comfy Cloud", prefix=CLOUD_PREFIX)] = URL(
        "https://cloud.comfy.org/"
    )
    """The address of Comfy Cloud."""

    allow_plain_http: Annotated[bool, Setting("Comfy Cloud")] = False
    """Allow the API key to be sent over `http://` to public addresses. Otherwise a public
    `base_url` must use `https://`."""

    credentials_key: Annotated[
        Secret | None,
        Setting(
            "Gateway",
            "KEY",
            expects="32 bytes in base64",
            secret=True,
            example="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            read=to_encryption_key,
        ),
    ] = None
    """Encrypts the API keys that clients send for their own jobs, while these jobs wait: 32 random
    bytes, as from `openssl rand -base64 32`. The default is a generated key in the file
    credentials.key in the data folder. After a change, waiting jobs run without these keys."""

    send_partner_key: Annotated[bool, Setting("Comfy Cloud")] = True
    """Send the account's API key to partner nodes (as `extra_data.api_key_comfy_org`) if the client
    sends none."""

    slots: Annotated[int, Meta(ge=0, le=1000), Setting("Comfy Cloud", "JOBS")] = 0
    """How many jobs an account runs at once, unless its table sets it. With 0 the proxy reads
    the limit from the account, or discovers it."""

    slots_ahead: Annotated[int, Meta(ge=0, le=100), Setting("Comfy Cloud", "JOBS")] = 0
    """How many jobs are sent to an account in addition to its slots, so that the next job starts
    without a round trip. Their order can no longer change. Until the number of slots is known, at
    least one job is sent ahead."""

    unable_timeout: Annotated[float, Meta(ge=0, le=86_400), Setting("Comfy Cloud", "SECONDS")] = (
        60.0
    )
    """Seconds after which an accepted job fails if no account can run it: no credits, an invalid
    key, or a full queue on the cloud. The error names the cause. 0 disables the timeout."""

    lost_timeout: Annotated[float, Meta(ge=0, le=604_800), Setting("Comfy Cloud", "SECONDS")] = (
        3600.0
    )
    """Seconds after which a job fails as lost if the proxy can no longer read its account: the key
    is invalid, the account was removed from the settings, or Comfy Cloud is unreachable. 0 disables
    the timeout."""

    client_parallelism: Annotated[
        Literal["auto", "one", "many"], Setting("Clients", expects="auto, one or many")
    ] = "auto"
    """How many jobs of one client_id run at once. auto: one, as on a local ComfyUI, unless the
    client has announced support for several, or polls without a websocket. Members can override
    it."""

    credits_per_second: Annotated[float, Meta(ge=0, le=1000), Setting("Costs", "CREDITS")] = 0.27
    """What a running second of a job costs, in credits, unless the account's table sets it. The
    default is the rate of Comfy Cloud's own GPU nodes, $0.001295 a second. Change it if your plan
    or your deployment has another one; jobs that have ended keep their cost."""

    credits_per_day: Annotated[
        float | None,
        Setting("Costs", "CREDITS", expects=AMOUNT_FORM, example=50, read=to_amount),
    ] = None
    """The hard budget of each member for a day (UTC), in credits, unless the member has its own. A
    job that would exceed it, with the jobs under way, is refused. By default there is none."""

    credits_per_month: Annotated[
        float | None,
        Setting("Costs", "CREDITS", expects=AMOUNT_FORM, example=1000, read=to_amount),
    ] = None
    """The hard budget of each member for a calendar month (UTC), as `credits_per_day` is for a
    day."""

    soft_credits_per_day: Annotated[
        float | None,
        Setting("Costs", "CREDITS", expects=AMOUNT_FORM, example=40, read=to_amount),
    ] = None
    """The soft budget of each member for a day (UTC), in credits, unless the member has its own. It
    refuses nothing: the dashboard shows that it is reached. By default there is none."""

    soft_credits_per_month: Annotated[
        float | None,
        Setting("Costs", "CREDITS", expects=AMOUNT_FORM, example=800, read=to_amount),
    ] = None
    """The soft budget of each member for a calendar month (UTC), as `soft_credits_per_day` is for a
    day."""

    fair_by: Annotated[Literal["jobs", "time"], Setting("Gateway")] = "jobs"
    """What members share equally: the number of jobs, or running time."""

    cors_origins: Annotated[
        tuple[str, ...],
        Setting(
            "Clients",
            "ORIGINS",
            expects="a list of origins such as https://app.example",
            read=to_origins,
        ),
    ] = ()
    """Origins of web pages that may call the API from a browser, such as `https://app.example`,
    separated by commas; `*` allows all. Others are refused, as by a local ComfyUI."""

    allowed_hosts: Annotated[
        tuple[str, ...],
        Setting(
            "Clients",
            "HOSTS",
            expects="a list of hosts such as comfy.example or *.comfy.example",
            read=to_hosts,
        ),
    ] = ()
    """Names by which clients may call a proxy without members on a loopback address, separated by
    commas; `*.comfy.example` allows all subdomains. Loopback names, IP addresses and names that
    nobody can register are always allowed. It protects from web pages that point their name at this
    machine."""

    compress: Annotated[bool, Setting("Clients")] = False
    """Compress JSON and text (gzip, deflate) for clients that support it, like ComfyUI with
    --enable-compress-response-body. `/object_info` is always compressed."""

    max_upload_mb: Annotated[
        float,
        Meta(gt=0, le=1_000_000),
        Setting("Clients", "MIB", expects="a number greater than 0"),
    ] = 100
    """The maximum size of a request body in MiB. Larger bodies get a 413."""

    max_json_mb: Annotated[float, Meta(gt=0, le=1024), Setting("Clients", "MIB")] = 32
    """The maximum size of a JSON body in MiB, after decompression. Larger bodies get a 413."""

    memory_mb: Annotated[float, Meta(ge=64, le=1_000_000), Setting("Clients", "MIB")] = 256
    """The memory in MiB that the proxy may hold for clients: bodies, unread answers, unfinished
    messages. A member may hold as much as stays free, strangers together a quarter of that; further
    requests get a 429."""

    ping_interval: Annotated[float, Meta(ge=0, le=86_400), Setting("Clients", "SECONDS")] = 30
    """Seconds of silence after which the proxy pings a websocket, to detect clients that are gone;
    0 disables pings."""

    max_connections: Annotated[int, Meta(ge=1, le=1_000_000), Setting("Clients", "COUNT")] = 20_000
    """The maximum number of connections. A member may have as many as stay free, strangers together
    a quarter of that; further connections get a 503. The system's limit of open files can be
    lower."""

    max_header_kb: Annotated[float, Meta(ge=1, le=1024), Setting("Clients", "KIB")] = 16
    """The maximum size of a request header in KiB. Larger ones get a 400."""

    header_timeout: Annotated[float, Meta(ge=0, le=3600), Setting("Clients", "SECONDS")] = 20
    """Seconds within which a client must send the headers of a request; otherwise the connection is
    closed. 0 disables the timeout."""

    body_timeout: Annotated[float, Meta(ge=0, le=3600), Setting("Clients", "SECONDS")] = 60
    """Seconds within which each 16 KiB of a request body must arrive; otherwise the answer is 408.
    0 disables the timeout."""

    write_timeout: Annotated[float, Meta(ge=0, le=3600), Setting("Clients", "SECONDS")] = 60
    """Seconds within which a client must receive the next part of an answer; otherwise the
    connection is closed. 0 disables the timeout. It does not apply to websockets."""

    idle_timeout: Annotated[float, Meta(ge=0, le=86_400), Setting("Clients", "SECONDS")] = 660
    """Seconds a connection may stay open between two requests; 0 disables the timeout. For
    connections without an authenticated request it is at most 60 seconds. Set a shorter time in
    reverse proxies."""

    shutdown_timeout: Annotated[float, Meta(ge=0, le=3600), Setting("Clients", "SECONDS")] = 10
    """Seconds the proxy may take to stop after SIGTERM, to finish requests and close websockets.
    Jobs continue on the cloud."""

    base_path: Annotated[
        str,
        Setting(
            "Gateway",
            "PATH",
            expects="a path such as /comfy/ of plain letters, and not below /t/",
            example="/comfy/",
            read=to_base_path,
        ),
    ] = ""
    """A path before all routes, such as `/comfy/`, for a reverse proxy that also serves other
    applications. Routes answer with and without it."""

    require_members: Annotated[bool, Setting("Gateway")] = False
    """Refuse to start without members. Setting `trusted_proxies`, and a data folder that has had
    members, imply it."""

    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        Setting(
            "Gateway",
            "NETWORKS",
            expects=_NETWORKS,
            read=to_networks,
        ),
    ] = ()
    """Addresses and networks of reverse proxies, separated by commas, whose headers
    `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` are trusted."""

    tls_cert: Annotated[
        Path | None, Setting("Gateway", expects=_PEM, example="/etc/comfy/fullchain.pem")
    ] = None
    """A PEM file with the certificate chain of this server. With tls_key, the server uses https.
    Both files are reloaded when they change."""

    tls_key: Annotated[
        Path | None, Setting("Gateway", expects=_PEM, example="/etc/comfy/privkey.pem")
    ] = None
    """A PEM file with the private key of tls_cert, without a passphrase."""

    webhook_networks: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        Setting(
            "Gateway",
            "NETWORKS",
            expects=_NETWORKS,
            read=to_networks,
        ),
    ] = ()
    """Addresses and networks that webhooks may connect to although they are not public, separated
    by commas, such as `127.0.0.1` for a program on this machine. By default webhooks reach public
    addresses only."""

    webhook_hosts: Annotated[
        tuple[str, ...],
        Setting(
            "Gateway",
            "HOSTS",
            expects="a list of hosts such as hooks.example.com or *.example.com",
            read=to_hosts,
        ),
    ] = ()
    """Hosts that jobs may name in `extra_data.webhook_url` to get a message about their end,
    separated by commas; `*.example.com` allows all subdomains. By default no host is allowed."""

    sign_in_header: Annotated[
        str | None,
        Setting(
            "Sign-in",
            "HEADER",
            expects="the name of a header such as Remote-User",
            example="Remote-User",
            read=to_header,
        ),
    ] = None
    """The header in which a reverse proxy names the person whom it has signed in, such as
    `Remote-User` (Authelia), `X-Forwarded-User` (oauth2-proxy) or `Tailscale-User-Login`. It counts
    from `trusted_proxies` only. Whoever comes for the first time becomes a member."""

    sign_in_groups_header: Annotated[
        str | None,
        Setting(
            "Sign-in",
            "HEADER",
            expects="the name of a header such as Remote-Groups",
            example="Remote-Groups",
            read=to_header,
        ),
    ] = None
    """The header with the groups of this person, separated by commas."""

    sign_in_admin_groups: Annotated[
        tuple[str, ...],
        Setting("Sign-in", "NAMES", expects="a list of names of groups", read=to_names),
    ] = ()
    """Groups whose people are admins. With it, those who sign in are admins if they are in one of
    these groups, and users if not."""

    sign_in_template: Annotated[
        str | None, Setting("Sign-in", "NAME", expects="the name of a member", example="template")
    ] = None
    """The member whose weight, parallelism and limits new members get. It may be disabled."""

    database: Annotated[
        Secret | None,
        Setting(
            "Replicas",
            expects="sqlite, postgresql://USER:PASSWORD@HOST/NAME, or file:PATH of a file that "
            "holds one of them",
            secret=True,
            shown="sqlite",
            example="postgresql://comfy:...@db.internal/comfy",
            read=to_database,
        ),
    ] = None
    """The database: `sqlite`, a file in the data folder, for one process; or a PostgreSQL database
    that all replicas share, which also needs `bus` and the extra `cluster`. `file:PATH` names a
    file that contains the address. It has no option, because the address contains a password."""

    database_direct: Annotated[
        Secret | None,
        Setting(
            "Replicas",
            expects="postgresql://USER:PASSWORD@HOST/NAME, or file:PATH of a file that holds it",
            secret=True,
            shown="the setting database",
            example="postgresql://comfy:...@db.internal/comfy",
            read=to_database,
        ),
    ] = None
    """The direct address of PostgreSQL, for migrations, if `database` is a connection pooler such
    as PgBouncer."""

    bus: Annotated[
        Secret | None,
        Setting(
            "Replicas",
            expects="memory, redis://HOST, rediss://USER:PASSWORD@HOST, or file:PATH of a file "
            "that holds one of them",
            secret=True,
            shown="memory",
            example="rediss://comfy:...@valkey.internal",
            read=to_bus,
        ),
    ] = None
    """The message bus between replicas: `memory` for one process, or the address of a Valkey or
    Redis server that all replicas share. `file:PATH` names a file that contains the address."""

    blobs: Annotated[
        str | None,
        Setting(
            "Replicas",
            "PLACE",
            expects="the path of a folder, or s3://BUCKET/PREFIX",
            example="s3://comfy-uploads/production",
            read=to_blobs,
        ),
    ] = None
    """Where uploads are stored in addition to Comfy Cloud: a folder, or a bucket of an
    S3-compatible store, that all replicas share. The data folder is then only a cache. The proxy
    confirms an upload after it is stored there, and never deletes it. The keys of a bucket come
    from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from the file in AWS_SHARED_CREDENTIALS_FILE,
    or from the role of the machine. It needs the extra `cluster`. By default uploads are in the
    cache and on Comfy Cloud."""

    blobs_endpoint: Annotated[
        URL | None, Setting("Replicas", shown="Amazon S3", example="https://minio.internal:9000")
    ] = None
    """The address of the S3-compatible store of `blobs`."""

    blobs_region: Annotated[str, Meta(min_length=1), Setting("Replicas", expects="a name")] = (
        "us-east-1"
    )
    """The region of the bucket of `blobs`."""

    secret_file: Annotated[
        Path | None, Setting("Replicas", example="/run/secrets/comfy_proxy_secret")
    ] = None
    """A file with the secrets that replicas use to encrypt and sign shared data, one per line, each
    32 random bytes as from `openssl rand -base64 32`. The proxy uses the first one, and accepts
    data made with the others and with `credentials_key`. docs/security.md says how to change the
    secret. By default the secret is in the database, or with SQLite in the file credentials.key of
    the data folder."""

    engine_lease: Annotated[float, Meta(ge=2, le=300), Setting("Replicas", "SECONDS")] = 10.0
    """Seconds after which another replica takes over the jobs if the active replica does not renew
    its lease in the database."""

    history_size: Annotated[int, Meta(ge=1), Setting("Files and history", "JOBS")] = 10_000
    """The maximum number of finished jobs in the history of each member. The oldest are removed
    first."""

    cache_mb: Annotated[float, Meta(ge=0), Setting("Files and history", "MIB")] = 2048
    """The size of the disk cache of files in MiB. The least recently used files are removed
    first."""

    output_directory: Annotated[
        Path | None,
        Setting(
            "Files and history",
            "DIR",
            expects="the path of a folder that can be written",
            example="/srv/comfyui/output",
        ),
    ] = None
    """A folder to which the outputs of each job are also written, under their names and subfolders,
    before clients hear of the end of the job. For programs that read ComfyUI's output folder. Each
    member has a folder of their own in it. Previews are not written. The proxy creates the folder
    if it does not exist, and deletes nothing in it. The default is `ComfyUI-Cloud/output` in your
    home folder if save_outputs is set, otherwise none: outputs are then in the cache and on
    Comfy Cloud."""

    save_outputs: Annotated[bool, Setting("Files and history")] = True
    """Use `ComfyUI-Cloud/output` in your home folder as output_directory if you use the proxy
    alone: it listens on loopback addresses, has no members, uses the default data folder and does
    not run in a container. With the simulator it is `ComfyUI-Cloud/simulated`."""

    input_directory: Annotated[
        Path | None,
        Setting(
            "Files and history",
            "DIR",
            expects="the path of a folder that can be read",
            example="/srv/comfyui/input",
        ),
    ] = None
    """A folder whose files workflows can name, like those of ComfyUI's input folder; it must exist.
    The proxy sends a file to Comfy Cloud when a job needs it, and writes nothing to the folder.
    Each member has a folder of their own in it."""

    prefetch: Annotated[Literal["off", "images", "all"], Setting("Files and history", "WHICH")] = (
        "images"
    )
    """Which outputs the proxy downloads from the cloud when a job ends: off, images or all. With
    replicas it downloads none, because a client may request them from another replica. With
    output_directory it downloads all."""

    userdata: Annotated[Literal["disk", "cloud"], Setting("Files and history", "WHERE")] = "disk"
    """Where settings and saved workflows of the web interface are stored: disk, in the database of
    the proxy, separately for each member; or cloud, in the Comfy Cloud account, where its web
    interface shows them too. cloud does not support members."""

    catalog_max_age: Annotated[float, Meta(ge=0), Setting("Files and history", "SECONDS")] = 3600
    """Seconds after which the proxy reloads the list of nodes and models."""

    assets: Annotated[bool, Setting("Clients")] = True
    """Serve ComfyUI's assets API, which the panels of the web interface for pictures and models
    use. Without it, they show the history and the input folder."""

    helper_nodes: Annotated[bool, Setting("Clients")] = True
    """Run nodes of desktop clients that transfer pictures and texts, such as those of Krita AI
    Diffusion. On the cloud, core nodes replace them. `/object_info` lists them, and the proxy
    serves the routes of their packs. docs/helper-nodes.md lists all of them."""

    prefer_helper_nodes: Annotated[bool, Setting("Clients")] = False
    """Run these nodes in the proxy even if Comfy Cloud has them."""

    url_hosts: Annotated[
        tuple[str, ...],
        Setting(
            "Clients",
            "HOSTS",
            expects="a list of hosts such as images.example or *.images.example",
            read=to_hosts,
        ),
    ] = ()
    """Hosts that nodes may load pictures from, separated by commas; `*.images.example` allows all
    subdomains. The proxy downloads the pictures, never from private addresses. By default no host
    is allowed."""

    validate_graphs: Annotated[bool, Setting("Comfy Cloud")] = True
    """Validate each workflow against the list of nodes before the job is queued. The cloud
    validates what the list does not describe."""

    metrics: Annotated[bool, Setting("Logs")] = True
    """Serve GET /metrics in the format of Prometheus."""

    admin_listen: Annotated[
        tuple[str, int] | None,
        Setting(
            "Logs",
            "HOST:PORT",
            expects="an address such as 127.0.0.1:9188 or [::1]:9188",
            example="127.0.0.1:9188",
            read=to_address,
        ),
    ] = None
    """Serve /metrics and the audit log at this address only, and the dashboard here too. Anyone who
    reaches it can read all metrics: allow only Prometheus and admins."""

    audit_days: Annotated[
        int,
        Meta(ge=0, le=36_500),
        Setting("Logs", "DAYS", expects="a whole number of days from 0"),
    ] = 90
    """Days for which audit entries are stored; 0 stores none."""

    log_format: Annotated[Literal["console", "json"], Setting("Logs", "FORMAT")] = "console"
    """The format of log lines: console for people, json for programs."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], Setting("Logs", "LEVEL")] = (
        "info"
    )
    """The minimum level of log lines: debug, info, warning or error."""

    open: Annotated[bool, Setting("General", for_once=True)] = False
    """Open the web interface in the browser when the proxy listens."""

    start_empty: Annotated[bool, Setting("General", for_once=True)] = False
    """Replace a damaged database by an empty one. The damaged file is kept."""

    #: Arrays of tables, which have no option and no variable: their rows are tables of their own.
    accounts: tuple[AccountSettings, ...] = ()
    providers: tuple[ProviderSettings, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses of `host`."""
        return tuple(part.strip() for part in self.host.split(",") if part.strip())

    @property
    def provisions_members(self) -> bool:
        """Whether people become members by signing in elsewhere."""
        return self.sign_in_header is not None or bool(self.providers)

    @property
    def max_json_bytes(self) -> int:
        """`max_json_mb` in bytes."""
        return round(self.max_json_mb * 1024 * 1024)

    @property
    def memory_bytes(self) -> int:
        """`memory_mb` in bytes."""
        return round(self.memory_mb * 1024 * 1024)

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


_ALL = sorted(rows_of(Settings), key=lambda row: GROUPS.index(row.group))
#: The table, in the order of `GROUPS`.
SETTINGS = tuple(row for row in _ALL if not row.for_once)
#: What `serve` has options for.
SERVE_SETTINGS = tuple(sorted(_ALL, key=lambda row: not row.for_once))
