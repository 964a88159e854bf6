"""Another key, from its file or from the settings file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from proxy.logging import scrub
from proxy.settings import AccountAccess, AccountKeys, AccountSettings, Settings

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
        account = AccountAccess("default", URL("http://cloud"), FIRST)

        async def use(_: str, key: str) -> None:
            used.put_nowait(key)

        account_keys = AccountKeys(
            Settings(data_dir=tmp_path, **settings),
            [account],
            use,
            asked=asked or asyncio.Event(),
            interval=0.01,
        )
        task = asyncio.create_task(account_keys.follow())
        try:
            async with asyncio.timeout(60):
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
    write(config, f'api_key = "{FIRST}"')
    asked = asyncio.Event()
    async with following(asked, config=config) as used:
        write(config, "api_key = ")
        asked.set()
        await asyncio.sleep(0.05)
        assert used.empty()
        write(config, f'api_key = "{SECOND}"')
        asked.set()
        assert await used.get() == SECOND


@pytest.fixture
async def several(tmp_path: Path) -> AsyncIterator[tuple[asyncio.Queue[tuple[str, str]], Path]]:
    """Two accounts with a file each, `a` and `b`; what was taken up, and the folder."""
    used: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    tables, accounts = [], []
    for name in "a", "b":
        write(tmp_path / name, f"comfyui-first-key-of-{name}")
        tables.append(AccountSettings(name=name, key_file=tmp_path / name))
        accounts.append(AccountAccess(name, URL("http://cloud"), f"comfyui-first-key-of-{name}"))

    async def use(name: str, key: str) -> None:
        used.put_nowait((name, key))

    settings = Settings(data_dir=tmp_path, accounts=tuple(tables))
    keys = AccountKeys(settings, accounts, use, asked=asyncio.Event(), interval=0.01)
    task = asyncio.create_task(keys.follow())
    try:
        async with asyncio.timeout(60):
            yield used, tmp_path
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_each_account_has_its_own_file(
    several: tuple[asyncio.Queue[tuple[str, str]], Path],
) -> None:
    used, folder = several
    write(folder / "b", SECOND)
    assert await used.get() == ("b", SECOND)
    write(folder / "a", FIRST)
    assert await used.get() == ("a", FIRST)
    assert used.empty()


async def test_the_key_of_another_account_is_not_taken_up(
    several: tuple[asyncio.Queue[tuple[str, str]], Path],
) -> None:
    used, folder = several
    write(folder / "a", "comfyui-first-key-of-b")
    await asyncio.sleep(0.05)
    write(folder / "a", SECOND)
    assert await used.get() == ("a", SECOND)


async def test_a_key_in_a_table_is_read_when_asked_for(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    asked, used = asyncio.Event(), asyncio.Queue[tuple[str, str]]()
    write(config, f'[[accounts]]\nname = "a"\nkey = "{FIRST}"')

    async def use(name: str, key: str) -> None:
        used.put_nowait((name, key))

    keys = AccountKeys(
        Settings(data_dir=tmp_path, config=config),
        [AccountAccess("a", URL("http://cloud"), FIRST)],
        use,
        asked=asked,
    )
    write(config, f'[[accounts]]\nname = "a"\nkey = "{SECOND}"')
    task = asyncio.create_task(keys.follow())
    asked.set()
    async with asyncio.timeout(60):
        assert await used.get() == ("a", SECOND)
    task.cancel()
    await asyncio.wait([task])
