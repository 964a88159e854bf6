"""The table of the settings of the program.

Every setting is one annotated field of `Settings` with its docstring. Its option, its variable, its
key of the TOML file, `config.example.toml` and the reference in `docs/` are drawn from it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from yarl import URL

from proxy.settings.arrays import AccountSettings, ProviderSettings
from proxy.settings.fields import (
    AMOUNT_FORM,
    CLOUD_PREFIX,
    KEY_FORM,
    MAX_AMOUNT,
    SettingsTable,
    rows_of,
    setting,
)
from proxy.settings.sources import EnvironmentSource, FileSource
from proxy.settings.values import (
    BasePath,
    BlobPlace,
    BusAddress,
    DatabaseAddress,
    EncryptionKey,
    Header,
    HomePath,
    HostAndPort,
    Hosts,
    Names,
    Networks,
    Origins,
    WebAddress,
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


def record_options(settings: Settings) -> str:
    """Return the options by which another command finds the same records; empty for the default."""
    if settings.database is not None:
        return ""
    if settings.data_dir != default_data_dir(simulated=settings.simulate):
        return f" --data-dir {shlex.quote(str(settings.data_dir))}"
    return " --simulate" if settings.simulate else ""


class Settings(BaseSettings, SettingsTable):
    """All settings: those that are not given come from the environment and the settings file.

    Raises `pydantic.ValidationError` for values that are not allowed, and `ConfigError`; `load`
    raises `ConfigError` alone.
    """

    host: str = setting(
        "127.0.0.1",
        "General",
        "The address to listen on, or several with commas between them, such as `127.0.0.1,::1`. "
        "Addresses other than loopback require members or insecure_allow_anyone.",
        metavar="HOST",
        expects="IP addresses or host names of this machine",
        min_length=1,
        pattern=r"[^,\s]",
    )
    port: int = setting(
        8188,
        "General",
        "The port to listen on; 0 picks a free one.",
        metavar="PORT",
        ge=0,
        le=65535,
    )
    config: HomePath | None = setting(
        None,
        "General",
        "A TOML file with settings.",
        expects="the path of a TOML file",
        in_file=False,
    )
    simulate: bool = setting(
        False,
        "General",
        "Run workflows on a Comfy Cloud simulator inside this process. Needs no key.",
    )
    simulate_deployment: bool = setting(
        False,
        "General",
        "With `simulate`: add a simulated deployment with made-up node packs, as the account "
        "`studio`.",
    )
    simulate_pace: float = setting(
        0.05,
        "General",
        "Seconds that the simulator takes for one sampling step.",
        metavar="SECONDS",
        ge=0,
        le=3600,
    )
    data_dir: HomePath = setting(
        None,
        "General",
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
        "General",
        "Listen on other addresses than loopback without members. Anyone who reaches the port can "
        "run jobs on your account and read its files. Use it only on private networks.",
    )
    api_key: SecretStr | None = setting(
        None,
        "Comfy Cloud",
        "The API key of the Comfy Cloud account. It has no option, because other users can list "
        "command lines. If others can read the environment, use `api_key_file`.",
        metavar="KEY",
        prefix=CLOUD_PREFIX,
        expects=KEY_FORM,
        example="comfyui-...",
    )
    api_key_file: HomePath | None = setting(
        None,
        "Comfy Cloud",
        "A file that contains only the API key, such as a Docker secret. The proxy reloads it "
        "when it changes and on SIGHUP.",
        prefix=CLOUD_PREFIX,
        example="/run/secrets/comfy_cloud_api_key",
    )
    base_url: WebAddress = setting(
        URL("https://cloud.comfy.org/"),
        "Comfy Cloud",
        "The address of Comfy Cloud.",
        prefix=CLOUD_PREFIX,
    )
    allow_plain_http: bool = setting(
        False,
        "Comfy Cloud",
        "Allow the API key to be sent over `http://` to public addresses. Otherwise a public "
        "`base_url` must use `https://`.",
    )
    credentials_key: EncryptionKey | None = setting(
        None,
        "Gateway",
        "Encrypts the API keys that clients send for their own jobs, while these jobs wait: 32 "
        "random bytes, as from `openssl rand -base64 32`. The default is a generated key in the "
        "file credentials.key in the data folder. After a change, waiting jobs run without these "
        "keys.",
        metavar="KEY",
        expects="32 bytes in base64",
        example="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    )
    send_partner_key: bool = setting(
        True,
        "Comfy Cloud",
        "Send the account's API key to partner nodes (as `extra_data.api_key_comfy_org`) if the "
        "client sends none.",
    )
    slots: int = setting(
        0,
        "Comfy Cloud",
        "How many jobs an account runs at once, unless its table sets it. With 0 the proxy reads "
        "the limit from the account, or discovers it.",
        metavar="JOBS",
        ge=0,
        le=1000,
    )
    slots_ahead: int = setting(
        0,
        "Comfy Cloud",
        "How many jobs are sent to an account in addition to its slots, so that the next job "
        "starts without a round trip. Their order can no longer change. Until the number of slots "
        "is known, at least one job is sent ahead.",
        metavar="JOBS",
        ge=0,
        le=100,
    )
    unable_timeout: float = setting(
        60.0,
        "Comfy Cloud",
        "Seconds after which an accepted job fails if no account can run it: no credits, an "
        "invalid key, or a full queue on the cloud. The error names the cause. 0 disables the "
        "timeout.",
        metavar="SECONDS",
        ge=0,
        le=86_400,
    )
    lost_timeout: float = setting(
        3600.0,
        "Comfy Cloud",
        "Seconds after which a job fails as lost if the proxy can no longer read its account: the "
        "key is invalid, the account was removed from the settings, or Comfy Cloud is "
        "unreachable. 0 disables the timeout.",
        metavar="SECONDS",
        ge=0,
        le=604_800,
    )
    client_parallelism: Literal["auto", "one", "many"] = setting(
        "auto",
        "Clients",
        "How many jobs of one client_id run at once. auto: one, as on a local ComfyUI, unless the "
        "client has announced support for several, or polls without a websocket. Members can "
        "override it.",
        expects="auto, one or many",
    )
    credits_per_second: float = setting(
        0.27,
        "Costs",
        "What a running second of a job costs, in credits, unless the account's table sets it. "
        "The default is the rate of Comfy Cloud's own GPU nodes, $0.001295 a second. Change it if "
        "your plan or your deployment has another one; jobs that have ended keep their cost.",
        metavar="CREDITS",
        ge=0,
        le=1000,
    )
    credits_per_day: float | None = setting(
        None,
        "Costs",
        "The hard budget of each member for a day (UTC), in credits, unless the member has its "
        "own. A job that would exceed it, with the jobs under way, is refused. By default there "
        "is none.",
        metavar="CREDITS",
        expects=AMOUNT_FORM,
        example=50,
        ge=0,
        le=MAX_AMOUNT,
    )
    credits_per_month: float | None = setting(
        None,
        "Costs",
        "The hard budget of each member for a calendar month (UTC), as `credits_per_day` is for a "
        "day.",
        metavar="CREDITS",
        expects=AMOUNT_FORM,
        example=1000,
        ge=0,
        le=MAX_AMOUNT,
    )
    soft_credits_per_day: float | None = setting(
        None,
        "Costs",
        "The soft budget of each member for a day (UTC), in credits, unless the member has its "
        "own. It refuses nothing: the dashboard shows that it is reached. By default there is "
        "none.",
        metavar="CREDITS",
        expects=AMOUNT_FORM,
        example=40,
        ge=0,
        le=MAX_AMOUNT,
    )
    soft_credits_per_month: float | None = setting(
        None,
        "Costs",
        "The soft budget of each member for a calendar month (UTC), as `soft_credits_per_day` is "
        "for a day.",
        metavar="CREDITS",
        expects=AMOUNT_FORM,
        example=800,
        ge=0,
        le=MAX_AMOUNT,
    )
    over_budget: Literal["wait", "refuse"] = setting(
        "wait",
        "Costs",
        "What becomes of a job that waits and would exceed a hard budget of its member when its "
        "turn comes. wait: it waits until the budget allows it. refuse: it ends as failed with a "
        "sentence that says so.",
    )
    fair_by: Literal["jobs", "time"] = setting(
        "jobs",
        "Gateway",
        "What members share equally: the number of jobs, or running time.",
    )
    cors_origins: Origins = setting(
        (),
        "Clients",
        "Origins of web pages that may call the API from a browser, such as "
        "`https://app.example`, separated by commas; `*` allows all. Others are refused, as by a "
        "local ComfyUI.",
        metavar="ORIGINS",
        expects="a list of origins such as https://app.example",
    )
    allowed_hosts: Hosts = setting(
        (),
        "Clients",
        "Names by which clients may call a proxy without members on a loopback address, separated "
        "by commas; `*.comfy.example` allows all subdomains. Loopback names, IP addresses and "
        "names that nobody can register are always allowed. It protects from web pages that point "
        "their name at this machine.",
        metavar="HOSTS",
        expects="a list of hosts such as comfy.example or *.comfy.example",
    )
    compress: bool = setting(
        False,
        "Clients",
        "Compress JSON and text (gzip, deflate) for clients that support it, like ComfyUI with "
        "--enable-compress-response-body. `/object_info` is always compressed.",
    )
    max_upload_mb: float = setting(
        100,
        "Clients",
        "The maximum size of a request body in MiB. Larger bodies get a 413.",
        metavar="MIB",
        expects="a number greater than 0",
        gt=0,
        le=1_000_000,
    )
    max_json_mb: float = setting(
        32,
        "Clients",
        "The maximum size of a JSON body in MiB, after decompression. Larger bodies get a 413.",
        metavar="MIB",
        gt=0,
        le=1024,
    )
    memory_mb: float = setting(
        256,
        "Clients",
        "The memory in MiB that the proxy may hold for clients: bodies, unread answers, "
        "unfinished messages. A member may hold as much as stays free, strangers together a "
        "quarter of that; further requests get a 429.",
        metavar="MIB",
        ge=64,
        le=1_000_000,
    )
    ping_interval: float = setting(
        30,
        "Clients",
        "Seconds of silence after which the proxy pings a websocket, to detect clients that are "
        "gone; 0 disables pings.",
        metavar="SECONDS",
        ge=0,
        le=86_400,
    )
    max_connections: int = setting(
        20_000,
        "Clients",
        "The maximum number of connections. A member may have as many as stay free, strangers "
        "together a quarter of that; further connections get a 503. The system's limit of open "
        "files can be lower.",
        metavar="COUNT",
        ge=1,
        le=1_000_000,
    )
    max_header_kb: float = setting(
        16,
        "Clients",
        "The maximum size of a request header in KiB. Larger ones get a 400.",
        metavar="KIB",
        ge=1,
        le=1024,
    )
    body_timeout: float = setting(
        60,
        "Clients",
        "Seconds within which each 16 KiB of a request body must arrive; otherwise the answer is "
        "408. 0 disables the timeout.",
        metavar="SECONDS",
        ge=0,
        le=3600,
    )
    write_timeout: float = setting(
        60,
        "Clients",
        "Seconds within which a client must receive the next part of an answer; otherwise the "
        "connection is closed, on Linux. 0 disables the timeout. It does not apply to websockets.",
        metavar="SECONDS",
        ge=0,
        le=3600,
    )
    idle_timeout: float = setting(
        660,
        "Clients",
        "Seconds from an answer, or from the beginning of a connection, to the end of the headers "
        "of the next request; 0 disables the timeout. Set a shorter time in reverse proxies.",
        metavar="SECONDS",
        ge=0,
        le=86_400,
    )
    shutdown_timeout: float = setting(
        10,
        "Clients",
        "Seconds the proxy may take to stop after SIGTERM, to finish requests and close "
        "websockets. Jobs continue on the cloud.",
        metavar="SECONDS",
        ge=0,
        le=3600,
    )
    base_path: BasePath = setting(
        "",
        "Gateway",
        "A path before all routes, such as `/comfy/`, for a reverse proxy that also serves other "
        "applications. Routes answer with and without it.",
        metavar="PATH",
        expects="a path such as /comfy/ of plain letters, and not below /t/",
        example="/comfy/",
    )
    require_members: bool = setting(
        False,
        "Gateway",
        "Refuse to start without members. Setting `trusted_proxies`, and a data folder that has "
        "had members, imply it.",
    )
    trusted_proxies: Networks = setting(
        (),
        "Gateway",
        "Addresses and networks of reverse proxies, separated by commas, whose headers "
        "`X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` are trusted.",
        metavar="NETWORKS",
        expects=_NETWORKS,
    )
    tls_cert: HomePath | None = setting(
        None,
        "Gateway",
        "A PEM file with the certificate chain of this server. With tls_key, the server uses "
        "https. Both files are reloaded when they change.",
        expects=_PEM,
        example="/etc/comfy/fullchain.pem",
    )
    tls_key: HomePath | None = setting(
        None,
        "Gateway",
        "A PEM file with the private key of tls_cert, without a passphrase.",
        expects=_PEM,
        example="/etc/comfy/privkey.pem",
    )
    webhook_networks: Networks = setting(
        (),
        "Gateway",
        "Addresses and networks that webhooks may connect to although they are not public, "
        "separated by commas, such as `127.0.0.1` for a program on this machine. By default "
        "webhooks reach public addresses only.",
        metavar="NETWORKS",
        expects=_NETWORKS,
    )
    webhook_hosts: Hosts = setting(
        (),
        "Gateway",
        "Hosts that jobs may name in `extra_data.webhook_url` to get a message about their end, "
        "separated by commas; `*.example.com` allows all subdomains. By default no host is "
        "allowed.",
        metavar="HOSTS",
        expects="a list of hosts such as hooks.example.com or *.example.com",
    )
    sign_in_header: Header | None = setting(
        None,
        "Sign-in",
        "The header in which a reverse proxy names the person whom it has signed in, such as "
        "`Remote-User` (Authelia), `X-Forwarded-User` (oauth2-proxy) or `Tailscale-User-Login`. "
        "It counts from `trusted_proxies` only. Whoever comes for the first time becomes a "
        "member.",
        metavar="HEADER",
        expects="the name of a header such as Remote-User",
        example="Remote-User",
    )
    sign_in_groups_header: Header | None = setting(
        None,
        "Sign-in",
        "The header with the groups of this person, separated by commas.",
        metavar="HEADER",
        expects="the name of a header such as Remote-Groups",
        example="Remote-Groups",
    )
    sign_in_admin_groups: Names = setting(
        (),
        "Sign-in",
        "Groups whose people are admins. With it, those who sign in are admins if they are in one "
        "of these groups, and users if not.",
        metavar="NAMES",
        expects="a list of names of groups",
    )
    sign_in_template: str | None = setting(
        None,
        "Sign-in",
        "The member whose weight, parallelism and limits new members get. It may be disabled.",
        metavar="NAME",
        expects="the name of a member",
        example="template",
    )
    database: DatabaseAddress = setting(
        None,
        "Replicas",
        "The database: `sqlite`, a file in the data folder, for one process; or a PostgreSQL "
        "database that all replicas share, which also needs `bus` and the extra `cluster`. "
        "`file:PATH` names a file that contains the address. It has no option, because the "
        "address contains a password.",
        expects="sqlite, postgresql://USER:PASSWORD@HOST/NAME, or file:PATH of a file that "
        "holds one of them",
        shown="sqlite",
        example="postgresql://comfy:...@db.internal/comfy",
    )
    database_direct: DatabaseAddress = setting(
        None,
        "Replicas",
        "The direct address of PostgreSQL, for migrations, if `database` is a connection pooler "
        "such as PgBouncer.",
        expects="postgresql://USER:PASSWORD@HOST/NAME, or file:PATH of a file that holds it",
        shown="the setting database",
        example="postgresql://comfy:...@db.internal/comfy",
    )
    bus: BusAddress = setting(
        None,
        "Replicas",
        "The message bus between replicas: `memory` for one process, or the address of a Valkey "
        "or Redis server that all replicas share. `file:PATH` names a file that contains the "
        "address.",
        expects="memory, redis://HOST, rediss://USER:PASSWORD@HOST, or file:PATH of a file "
        "that holds one of them",
        shown="memory",
        example="rediss://comfy:...@valkey.internal",
    )
    blobs: BlobPlace | None = setting(
        None,
        "Replicas",
        "Where uploads are stored in addition to Comfy Cloud: a folder, or a bucket of an "
        "S3-compatible store, that all replicas share. The data folder is then only a cache. The "
        "proxy confirms an upload after it is stored there, and never deletes it. The keys of a "
        "bucket come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from the file in "
        "AWS_SHARED_CREDENTIALS_FILE, or from the role of the machine. It needs the extra "
        "`cluster`. By default uploads are in the cache and on Comfy Cloud.",
        metavar="PLACE",
        expects="the path of a folder, or s3://BUCKET/PREFIX",
        example="s3://comfy-uploads/production",
    )
    blobs_endpoint: WebAddress | None = setting(
        None,
        "Replicas",
        "The address of the S3-compatible store of `blobs`.",
        shown="Amazon S3",
        example="https://minio.internal:9000",
    )
    blobs_region: str = setting(
        "us-east-1",
        "Replicas",
        "The region of the bucket of `blobs`.",
        expects="a name",
        min_length=1,
    )
    secret_file: HomePath | None = setting(
        None,
        "Replicas",
        "A file with the secrets that replicas use to encrypt and sign shared data, one per line, "
        "each 32 random bytes as from `openssl rand -base64 32`. The proxy uses the first one, "
        "and accepts data made with the others and with `credentials_key`. docs/security.md says "
        "how to change the secret. By default the secret is in the database, or with SQLite in "
        "the file credentials.key of the data folder.",
        example="/run/secrets/comfy_proxy_secret",
    )
    engine_lease: float = setting(
        10.0,
        "Replicas",
        "Seconds after which another replica takes over the jobs if the active replica does not "
        "renew its lease in the database.",
        metavar="SECONDS",
        ge=2,
        le=300,
    )
    history_size: int = setting(
        10_000,
        "Files and history",
        "The maximum number of finished jobs in the history of each member. The oldest are "
        "removed first.",
        metavar="JOBS",
        ge=1,
    )
    cache_mb: float = setting(
        2048,
        "Files and history",
        "The size of the disk cache of files in MiB. The least recently used files are removed "
        "first.",
        metavar="MIB",
        ge=0,
    )
    output_directory: HomePath | None = setting(
        None,
        "Files and history",
        "A folder to which the outputs of each job are also written, under their names and "
        "subfolders, before clients hear of the end of the job. For programs that read ComfyUI's "
        "output folder. Each member has a folder of their own in it. Previews are not written. "
        "The proxy creates the folder if it does not exist, and deletes nothing in it. The "
        "default is `ComfyUI-Cloud/output` in your home folder if save_outputs is set, otherwise "
        "none: outputs are then in the cache and on Comfy Cloud.",
        metavar="DIR",
        expects="the path of a folder that can be written",
        example="/srv/comfyui/output",
    )
    save_outputs: bool = setting(
        True,
        "Files and history",
        "Use `ComfyUI-Cloud/output` in your home folder as output_directory if you use the proxy "
        "alone: it listens on loopback addresses, has no members, uses the default data folder "
        "and does not run in a container. With the simulator it is `ComfyUI-Cloud/simulated`.",
    )
    input_directory: HomePath | None = setting(
        None,
        "Files and history",
        "A folder whose files workflows can name, like those of ComfyUI's input folder; it must "
        "exist. The proxy sends a file to Comfy Cloud when a job needs it, and writes nothing to "
        "the folder. Each member has a folder of their own in it.",
        metavar="DIR",
        expects="the path of a folder that can be read",
        example="/srv/comfyui/input",
    )
    prefetch: Literal["off", "images", "all"] = setting(
        "images",
        "Files and history",
        "Which outputs the proxy downloads from the cloud when a job ends: off, images or all. "
        "With replicas it downloads none, because a client may request them from another replica. "
        "With output_directory it downloads all.",
        metavar="WHICH",
    )
    userdata: Literal["disk", "cloud"] = setting(
        "disk",
        "Files and history",
        "Where settings and saved workflows of the web interface are stored: disk, in the "
        "database of the proxy, separately for each member; or cloud, in the Comfy Cloud account, "
        "where its web interface shows them too. cloud does not support members.",
        metavar="WHERE",
    )
    catalog_max_age: float = setting(
        3600,
        "Files and history",
        "Seconds after which the proxy reloads the list of nodes and models.",
        metavar="SECONDS",
        ge=0,
    )
    assets: bool = setting(
        True,
        "Clients",
        "Serve ComfyUI's assets API, which the panels of the web interface for pictures and "
        "models use. Without it, they show the history and the input folder.",
    )
    helper_nodes: bool = setting(
        True,
        "Clients",
        "Run nodes of desktop clients that transfer pictures and texts, such as those of Krita AI "
        "Diffusion. On the cloud, core nodes replace them. `/object_info` lists them, and the "
        "proxy serves the routes of their packs. docs/helper-nodes.md lists all of them.",
    )
    prefer_helper_nodes: bool = setting(
        False,
        "Clients",
        "Run these nodes in the proxy even if Comfy Cloud has them.",
    )
    url_hosts: Hosts = setting(
        (),
        "Clients",
        "Hosts that nodes may load pictures from, separated by commas; `*.images.example` allows "
        "all subdomains. The proxy downloads the pictures, never from private addresses. By "
        "default no host is allowed.",
        metavar="HOSTS",
        expects="a list of hosts such as images.example or *.images.example",
    )
    validate_graphs: bool = setting(
        True,
        "Comfy Cloud",
        "Validate each workflow against the list of nodes before the job is queued. The cloud "
        "validates what the list does not describe.",
    )
    metrics: bool = setting(
        True,
        "Logs",
        "Serve GET /metrics in the format of Prometheus.",
    )
    admin_listen: HostAndPort | None = setting(
        None,
        "Logs",
        "Serve /metrics and the audit log at this address only, and the dashboard here too. "
        "Anyone who reaches it can read all metrics: allow only Prometheus and admins.",
        metavar="HOST:PORT",
        expects="an address such as 127.0.0.1:9188 or [::1]:9188",
        example="127.0.0.1:9188",
    )
    audit_days: int = setting(
        90,
        "Logs",
        "Days for which audit entries are stored; 0 stores none.",
        metavar="DAYS",
        expects="a whole number of days from 0",
        ge=0,
        le=36_500,
    )
    log_format: Literal["console", "json"] = setting(
        "console",
        "Logs",
        "The format of log lines: console for people, json for programs.",
        metavar="FORMAT",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        "Logs",
        "The minimum level of log lines: debug, info, warning or error.",
        metavar="LEVEL",
    )
    open: bool = setting(
        False,
        "General",
        "Open the web interface in the browser when the proxy listens.",
        for_once=True,
    )
    start_empty: bool = setting(
        False,
        "General",
        "Replace a damaged database by an empty one. The damaged file is kept.",
        for_once=True,
    )

    #: Arrays of tables, which have no option and no variable: their rows are tables of their own.
    accounts: tuple[AccountSettings, ...] = ()
    providers: tuple[ProviderSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from, the strongest first."""
        return init_settings, EnvironmentSource(settings_cls), FileSource(settings_cls)

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
