"""Where the leader is reached, as its row of the lease says it."""

from __future__ import annotations

import binascii
import hashlib
import ipaddress
import socket
import ssl
from contextlib import suppress
from functools import lru_cache

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from proxy.storage.leases import Lease

_PEM_BEGIN, _PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class LeaderAddress(Struct, frozen=True):
    """The addresses `http://HOST:PORT` of the listener and of that for admins (empty if there is
    none), and the SHA-256 of the certificate in hex, if it speaks TLS."""

    url: str
    admin_url: str = ""
    certificate: str = ""

    @classmethod
    def of(cls, lease: Lease) -> LeaderAddress:
        """Return the address in a lease."""
        return _parsed(lease.address)

    def encode(self) -> str:
        """Return it as text."""
        return msgspec.json.encode(self).decode()

    @property
    def ssl(self) -> aiohttp.Fingerprint | bool:
        """What aiohttp checks of the other end: it has just this certificate, whatever names are
        in it."""
        if not self.certificate:
            return True
        return aiohttp.Fingerprint(binascii.unhexlify(self.certificate))


@lru_cache(maxsize=8)
def _parsed(text: str) -> LeaderAddress:
    return msgspec.json.decode(text, type=LeaderAddress) if text else LeaderAddress("")


def fingerprint(certificate_pem: str) -> str:
    """Return the SHA-256 of a certificate in PEM, the first one of a chain, in hex."""
    begin = certificate_pem.index(_PEM_BEGIN)
    end = certificate_pem.index(_PEM_END, begin) + len(_PEM_END)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_pem[begin:end])).hexdigest()


def reached_at(host: str, database: URL | None) -> str:
    """Return the host under which others reach what listens on `host`.

    For an address that means all of this machine's it is the one by which this machine reaches the
    `database`; where that is on the same machine, the one of its own name.
    """
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return host
    except ValueError:
        return host
    found = _address_towards((database and database.host) or "localhost")
    if not ipaddress.ip_address(found).is_loopback:
        return found
    with suppress(OSError):
        own = socket.gethostbyname(socket.gethostname())
        if not ipaddress.ip_address(own).is_loopback:
            return own
    return found


def _address_towards(host: str) -> str:
    """Return the address of this machine from which it reaches a host; nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"
