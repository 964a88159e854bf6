"""The TLS certificate of a listener."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import aclosing
from pathlib import Path

import structlog

from proxy.runtime.watched_files import WatchedFiles

log = structlog.get_logger(__name__)


class CertificateError(Exception):
    """Raised for files that cannot be used. The text says what to do."""


class Certificate:
    """A certificate and its private key, in PEM files. `context` is for the listener.

    The files are looked at every `interval` seconds. Raises `CertificateError` if they cannot be
    used.
    """

    def __init__(self, cert: Path, key: Path, *, interval: float = 2.0) -> None:
        self._cert, self._key = cert, key
        self._files = WatchedFiles({"cert": cert, "key": key}, interval=interval)
        self._files.look()
        self.context = _context(cert, key)
        #: The certificate in PEM, as the listener uses it.
        self.pem = cert.read_text(encoding="ascii", errors="replace")

    async def follow(self) -> None:
        """Reload changed files, until cancelled.

        Open connections are not affected. Files that do not match, for example during a change, are
        read again after their next change.
        """
        async with aclosing(self._files.changes()) as changes:
            async for _ in changes:
                await self._reload()

    async def _reload(self) -> None:
        try:
            await asyncio.to_thread(_context, self._cert, self._key)
            self.context.load_cert_chain(self._cert, self._key, password="")
            self.pem = self._cert.read_text(encoding="ascii", errors="replace")
        except (CertificateError, OSError) as error:
            log.error("certificate_rejected", error=str(error))
        else:
            log.info("certificate_reloaded", file=str(self._cert))


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    for path, what in ((cert, "tls_cert"), (key, "tls_key")):
        try:
            path.read_bytes()
        except OSError as error:
            raise CertificateError(
                f"The file {path} of {what} cannot be read ({error.strerror}): correct its path or "
                "its permissions."
            ) from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError):
        raise CertificateError(
            f"The files {cert} and {key} are not a certificate and its private key, in PEM and "
            "without a passphrase: correct tls_cert and tls_key."
        ) from None
    return context
