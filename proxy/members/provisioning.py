"""Members who are signed in by another party: a reverse proxy, or a provider of OpenID Connect.

The first visit creates a member (just-in-time provisioning). A member is found by the identity
alone, never by a name: a person who chooses a name elsewhere must not become the member who has it
here. An admin gives an existing member an identity.
"""

from __future__ import annotations

import re

import structlog
from msgspec import Struct

from proxy.members.audit import Audit
from proxy.members.directory import Access, Directory
from proxy.members.member import Limits, Member, UnknownMemberError
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: The largest subject that is taken, in characters; OpenID Connect allows 255.
MAX_SUBJECT = 255

_NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]+", re.ASCII)


class Identity(Struct, frozen=True):
    """A person as another party knows them.

    `issuer` is the party and `subject` the party's own, lasting name of the person. `name` is what
    the member is called after. `groups` is empty where the party names none.
    """

    issuer: str
    subject: str
    name: str
    groups: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """What a member has in `identities`."""
        return f"{self.issuer} {self.subject}"


class ProvisioningRules(Struct, frozen=True):
    """How people who sign in become members.

    New members get weight, parallelism and limits of the member `template`. Where `admin_groups`
    are given, those in one of them are admins, and all others users.
    """

    template: str = ""
    admin_groups: frozenset[str] = frozenset()


class Provisioner:
    """Finds the member of an identity, or makes one."""

    def __init__(self, directory: Directory, audit: Audit) -> None:
        self._directory = directory
        self._audit = audit

    async def enter(
        self, identity: Identity, rules: ProvisioningRules, address: str = ""
    ) -> Access:
        """Return the access of the member who has an identity; the first time the member is made.

        `address` is the client's, for the audit record.
        Raises `LocalError` (403, 503) and `StorageError`.
        """
        member = self._directory.of_identity(identity.key)
        role = _role(identity, rules)
        if member is None:
            new = self._new_member(identity, rules, role or "user")
            member, is_new = await self._directory.provision(identity.key, new)
            if is_new:
                log.info("member_provisioned", member=member.name, issuer=identity.issuer)
                self._audit.record(
                    "member_provisioned",
                    member=member.name,
                    address=address,
                    identity=identity.key,
                    role=member.role,
                )
        if member.disabled:
            raise LocalError(
                "member_disabled",
                f"The member {member.name} is disabled; ask an admin of this server.",
                kind="forbidden",
            )
        if role is not None and role != member.role:
            member = await self._directory.change(member.name, role=role)
            log.info("member_role_changed", member=member.name, role=role)
            self._audit.record(
                "member_role_changed", member=member.name, address=address, role=role
            )
        return Access(member, await self._directory.sign_in_token(member.name, identity.issuer))

    def _new_member(self, identity: Identity, rules: ProvisioningRules, role: str) -> Member:
        template = Member(name="")
        if rules.template:
            try:
                template = self._directory.find(rules.template)
            except UnknownMemberError:
                raise LocalError(
                    "template_missing",
                    f"The member {rules.template}, whose limits new members get, does not exist; "
                    "an admin must add it (setting sign_in_template).",
                    kind="unavailable",
                ) from None
        return Member(
            name_of(identity.name),
            role="admin" if role == "admin" else "user",
            weight=template.weight,
            limits=template.limits if rules.template else Limits(),
            client_parallelism=template.client_parallelism,
            account=template.account,
        )


def _role(identity: Identity, rules: ProvisioningRules) -> str | None:
    """Return the role that the groups of a person give, `None` where no group gives one."""
    if not rules.admin_groups:
        return None
    return "admin" if identity.groups & rules.admin_groups else "user"


def name_of(text: str) -> str:
    """Return a name that a member can have for a person's name or e-mail address elsewhere."""
    plain = _NOT_IN_NAMES.sub("-", text.lower().partition("@")[0]).strip("-_")
    return plain[:32].rstrip("-_") or "member"
