"""What becomes of people whom another party signs in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backend import open_database

from proxy.members.audit import Audit
from proxy.members.directory import Directory
from proxy.members.provisioning import Identity, Provisioner, ProvisioningRules
from proxy.storage.usage import UsageRepository

RULES = ProvisioningRules(admin_groups=frozenset({"ops"}))


@pytest.fixture
async def provisioner(tmp_path: Path) -> AsyncIterator[Provisioner]:
    database = await open_database(tmp_path / "data")
    yield Provisioner(Directory(), Audit(UsageRepository(database), days=90))
    await database.close()


def ann(*groups: str) -> Identity:
    return Identity("https://login.example", "7", "ann", frozenset(groups))


async def test_an_admin_whose_groups_are_not_named_any_more_is_none(
    provisioner: Provisioner,
) -> None:
    assert (await provisioner.enter(ann("ops"), RULES)).member.role == "admin"
    assert (await provisioner.enter(ann(), RULES)).member.role == "user"


async def test_without_admin_groups_the_role_stays(provisioner: Provisioner) -> None:
    await provisioner.enter(ann("ops"), RULES)
    assert (await provisioner.enter(ann(), ProvisioningRules())).member.role == "admin"
