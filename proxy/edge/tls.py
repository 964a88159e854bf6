"""The TLS certificate of a listener."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class CertificateError(Exception):
    """Raised for files that cannot be used. The text says what to do."""


class Certificate:
    """A certificate and its private key, in PEM files. `context` is for the listener.

    Raises `CertificateError` if the files cannot be used.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._seen = self._look()
        self.context = _context(cert, key)

    async def follow(self, interval: float = 2.0) -> None:
        """Reload changed files every `interval` seconds, until cancelled.

        Open connections are not affected. Files that do not match, for example during a change, are
        read again after their next change.
        """
        while True:
            await asyncio.sleep(interval)
            seen = await asyncio.to_thread(self._look)
            if seen == self._seen:
                continue
            self._seen = seen
            try:
                await asyncio.to_thread(_context, self._cert, self._key)
                self.context.load_cert_chain(self._cert, self._key, password="")
            except (CertificateError, OSError) as error:
                log.error("certificate_rejected", error=str(error))
            else:
                log.info("certificate_reloaded", file=str(self._cert))

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._cert, self._key))


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


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
