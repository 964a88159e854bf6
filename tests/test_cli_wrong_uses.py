"""Commands that are used in a wrong way, or whose surroundings are wrong: what they say."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shutil
import socket
import sys
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from api.test_server import certify
from process import command, serving

WORKFLOW = Path(__file__).parents[1] / "examples/text-to-image.json"


# --- run ---


async def test_a_certificate_of_its_own_is_named_and_can_be_trusted(tmp_path: Path) -> None:
    cert, key = await asyncio.to_thread(certify, tmp_path, "own")
    options = ("--simulate", "--tls-cert", str(cert), "--tls-key", str(key))
    async with serving(tmp_path / "data", *options) as server:
        words = ("run", str(WORKFLOW), "--set", "5.steps=1", "--server", str(server.url))
        words = (*words, "--output", str(tmp_path / "out"))
        code, _, err = await command(*words)
        assert code == 1
        assert err.startswith(f"The certificate of {server.url}")
        assert "--ca-file or SSL_CERT_FILE" in err
        assert "no ComfyUI" not in err
        code, _, err = await command(*words, "--ca-file", str(cert))
        assert code == 0, err
        environment = {**os.environ, "SSL_CERT_FILE": str(cert)}
        code, _, err = await command(*words, environment=environment)
        assert code == 0, err
        for file, reason in ((key.with_name("none"), "cannot be read"), (key, "no certificate")):
            code, _, err = await command(*words, "--ca-file", str(file))
            assert (code, reason in err, "--ca-file" in err) == (2, True, True)


async def test_a_server_without_tls_is_not_called_missing(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", "--simulate") as server:
        url = str(server.url.with_scheme("https"))
        code, _, err = await command("run", str(WORKFLOW), "--server", url)
    assert code == 1
    assert err.startswith("There is no TLS connection to https://")


async def test_the_reason_is_in_words_without_those_of_libraries(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    code, _, err = await command("run", str(WORKFLOW), "--server", url)
    assert code == 1
    assert err.startswith(f"There is no ComfyUI at {url} (Connection refused): start the proxy")


async def test_another_page_of_a_server_is_no_comfyui(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", "--simulate") as server:
        url = str(server.url / "proxy/")
        code, _, err = await command("run", str(WORKFLOW), "--server", url)
    assert code == 1
    assert err == f"There is no ComfyUI at {url} (it answered with status 405): correct --server.\n"


@pytest.mark.parametrize("status", [404, 501])
async def test_a_server_of_something_else_is_no_comfyui(status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"detail": "Not Found"}, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        code, _, err = await command("run", str(WORKFLOW), "--server", str(server.make_url("")))
    assert code == 1
    assert f"(it answered with status {status}): correct --server." in err


async def test_a_port_with_tls_is_named_with_its_scheme(tmp_path: Path) -> None:
    cert, key = await asyncio.to_thread(certify, tmp_path, "own")
    options = ("--simulate", "--tls-cert", str(cert), "--tls-key", str(key))
    async with serving(tmp_path / "data", *options) as server:
        url = str(server.url.with_scheme("http"))
        code, _, err = await command("run", str(WORKFLOW), "--server", url)
    assert code == 1
    assert f"if the server has TLS, use --server {server.url}" in err


async def test_a_name_that_is_not_known_is_refused_with_the_nearest_ones(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(WORKFLOW.read_text().replace('"euler"', '"dpmpp2m"'))
    async with serving(tmp_path / "data", "--simulate") as server:
        code, _, err = await command("run", str(wrong), "--server", str(server.url))
    assert code == 1
    assert "nearest: dpmpp_2m, " in err


async def test_a_wrong_token_is_called_wrong(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    await command("member", "add", "ann", *place)
    words = ("run", str(WORKFLOW), "--output", str(tmp_path / "out"))
    async with serving(tmp_path / "data", "--simulate") as server:
        environment = {**os.environ, "COMFY_TOKEN": "ccp_wrong"}
        code, _, err = await command(*words, "--server", str(server.url), environment=environment)
    assert code == 1
    assert "does not accept the token: it is wrong, expired or revoked" in err
    assert "requires a token" not in err
    assert "ccp_wrong" not in err


async def test_a_refused_workflow_leaves_no_folder(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"1": {"class_type": "NoSuchNode", "inputs": {}}}))
    async with serving(tmp_path / "data", "--simulate") as server:
        output = tmp_path / "a/output"
        words = ("run", str(wrong), "--server", str(server.url), "--output", str(output))
        code, _, err = await command(*words)
    assert code == 1
    assert "refused" in err
    assert not (tmp_path / "a").exists()


async def test_an_output_folder_below_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = str(tmp_path / "file/output")
    code, _, err = await command("run", str(WORKFLOW), "--output", output)
    assert code > 0
    assert output in err


_DRAW = """
import sys
from rich.console import Console
from proxy.cli.progress import TerminalPictures
with open(sys.argv[1], "w") as file:
    file.write(str(TerminalPictures(Console()).sharp))
