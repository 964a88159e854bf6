"""Sign-in by a reverse proxy, which names the person of each request in a header.

Anybody can send such a header, so that only that of a trusted proxy counts, and the proxy must
replace what clients send.
"""

from __future__ import annotations

from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.edge.addressing import Peer
from proxy.members.provisioning import MAX_SUBJECT, Identity, ProvisioningRules
from proxy.translate.errors import LocalError

#: The issuer of identities that come in headers.
ISSUER = "header"


class HeaderSignIn(Struct, frozen=True):
    """The header with the person, that with the groups, and how people become members."""

    header: str
    groups_header: str | None = None
    rules: ProvisioningRules = ProvisioningRules()


def identity_of(
    headers: CIMultiDict[str] | CIMultiDictProxy[str], peer: Peer, sign_in: HeaderSignIn
) -> Identity | None:
    """Return who sends a request as its `peer` says, if that is a trusted proxy.

    Raises `LocalError` (400) for a header that is there twice or names nobody that can be.
    """
    if not peer.proxies:
        return None
    subject = _only_value(headers, sign_in.header).strip()
    if not subject:
        return None
    if len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise LocalError(
            "invalid_user", f"The header {sign_in.header} does not contain a valid name of a user."
        )
    groups: frozenset[str] = frozenset()
    if sign_in.groups_header is not None:
        named = _only_value(headers, sign_in.groups_header)
        groups = frozenset(group.strip() for group in named.replace("|", ",").split(","))
    return Identity(ISSUER, subject, subject, groups)


def _only_value(headers: CIMultiDict[str] | CIMultiDictProxy[str], name: str) -> str:
    """Return the value of a header, an empty text without it. Raises `LocalError` (400) where one
    of two may be the client's."""
    values = headers.getall(name, ())
    if len(values) > 1:
        raise LocalError(
            "repeated_header",
            f"The reverse proxy sent the header {name} twice; it must replace what clients send.",
        )
    return values[0] if values else ""
