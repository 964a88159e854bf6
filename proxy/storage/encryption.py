"""Encryption and signatures that only the processes of this proxy can read and check.

They protect the keys that clients lend for their own jobs, and tickets. The secrets are in a file
of the data folder, in a setting, or in the database that several processes share.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection, select

from proxy.runtime import randomness
from proxy.storage.database import Database, StorageError
from proxy.storage.leases import database_now
from proxy.storage.statements import get_meta, put_meta

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

log = structlog.get_logger(__name__)

#: The file of a data folder that holds the secret.
SECRET_FILE = "credentials.key"  # noqa: S105 (a name)

#: Seconds between two queries for a new secret in the database; it is used only after a few of
#: them, when all processes know it.
INTERVAL = 10.0
_KNOWN_AFTER = 6 * INTERVAL * 1000
#: Secrets that the database keeps, the newest ones.
_KEPT = 4

_SECRETS = "secrets"


class Cipher:
    """A cipher that encrypts and signs with the first of some secrets, and reads what was made with
    any of them.

    They are in `secret`, one a line, or so in the file at `path`, which is made on first use.
    Nothing is loaded before it is needed: few clients have keys of their own.
    """

    def __init__(self, path: Path | None = None, *, secret: str | None = None) -> None:
        self._path = path
        self._secret = secret
        self._secrets: list[bytes] = []
        self._fernet: MultiFernet | None = None

    def use(self, secret: str) -> None:
        """Take other secrets, one a line."""
        if secret != self._secret:
            self._secret, self._fernet = secret, None

    def encrypt(self, data: bytes) -> bytes:
        """Return the data encrypted. Raises `StorageError`."""
        return self._ready().encrypt(data)

    def decrypt(self, data: bytes) -> bytes | None:
        """Return the data, or `None` if they were encrypted with another secret. Raises
        `StorageError`."""
        from cryptography.fernet import InvalidToken  # as in `_ready`

        try:
            return self._ready().decrypt(data)
        except InvalidToken:
            return None

    def renewed(self, data: bytes) -> bytes | None:
        """Return the data encrypted with the first secret; `None` if they are already, or were
        encrypted with an unknown one. Raises `StorageError`."""
        from cryptography.fernet import Fernet, InvalidToken  # as in `_ready`

        plain = self.decrypt(data)
        try:
            Fernet(self._secrets[0]).decrypt(data)
        except InvalidToken:
            return None if plain is None else self.encrypt(plain)
        return None

    def sign(self, data: bytes) -> str:
        """Return a signature that shows that the data come from a holder of the secret. Raises
        `StorageError`."""
        self._ready()
        return _proof(self._secrets[0], data)

    def proves(self, data: bytes, proof: str) -> bool:
        """Return whether a signature, in ASCII, is one of the data. Raises `StorageError`."""
        self._ready()
        return any(hmac.compare_digest(_proof(secret, data), proof) for secret in self._secrets)

    def _ready(self) -> MultiFernet:
        from cryptography.fernet import Fernet, MultiFernet  # 6.6 MB, which few servers need

        if self._fernet is None:
            try:
                text = self._secret.encode() if self._secret is not None else self._read()
                self._secrets = text.split()
                self._fernet = MultiFernet([Fernet(secret) for secret in self._secrets])
            except (OSError, ValueError) as error:
                raise StorageError(
                    f"the secret for clients' credentials cannot be used ({error}): it is "
                    "32 random bytes in URL-safe base64, in the file credentials.key"
                ) from error
        return self._fernet

    def _read(self) -> bytes:
        if self._path is None:
            return _new_secret()
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self._path.read_bytes()
        with open(handle, "wb") as file:  # noqa: PTH123 (a handle)
            secret = _new_secret()
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        return secret


def _new_secret() -> bytes:
    """Return a new key of Fernet: 32 random bytes in URL-safe base64."""
    return base64.urlsafe_b64encode(randomness.token_bytes(32))


def _proof(secret: bytes, data: bytes) -> str:
    return hmac.new(secret, b"signature " + data, hashlib.sha256).hexdigest()


async def stored_secrets(database: Database) -> str:
    """Return the secrets that the database keeps, for a `Cipher`; creates one if there is none.
    Raises `StorageError`."""
    found = await database.read(_stored)
    return found if found is not None else await database.write(_first)


async def follow_secrets(database: Database, cipher: Cipher) -> None:
    """Let a cipher use the secrets that the database keeps, until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL)
        try:
            cipher.use(await stored_secrets(database))
        except StorageError as error:
            log.warning("secrets_read_failed", error=str(error))


async def rotate_secret(database: Database) -> float:
    """Create a new secret in the database, and return in how many seconds it is used. Raises
    `StorageError`."""

    def work(connection: Connection) -> None:
        _make(connection, connection.execute(select(database_now())).scalar_one())

    await database.write(work)
    return _KNOWN_AFTER / 1000


def adopt_secrets(connection: Connection, secrets: Sequence[str]) -> None:
    """Add these secrets after those of the database, so that what they encrypted stays readable."""
    known = get_meta(connection, _SECRETS, lock=True) or []
    there = {secret["secret"] for secret in known}
    more = [{"secret": secret, "made": 0} for secret in secrets if secret not in there]
    put_meta(connection, _SECRETS, [*known[: max(1, _KEPT - len(more))], *more][:_KEPT])


def _first(connection: Connection) -> str:
    if not get_meta(connection, _SECRETS, lock=True):  # another process may have made one
        _make(connection, 0)
    return _stored(connection) or ""


def _make(connection: Connection, now: int) -> None:
    known = get_meta(connection, _SECRETS, lock=True) or []
    made = {"secret": _new_secret().decode(), "made": now}
    put_meta(connection, _SECRETS, [made, *known][:_KEPT])


def _stored(connection: Connection) -> str | None:
    """Return the secrets, first the newest of those that all processes know."""
    known = get_meta(connection, _SECRETS)
    if not known:
        return None
    now = connection.execute(select(database_now())).scalar_one()
    in_use = sorted(known, key=lambda secret: bool(now - secret["made"] < _KNOWN_AFTER))
    return "\n".join(secret["secret"] for secret in in_use)