"""


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
async def test_pictures_in_tmux_are_blocks_where_the_terminal_around_it_has_no_sixel(
    tmp_path: Path,
) -> None:
    """tmux says that it knows Sixel also where the terminal around it does not."""
    (tmp_path / "draw.py").write_text(_DRAW)
    inner = f"{sys.executable} {tmp_path / 'draw.py'} {tmp_path / 'sharp'}"
    words = ("tmux", "-f", "/dev/null", "-S", str(tmp_path / "socket"), "new-session", inner)
    ours, theirs = pty.openpty()
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": root}
    environment.pop("TMUX", None)
    process = await asyncio.create_subprocess_exec(
        *words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    reading = asyncio.create_task(asyncio.to_thread(_read_all, ours))
    try:
        async with asyncio.timeout(60):
            assert await process.wait() == 0
            await reading
    finally:
        if process.returncode is None:
            process.kill()
    assert (tmp_path / "sharp").read_text() == "False"


def _read_all(handle: int) -> None:
    try:
        while os.read(handle, 65536):
            pass
    except OSError:  # how Linux says that nobody writes any more
        os.close(handle)


# --- standard streams ---


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
async def test_output_to_a_full_disk_is_one_sentence() -> None:
    for words in (("--version",), ("run", "--help")):
        code, err = await _in_a_shell(">/dev/full", *words)
        assert (code, err) == (1, "The disk is full: free space, and run the command again.\n")


async def test_closed_streams_are_no_reason_to_fail() -> None:
    assert await _in_a_shell(">&-", "--version") == (0, "")
    code, err = await _in_a_shell("<&-", "run", "-")
    assert (code, err.startswith("The workflow - is not JSON")) == (2, True)


async def _in_a_shell(redirection: str, *words: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f'exec "$@" {redirection}',
        "sh",
        *(sys.executable, "-m", "proxy", *words),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    return process.returncode, err.decode()


async def test_a_group_without_a_command_prints_its_help_alone() -> None:
    code, _, err = await command("token")
    assert code == 2
    assert "Examples:\n  comfy-cloud-proxy token new" in err.replace("    ", "  ")


# --- the data folder ---


@pytest.mark.sqlite
async def test_backup_and_restore_say_what_to_do(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    await command("member", "add", "ann", *place)
    (tmp_path / "text.tar").write_text("no tar file")
    copy = tmp_path / "copy.tar.gz"
    await command("backup", str(copy), *place)
    (tmp_path / "cut.tar.gz").write_bytes(copy.read_bytes()[:-100])
    for words, reason in (
        (("restore", str(tmp_path / "text.tar")), "no file from comfy-cloud-proxy backup"),
        (("restore", str(tmp_path / "cut.tar.gz")), "it is damaged"),
        (("backup", str(tmp_path / "none/copy.tar")), "there is no such file or folder"),
        (("restore", str(tmp_path / "none.tar")), "there is no such file or folder"),
        (("restore", str(tmp_path)), "it is a folder: name a file"),
    ):
        code, out, err = await command(*words, *place)
        assert (code, out) == (1, "")
        assert reason in err
        assert "Errno" not in err
        assert ".backup-" not in err
        assert err.count("\n") == 1


async def test_the_help_of_migrate_names_a_data_folder() -> None:
    _, out, _ = await command("migrate", "--help")
    assert "migrate --from ~/.local/share/comfy-cloud-proxy\n" in out


async def test_a_wrong_role_is_answered_with_the_roles(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path))
    code, _, err = await command("member", "add", "ann", "--role", "boss", *place)
    assert code == 2
    assert "'boss' is not one of 'user', 'admin'" in err


# --- settings ---


@pytest.mark.parametrize(
    ("table", "name", "shown"),
    [
        ("", "api_key", "(hidden)"),
        ("[[accounts]]\nname = 'studio'\nkey = 'comfyui-hidden'\n", "accounts", ["studio"]),
    ],
)
async def test_check_tells_the_settings_and_where_they_are_from(
    tmp_path: Path, table: str, name: str, shown: object
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"port = 9000\n{table}")
    environment = {
        **os.environ,
        "COMFY_PROXY_AUDIT_DAYS": "7",
        "COMFY_CLOUD_API_KEY": "" if table else "comfyui-hidden",
        "COMFY_PROXY_DATA_DIR": str(tmp_path / "data"),
    }
    words = ("check", "--simulate", "--config", str(file))
    code, out, err = await command(*words, environment=environment)
    assert (code, err) == (0, "")
    assert f"port (port in {file})" in out.splitlines()[0]
    assert "log_format" not in out
    _, more, _ = await command(*words, "--json", environment=environment)
    settings = json.loads(more)["settings"]
    assert settings["port"] == {"value": 9000, "source": f"port in {file}"}
    assert settings["audit_days"] == {"value": 7, "source": "COMFY_PROXY_AUDIT_DAYS"}
    assert settings[name]["value"] == shown
    assert "comfyui-hidden" not in out + more


# --- serve ---


async def test_open_opens_the_page_in_the_browser(tmp_path: Path) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    os.mkfifo(opened)
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    environment = {"BROWSER": f"{browser} %s"}
    async with serving(
        tmp_path / "data", "--simulate", "--open", environment=environment
    ) as server:
        async with asyncio.timeout(60):
            page = await asyncio.to_thread(opened.read_text)
        assert page.strip().rstrip("/") == str(server.url).rstrip("/")


async def test_a_port_in_use_is_an_error_before_the_cloud_is_asked(tmp_path: Path) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({}, status=503)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as cloud:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            environment = {
                **os.environ,
                "COMFY_CLOUD_API_KEY": "comfyui-key",
                "COMFY_CLOUD_BASE_URL": str(cloud.make_url("/")),
            }
            words = ("serve", "--port", str(taken.getsockname()[1]))
            place = ("--data-dir", str(tmp_path / "data"))
            code, _, err = await command(*words, *place, environment=environment)
    assert code == 2
    assert "is in use" in err
    assert asked == []
    assert not (tmp_path / "data/proxy.db").exists()
