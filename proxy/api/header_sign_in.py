"""Sign-in by a reverse proxy, which names the person of each request in a header.

Anybody can send such a header, so that only that of a trusted proxy counts, and the proxy must
replace what clients send.
"""

from __future__ import annotations

from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.api.addressing import Peer
from proxy.members.provisioning import MAX_SUBJECT, Identity, ProvisioningRules
from proxy.translate.errors import LocalError

#: The issuer of identities that come in headers.
ISSUER = "header"


class HeaderSignIn(Struct, frozen=True):
    """The header with the person, that with the groups if there is one, and what becomes of who
    comes."""

    header: str
    groups_header: str | None = None
    rules: ProvisioningRules = ProvisioningRules()


def identity_of(
    headers: CIMultiDict[str] | CIMultiDictProxy[str], peer: Peer, sign_in: HeaderSignIn
) -> Identity | None:
    """Return who sends a request as its `peer` says, if that is a trusted proxy.

    Raises `LocalError` (400) for a header that is there twice or names nobody that can be.
    """
    values = headers.getall(sign_in.header, ())
    if not values or not peer.proxies:
        return None
    if len(values) > 1:
        raise LocalError(
            "several_users",
            f"The reverse proxy sent the header {sign_in.header} twice; it must replace what "
            "clients send.",
        )
    subject = values[0].strip()
    if not subject:
        return None
    if len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise LocalError(
            "invalid_user", f"The header {sign_in.header} has no name that a user can have."
        )
    groups = None
    if sign_in.groups_header is not None:
        named = ",".join(headers.getall(sign_in.groups_header, ()))
        groups = frozenset(group.strip() for group in named.replace("|", ",").split(","))
    return Identity(ISSUER, subject, subject, groups)
