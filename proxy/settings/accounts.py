"""The accounts with their keys, and other secrets that the settings name."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from yarl import URL

from proxy.settings.cloud import AccountSettings
from proxy.settings.fields import ConfigError
from proxy.settings.model import Settings

#: The account of a key that is set by itself, without any table.
DEFAULT = "default"

#: Domains of names that only a local network knows (RFC 6761, 6762, 8375, and ICANN's `internal`).
_LOCAL_DOMAINS = (".localhost", ".local", ".home.arpa", ".internal", ".lan", ".test")

#: The domain of the addresses of deployments.
_DEPLOYMENTS = ".run.comfy.app"


@dataclass(frozen=True, slots=True)
class AccountAccess:
    """An account as it is used: where it is, its key, and what may run on it.

    `slots` is how many jobs it runs at once, 0 if that is to be learned; `members` whose jobs it
    takes, none named is everybody. `key_source` says where people set the key. `nodes` is where the
    list of nodes of a deployment is, `None` for an account of Comfy Cloud.
    """

    name: str
    base_url: URL
    key: str = field(repr=False)
    slots: int = 0
    members: tuple[str, ...] = ()
    key_source: str = "COMFY_CLOUD_API_KEY"
    nodes: Path | URL | None = None


def tables_of(settings: Settings) -> tuple[AccountSettings, ...]:
    """Return the tables of the accounts. A key that is set by itself is that of an account which is
    called "default"."""
    if settings.accounts:
        return settings.accounts
    return (AccountSettings(name=DEFAULT, key=settings.api_key, key_file=settings.api_key_file),)


def read_key(settings: Settings, table: AccountSettings) -> str | None:
    """Return the key of an account, `None` where none is set.

    Raises `ConfigError` when it is set twice in one place, when its file cannot be read and when
    what is there cannot be a key.
    """
    key, file, setting = table.key, table.key_file, f"`key_file` of the account {table.name}"
    if not settings.accounts:
        setting = "COMFY_CLOUD_API_KEY_FILE"
    if key is not None and file is not None:
        raise ConfigError(
            "The API key is set twice: unset COMFY_CLOUD_API_KEY or COMFY_CLOUD_API_KEY_FILE."
        )
    if file is not None:
        return _usable(_read_key_file(file, setting), f"the file {file}")
    return None if key is None else _usable(key.get_secret_value(), key_source(settings, table))


def key_source(settings: Settings, table: AccountSettings) -> str:
    """Return where people set the key of an account."""
    if table.key_file is not None:
        return str(table.key_file)
    return f"`key` of the account {table.name}" if settings.accounts else "COMFY_CLOUD_API_KEY"


def read_secrets(settings: Settings) -> str | None:
    """Return the secrets of the settings, one a line, the one in use first; `None` without any.

    Raises `ConfigError` for a file that cannot be read or holds none.
    """
    if settings.secret_file is None:
        return None
    try:
        found = [
            _encryption_key(line)
            for line in _read_key_file(settings.secret_file, "secret_file").split()
        ]
    except ValueError:
        raise ConfigError(
            f"The file {settings.secret_file} of secret_file must have 32 bytes in base64 on each "
            "line: create them with `openssl rand -base64 32`."
        ) from None
    if not found:
        raise ConfigError(
            f"The file {settings.secret_file} of secret_file is empty: create a secret with "
            "`openssl rand -base64 32`."
        )
    return "\n".join(found)


def _encryption_key(text: str) -> str:
    """Return 32 bytes in URL-safe base64 from either kind of base64. Raises `ValueError`."""
    key = text.translate(str.maketrans("+/", "-_"))
    if len(base64.b64decode(key, altchars=b"-_", validate=True)) != 32:
        raise ValueError("not 32 bytes")
    return key


def account_names(settings: Settings) -> list[str]:
    """Return the names of the accounts, in the order of their tables."""
    return [table.name for table in tables_of(settings)]


def read_accounts(settings: Settings) -> list[AccountAccess]:
    """Return the accounts with their keys, in the order of their tables; none without any key.

    Raises `ConfigError` as `read_key`, when two accounts have one key, for they would be one
    account of the cloud, and when a key would be sent over the internet in the clear.
    """
    found = [
        account_of(settings, table, key)
        for table in tables_of(settings)
        if (key := read_key(settings, table)) is not None
    ]
    names: dict[tuple[str, URL | None], str] = {}
    for account in found:
        # A deployment takes the key of its workspace, which an account of the cloud may have, too.
        identity = account.key, None if account.nodes is None else account.base_url
        if (other := names.setdefault(identity, account.name)) != account.name:
            raise ConfigError(
                f"The accounts {other} and {account.name} have the same key: remove one of them."
            )
    for account in found:
        url = account.base_url
        if url.scheme == "http" and _is_public(url.host or ""):
            raise ConfigError(
                f"The base_url {url} of the account {account.name} would send the API key over the "
                "internet without encryption: use https://, or the private address of a server in "
                "your network."
            )
    return found


def account_of(settings: Settings, table: AccountSettings, key: str) -> AccountAccess:
    """Return the account of a table with its key. Raises `ConfigError` as `nodes_of`."""
    return AccountAccess(
        table.name,
        table.base_url or settings.base_url,
        key,
        table.slots,
        table.members,
        key_source(settings, table),
        nodes_of(table),
    )


def nodes_of(table: AccountSettings) -> Path | URL | None:
    """Return where the list of nodes of a deployment is, `None` for an account of Comfy Cloud.

    Raises `ConfigError` for a deployment without an address, and for the address of one without a
    list of nodes.
    """
    if not table.is_deployment:
        if table.base_url is not None and (table.base_url.host or "").endswith(_DEPLOYMENTS):
            raise ConfigError(
                f"The account {table.name} is a deployment without object_info: add object_info = "
                '"object_info.json".'
            )
        return None
    if table.base_url is None:
        raise ConfigError(
            f"The account {table.name} is a deployment, because it has object_info, and has no "
            'base_url: add base_url = "https://ID.run.comfy.app".'
        )
    place = str(table.object_info)
    return URL(place) if place.startswith(("http://", "https://")) else Path(place)


def _is_public(host: str) -> bool:
    """Return whether an address is public, or a name is below no domain of local networks.

    A name may still be that of a private address: that is checked with each connection.
    """
    try:
        return ip_address(host.partition("%")[0]).is_global
    except ValueError:
        return "." in host.rstrip(".") and not host.rstrip(".").endswith(_LOCAL_DOMAINS)


def _read_key_file(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The key file {path} cannot be read ({error.strerror}): "
            f"correct {setting} or the permissions of the file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"The key file {path} is not text: it must contain only the API key."
        ) from None


#: Marks that word processors and chats put around a key, or instead of what was typed.
_QUOTES = "\"'`\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e"


def _usable(text: str, where: str) -> str:
    key = text.strip()
    if not key:
        raise ConfigError(f"There is no API key in {where}: write it as one line without spaces.")
    if flaw := _flaw(key):
        raise ConfigError(
            f"The API key in {where} is invalid, because it contains {flaw}: copy it again as one "
            "line without spaces and quotation marks."
        )
    return key


def _flaw(key: str) -> str:
    """Return what makes a key invalid, without any part of the key."""
    if any(letter in _QUOTES for letter in key):
        return "a quotation mark"
    if any(letter.isspace() for letter in key):
        return "a space or a line break"
    return "" if key.isascii() and key.isprintable() else "a letter beyond ASCII"
