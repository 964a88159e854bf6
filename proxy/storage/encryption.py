"""Encryption of what clients lend for their own jobs: the keys of partner nodes.

The secret is in a file of the data folder, or in a setting where several replicas share one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.storage.database import StorageError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

#: The file of a data folder that holds the secret.
SECRET_FILE = "credentials.key"  # noqa: S105 (a name)


class Cipher:
    """Encrypts and decrypts with the secret at `path`, made on first use, or with `secret`.

    Nothing is loaded before it is needed: few clients have keys of their own.
    """

    def __init__(self, path: Path | None = None, *, secret: str | None = None) -> None:
        self._path = path
        self._secret = secret
        self._fernet: Fernet | None = None

    def encrypt(self, data: bytes) -> bytes:
        """The data as nobody can read them without the secret. Raises `StorageError`."""
        return self._ready().encrypt(data)

    def decrypt(self, data: bytes) -> bytes | None:
        """The data, or `None` if they were encrypted with another secret. Raises
        `StorageError`."""
        from cryptography.fernet import InvalidToken

        try:
            return self._ready().decrypt(data)
        except InvalidToken:
            return None

    def _ready(self) -> Fernet:
        from cryptography.fernet import Fernet

        if self._fernet is None:
            try:
                secret = self._secret.encode() if self._secret is not None else self._read()
                self._fernet = Fernet(secret)
            except (OSError, ValueError) as error:
                raise StorageError(
                    f"the secret for clients' credentials cannot be used ({error}): it is "
                    "32 random bytes in URL-safe base64, in the file credentials.key"
                ) from error
        return self._fernet

    def _read(self) -> bytes:
        from cryptography.fernet import Fernet

        if self._path is None:
            return Fernet.generate_key()
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self._path.read_bytes().strip()
        with open(handle, "wb") as file:  # noqa: PTH123 (a handle)
            secret = Fernet.generate_key()
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        return secret
