"""Certificates of their own for listeners on 127.0.0.1."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from pathlib import Path

from servers import program


def certify(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of its own for 127.0.0.1, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [program("openssl", package="OpenSSL"), "req", "-x509",
         "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


def fingerprint(cert: Path) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).digest()
