"""Another key, from its file or from the settings file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from proxy.account_key import AccountKey
from proxy.config import Settings
from proxy.telemetry import scrub

FIRST, SECOND = "comfyui-first-key-012345", "comfyui-second-key-012345"

Following = Callable[..., AbstractAsyncContextManager[asyncio.Queue[str]]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(FIRST)
    return file


@pytest.fixture
def following(tmp_path: Path) -> Following:
    """`async with following(settings…) as used`: the keys that were taken up."""

    @asynccontextmanager
    async def start(
        asked: asyncio.Event | None = None, **settings: Path
    ) -> AsyncIterator[asyncio.Queue[str]]:
        used: asyncio.Queue[str] = asyncio.Queue()
        account_key = AccountKey(
            Settings(data_dir=tmp_path, **settings),
            FIRST,
            used.put,
            asked=asked or asyncio.Event(),
            interval=0.01,
        )
        task = asyncio.create_task(account_key.follow())
        try:
            async with asyncio.timeout(20):
                yield used
        finally:
            task.cancel()
            await asyncio.wait([task])

    return start


def write(file: Path, text: str) -> None:
    file.write_text(text)


async def test_a_file_that_changes_is_read_again(following: Following, file: Path) -> None:
    async with following(api_key_file=file) as used:
        write(file, SECOND)
        assert await used.get() == SECOND
        write(file, FIRST)
        assert await used.get() == FIRST


async def test_a_link_that_is_turned_to_another_file_is_read_again(
    following: Following, file: Path, tmp_path: Path
) -> None:
    other, link, new = tmp_path / "other", tmp_path / "link", tmp_path / "new"
    write(other, SECOND)
    link.symlink_to(file)
    async with following(api_key_file=link) as used:
        new.symlink_to(other)
        new.replace(link)
        assert await used.get() == SECOND


async def test_a_file_that_is_gone_for_a_while_changes_nothing(
    following: Following, file: Path
) -> None:
    async with following(api_key_file=file) as used:
        await asyncio.to_thread(file.unlink)
        await asyncio.sleep(0.05)
        write(file, FIRST)
        await asyncio.sleep(0.05)
        assert used.empty()
        write(file, SECOND)
        assert await used.get() == SECOND


async def test_a_new_key_is_a_secret_before_it_is_used(following: Following, file: Path) -> None:
    odd = "not-of-the-usual-shape-54321"
    async with following(api_key_file=file) as used:
        write(file, odd)
        assert odd not in scrub(f"the key is {await used.get()}")


async def test_a_key_in_the_settings_file_is_read_when_asked_for(
    following: Following, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    write(config, f'api_key = "{FIRST}"')
    asked = asyncio.Event()
    async with following(asked, config=config) as used:
        write(config, f'api_key = "{SECOND}"')
        await asyncio.sleep(0.05)
        assert used.empty()
        asked.set()
        assert await used.get() == SECOND


async def test_settings_that_cannot_be_read_change_nothing(
    following: Following, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    write(config, "api_key = ")
    asked = asyncio.Event()
    async with following(asked, config=config) as used:
        asked.set()
        await asyncio.sleep(0.05)
        assert used.empty()
        write(config, f'api_key = "{SECOND}"')
        asked.set()
        assert await used.get() == SECOND
