"""The commands with several accounts: what `check` says of each, and what `serve` begins with."""

from __future__ import annotations

import os
from pathlib import Path

import aiohttp
import pytest
from process import command, serving
from stack import Client
from waiting import until

from proxy.simulator import Simulator

KEYS = {"one": "comfyui-key-of-one", "two": "comfyui-key-of-two"}


@pytest.fixture
def config(tmp_path: Path, simulator: Simulator) -> Path:
    """A settings file with an account for each of `KEYS`, and files for their keys."""
    text = f'base_url = "{simulator.base_url}"\n'
    for name, key in KEYS.items():
        (tmp_path / name).write_text(key)
        text += f'[[accounts]]\nname = "{name}"\nkey_file = "{tmp_path / name}"\n'
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


async def checked(config: Path) -> tuple[int, list[str]]:
    """The exit code of `check`, and what it wrote below the settings."""
    words = ("check", "--config", str(config), "--data-dir", str(config.parent / "data"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(config.parent)}
    code, out, _ = await command(*words, environment=environment)
    return code, out.splitlines()[1:]


async def test_check_looks_at_every_account(simulator: Simulator, config: Path) -> None:
    for key in KEYS.values():
        simulator.add_account(key)
    code, lines = await checked(config)
    assert code == 0
    both = ["account", "ok", "ok", "ok", "ok"] * 2
    assert [line.split()[0] for line in lines] == [*both, "ok", "ok"]
    assert [line.split()[1] for line in lines[-2:]] == ["billing", "data"]
    assert [lines[0], lines[5]] == ["account one", "account two"]


async def test_check_finds_what_is_wrong_with_one_of_them(
    simulator: Simulator, config: Path
) -> None:
    simulator.add_account(KEYS["one"])
    code, lines = await checked(config)
    assert code == 1
    assert [line.split()[0] for line in lines[:5]] == ["account", "ok", "ok", "ok", "ok"]
    assert lines[7].startswith("FAILED  key")
    (config.parent / "two").unlink()
    code, lines = await checked(config)
    assert code == 1
    assert "correct `key_file` of the account two" in lines[7]


async def test_check_finds_one_key_for_two_accounts(simulator: Simulator, config: Path) -> None:
    simulator.add_account(KEYS["one"])
    (config.parent / "two").write_text(KEYS["one"])
    code, lines = await checked(config)
    assert code == 1
    assert "one and two have the same key" in "".join(lines)


async def test_serve_takes_all_of_them_and_names_no_key(
    simulator: Simulator, session: aiohttp.ClientSession, config: Path
) -> None:
    for key in KEYS.values():
        simulator.add_account(key)
    async with serving(config.parent / "data", "--config", str(config)) as process:
        assert b"(2 accounts of Comfy Cloud at http://" in b"".join(process.said)
        client = Client(session, process.url)
        await simulator.wait_for_sockets(2)

        async def are_ready() -> bool:
            _, answer = await client.get("readyz")
            ready = {"key": "ok", "socket": "ok"}
            return bool(answer["checks"]["accounts"] == {"one": ready, "two": ready})

        await until(are_ready)
        assert await process.stop() == 0
    output = b"".join(process.said).decode()
    assert "key_file_exposed" not in output
    assert not any(key in output for key in KEYS.values())


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o600, False)])
async def test_a_key_that_all_can_read_is_warned_of(
    simulator: Simulator, tmp_path: Path, mode: int, warned: bool
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'base_url = "{simulator.base_url}"\n[[accounts]]\nname = "a"\nkey = "{simulator.key}"\n'
    )
    path.chmod(mode)
    async with serving(tmp_path / "data", "--config", str(path)) as process:
        assert await process.stop() == 0
    assert (b"key_file_exposed" in b"".join(process.said)) is warned
    assert simulator.key.encode() not in b"".join(process.said)


async def test_the_simulator_is_as_many_accounts_as_there_are_tables(
    session: aiohttp.ClientSession, config: Path
) -> None:
    async with serving(config.parent / "data", "--config", str(config), "--simulate") as process:
        assert b"(2 accounts of Comfy Cloud simulator at http://" in b"".join(process.said)
        client = Client(session, process.url)
        await client.until_ready()
