"""The catalogue of several accounts: from the first one that gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from proxy.catalog.service import Catalogue
from proxy.catalog.source import Accounts
from proxy.cloud.errors import CloudUnauthorized, CloudUnreachable
from proxy.translate.errors import LocalError

URL_OF_CLOUD = URL("http://cloud")


class Account:
    """An account that gives a catalogue or fails."""

    base_url = URL_OF_CLOUD

    def __init__(self, name: str, failure: Exception | None = None) -> None:
        self.name = name
        self.failure = failure
        self.calls = 0

    def _called(self) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure

    async def object_info(self) -> bytes:
        self._called()
        return b'{"%s": {"input": {}}}' % self.name.encode()

    async def model_folders(self) -> list[dict[str, Any]]:
        self._called()
        return [{"name": "loras", "folders": [self.name]}]

    async def models(self, folder: str) -> list[dict[str, Any]] | None:
        self._called()
        return None


async def test_the_first_account_is_asked_and_no_other(tmp_path: Path) -> None:
    accounts = [Account("a"), Account("b")]
    catalogue = Catalogue(Accounts(URL_OF_CLOUD, lambda: accounts), tmp_path, max_age=60)
    assert list(await catalogue.classes()) == ["a"]
    assert accounts[1].calls == 0


@pytest.mark.parametrize("failure", [CloudUnauthorized("x", 401), CloudUnreachable("x")])
async def test_one_that_fails_is_passed_over(failure: Exception) -> None:
    source = Accounts(URL_OF_CLOUD, lambda: [Account("a", failure), Account("b")])
    assert await source.object_info() == b'{"b": {"input": {}}}'
    assert (await source.model_folders())[0]["folders"] == ["b"]


async def test_no_models_is_an_answer() -> None:
    accounts = [Account("a"), Account("b")]
    assert await Accounts(URL_OF_CLOUD, lambda: accounts).models("x") is None
    assert accounts[1].calls == 0


@pytest.mark.parametrize("failures", [[], [CloudUnauthorized("first", 401), CloudUnreachable("x")]])
async def test_without_one_that_answers_it_is_503(
    tmp_path: Path, failures: list[Exception]
) -> None:
    accounts = [Account("a", failure) for failure in failures]
    catalogue = Catalogue(Accounts(URL_OF_CLOUD, lambda: accounts), tmp_path, max_age=60)
    with pytest.raises(LocalError) as refusal:
        await catalogue.classes()
    assert refusal.value.status == 503
    assert refusal.value.details == ("first" if failures else "there is no account to ask")
