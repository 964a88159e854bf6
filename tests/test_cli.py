"""The commands: what they take, what they say, and how they end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import aiohttp
import pytest
import reference
import typer.main
from aiohttp import web
from aiohttp.test_utils import TestServer
from api.test_server import certify
from backend import environment_of
from process import TIMEOUT, child, command, serving
from servers import free_port
from terminal import at_terminal

from proxy import __version__
from proxy.cli import commands, main, serve, with_default_command
from proxy.cli.commands import app
from proxy.cli.common import UsageError
from proxy.cli.serve import listens_locally, refuse_open_access
from proxy.settings import SETTINGS, ConfigError, Settings
from proxy.simulator import Simulator, Switches

KEY = "comfyui-0123456789"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.environment, raising=False)


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    printed = capsys.readouterr()
    return int(raised.value.code or 0), printed.out, printed.err


async def spawned(*arguments: str, **environment: str) -> tuple[int, str, str]:
    return await command(*arguments, environment=environment or None)


# --- what was asked wrongly: exit code 2 and one sentence ---


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["serve", "--port", "x"], "--port is 'x', but must be a whole number"),
        (["--port", "x"], "--port is 'x', but must be a whole number"),
        (["serve", "--prot", "1"], "No such option: --prot"),
        (["serve", "--prot", "1"], "see comfy-cloud-proxy serve --help."),
        (["member", "add"], "see comfy-cloud-proxy member add --help."),
        (["sing"], "No such command 'sing'"),
        (["sing"], "see comfy-cloud-proxy --help."),
        (["serve", "--config", "/none.toml"], "The settings file /none.toml cannot be read"),
        ([], "There is no API key: set COMFY_CLOUD_API_KEY or COMFY_CLOUD_API_KEY_FILE"),
        (["--api-key", KEY], "No such option: --api-key"),
        (["--host", "0.0.0.0", "--simulate"], "--insecure-allow-anyone"),
        (["--host", "::", "--simulate"], "--insecure-allow-anyone"),
        (["--host", "no.such.host.invalid", "--simulate"], "The host"),
        (["run"], "Nothing to run: name a workflow"),
        (["run", "--watch", "/none"], "The folder /none does not exist"),
        (["run", "a.json", "--token-file", "/none"], "The token in /none cannot be read (No such"),
        (["run", "/none.json"], "The workflow /none.json cannot be read"),
        (["check", "--base-url", "x"], "--base-url is 'x', but must be an address"),
    ],
)
def test_one_sentence_says_what_to_do(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch,
    arguments: list[str],
    printed: str,
) -> None:
    monkeypatch.setenv("COMFY_PROXY_DATA_DIR", str(tmp_path))
    code, out, err = ended(capsys, *arguments)
    assert (code, out) == (2, "")
    assert printed in err
    assert err.endswith(".\n")
    assert err.count("\n") == 1


def test_a_typo_in_the_environment_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_PROXY_HSOT", "x")
    code, _, err = ended(capsys, "serve", "--simulate")
    assert code == 2
    assert "COMFY_PROXY_HSOT is not a setting: remove it, or write COMFY_PROXY_HOST." in err


async def test_a_port_in_use_is_an_error(tmp_path: Path, busy_port: int) -> None:
    arguments = ("--simulate", "--port", str(busy_port), "--log-level", "error")
    code, out, err = await spawned("serve", *arguments, "--data-dir", str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith(f"Port {busy_port} on 127.0.0.1 is in use")
    assert err.count("\n") == 1


async def test_a_data_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ("--simulate", "--port", "0", "--data-dir", str(tmp_path / "file" / "data"))
    code, _, err = await spawned("serve", *arguments, "--log-level", "error")
    assert code == 2
    assert "choose another one with --data-dir" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_leave(host: str) -> None:
    assert listens_locally(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "0"])
def test_anything_else_is_no_loopback(host: str) -> None:
    assert not listens_locally(host)


def test_a_host_without_an_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no address"):
        listens_locally("no.such.host.invalid")


# --- commands ---


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([], ["serve"]),
        (["--port", "1"], ["serve", "--port", "1"]),
        (["serve", "--port", "1"], ["serve", "--port", "1"]),
        (["check"], ["check"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
    ],
)
def test_serve_is_meant_where_no_command_is_named(given: list[str], meant: list[str]) -> None:
    assert with_default_command(given) == meant


def test_options_before_a_command_are_placed_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = ended(capsys, "--config", "x.toml", "member", "list")
    assert code == 2
    assert "as in comfy-cloud-proxy member list --config x.toml." in error


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, "--version") == (0, f"{__version__}\n", "")


async def test_what_imports_make_is_never_searched_for_garbage() -> None:
    code = "import gc, proxy.__main__; print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
    async with child("-c", code) as process:
        out, _ = await process.communicate()
    assert out == b"True True\n"


async def test_one_line_says_where_it_listens_and_before_which_cloud(tmp_path: Path) -> None:
    async with serving(tmp_path, "--simulate") as process:
        assert process.url.port not in (None, 0, 8188)
        printed = f"listening on {process.url} (Comfy Cloud simulator at http://127."
        assert sum(line.startswith(printed.encode()) for line in process.said) == 1


async def test_the_cloud_of_the_settings_is_named(tmp_path: Path) -> None:
    environment = {"COMFY_CLOUD_API_KEY": KEY, "COMFY_CLOUD_BASE_URL": "http://127.0.0.1:1"}
    async with serving(tmp_path, environment=environment) as process:
        printed = f"listening on {process.url} (Comfy Cloud at http://127.0.0.1:1)\n"
        assert printed.encode() in process.said
        assert await process.stop() == 0
    assert KEY.encode() not in b"".join(process.said)


async def test_a_key_that_does_not_work_is_logged_at_the_start(tmp_path: Path) -> None:
    async with Simulator(key=KEY) as simulator:
        environment = {
            "COMFY_CLOUD_API_KEY": "comfyui-wrong-one",
            "COMFY_CLOUD_BASE_URL": str(simulator.base_url),
            "COMFY_PROXY_LOG_FORMAT": "json",
        }
        place = ("--port", "0", "--data-dir", str(tmp_path))
        async with child("-m", "proxy", "serve", *place, environment=environment) as process:
            assert process.stderr is not None
            async with asyncio.timeout(TIMEOUT):
                while b"readiness_failed" not in (line := await process.stderr.readline()):
                    assert line, "it ended"
    printed = json.loads(line)
    assert printed["level"] == "warning"
    assert printed["reason"].endswith(
        "create one at https://platform.comfy.org, and set COMFY_CLOUD_API_KEY to it and restart."
    )


async def test_a_person_sees_a_banner_before_the_logs(tmp_path: Path) -> None:
    words = ("serve", "--simulate", "--port", "0", "--data-dir", str(tmp_path))
    async with at_terminal(*words, environment={"NO_COLOR": "1"}) as terminal:
        printed = await terminal.shows("Press Ctrl-C to stop.")
        assert printed.startswith(f"comfy-cloud-proxy {__version__}\n")
        (url,) = re.findall(r"ComfyUI API +(http://127\.0\.0\.1:\d+)\n", printed)
        assert re.search(rf"Dashboard +{url}/proxy/\n", printed)
        assert re.search(r"Web interface +(http|not installed)", printed)
        assert re.search(r"API key +accepted\n", printed)
        assert re.search(r"Pictures +by GET /view; .+: --output-directory DIR\n", printed)
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 0
        printed, _, logged = terminal.text.partition("Press Ctrl-C to stop.\n")
    assert re.search(r"(?m)^\d\d:\d\d:\d\d Shutdown started$", logged)
    assert "proxy." not in logged
    assert not re.search(r"(?m)^\d\d:\d\d:\d\d ", printed)
    assert "\x1b" not in terminal.text


async def test_the_banner_names_the_output_directory(tmp_path: Path) -> None:
    output = tmp_path / "output"
    words = ("serve", "--simulate", "--port", "0", "--data-dir", str(tmp_path / "data"))
    options = ("--output-directory", str(output))
    async with at_terminal(*words, *options, environment={"NO_COLOR": "1"}) as terminal:
        printed = await terminal.shows("Press Ctrl-C to stop.")
    assert f"{output}\n" in printed


async def test_the_banner_says_what_is_wrong_with_the_key(tmp_path: Path) -> None:
    async with Simulator(key=KEY) as simulator:
        environment = {
            "COMFY_CLOUD_API_KEY": "comfyui-wrong-one",
            "COMFY_CLOUD_BASE_URL": str(simulator.base_url),
        }
        words = ("serve", "--port", "0", "--data-dir", str(tmp_path))
        async with at_terminal(*words, environment=environment) as terminal:
            printed = await terminal.shows("Press Ctrl-C to stop.")
    assert (
        "does not accept the API key of this proxy. Its admin must create one at https://"
        in printed
    )
    assert "accepted" not in printed
    assert "wrong-one" not in printed


async def test_json_logs_have_no_banner_among_them(tmp_path: Path) -> None:
    words = ("serve", "--simulate", "--port", "0", "--data-dir", str(tmp_path))
    async with at_terminal(*words, "--log-format", "json") as terminal:
        await terminal.shows("listening on ", "event_socket_opened")
    assert all(line.startswith(("listening on ", "{")) for line in terminal.text.splitlines())


async def test_a_server_does_not_load_what_it_does_not_need_at_once() -> None:
    """Migrations, pictures, lent keys, replicas and the simulator take 40 MB."""
    program = "import sys, proxy.cli, proxy.cli.serve; print(*sys.modules)"
    async with child("-c", program) as process:
        out, err = await process.communicate()
    assert err == b""
    later = {"alembic", "PIL", "cryptography", "redis", "psycopg", "obstore"}
    later |= {"proxy.simulator"}
    assert set(out.decode().split()) & later == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_good_order(tmp_path: Path, number: int) -> None:
    async with serving(tmp_path, "--simulate") as process:
        process.process.send_signal(number)
        assert await process.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_cancels_a_run_and_the_job_with_it(tmp_path: Path, number: int) -> None:
    workflow = str(Path(__file__).parent.parent / "examples" / "text-to-image.json")
    async with Simulator(key=KEY, switches=Switches(pace=0.1)) as simulator:
        environment = {
            "COMFY_CLOUD_API_KEY": KEY,
            "COMFY_CLOUD_BASE_URL": str(simulator.base_url),
        }
        async with serving(tmp_path, environment=environment) as process:
            words = ("-m", "proxy", "run", workflow, "--set", "5.steps=6000")
            places = ("--server", str(process.url), "--output", str(tmp_path / "out"))
            async with child(*words, *places, errors=False) as run:
                assert run.stdout is not None
                async with asyncio.timeout(TIMEOUT):
                    while b"EmptyLatentImage" not in await run.stdout.readline():
                        pass
                    run.send_signal(number)
                    out, _ = await run.communicate()
            assert (run.returncode, out.splitlines()[-1]) == (130, b"cancelled")
            await simulator.signal.until(
                lambda: any(record.path.endswith("/cancel") for record in simulator.requests),
                within=TIMEOUT,
            )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("--port 1 --host=::1", {"port": "1", "host": "::1"}),
        ("--port=1 --port 2", {"port": "2"}),
        ("--host= --data-dir -x", {"host": "", "data_dir": "-x"}),
        ("--no-simulate --start-empty", {"simulate": False, "start_empty": True}),
        ("--cors-origins a=b,c", {"cors_origins": "a=b,c"}),
    ],
)
def test_a_server_gets_the_options_that_were_given(
    monkeypatch: pytest.MonkeyPatch, line: str, expected: dict[str, object]
) -> None:
    read: list[dict[str, object]] = []
    monkeypatch.setattr(commands, "load", read.append)
    monkeypatch.setattr(serve, "serve", lambda _: 0)
    assert commands.run(with_default_command(shlex.split(line))) == 0
    assert read == [expected]


@pytest.mark.parametrize(
    "line", ["serve x", "serve --prot 1", "serve --port", "serve --api-key x", "serve --simulate=1"]
)
def test_a_server_refuses_other_options(line: str) -> None:
    with pytest.raises(UsageError, match=r"see comfy-cloud-proxy( serve)? --help\.$"):
        commands.run(shlex.split(line))


# --- help ---

COMMANDS = ["", *(name for name, _ in reference.leaves(typer.main.get_command(app)))]


def help_text(command: str, width: int, flag: str = "--help") -> str:
    text = io.StringIO()
    with redirect_stdout(text):
        words = [*command.split(), flag]
        app(words, prog_name="comfy-cloud-proxy", standalone_mode=False, terminal_width=width)
    return text.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_that_can_be_called(name: str) -> None:
    text = help_text(name, width=100)
    found = re.findall(r"(?m)^    comfy-cloud-proxy ?(.*)$", text.partition("Examples:")[2])
    assert found, f"{name} has no example"
    for line in found:
        words = with_default_command(shlex.split(line))
        words = [word for word in words if word not in ("--help", "--help-all", "-h")]
        typer.main.get_command(app).make_context("comfy-cloud-proxy", words)
        assert words[: len(name.split())] == name.split() or name in ("", "serve")


def test_the_help_of_serve_has_common_options_and_the_other_one_all() -> None:
    options = r"(?m)^  --([a-z-]+)"
    shown = set(re.findall(options, help_text("serve", width=80)))
    assert {"port", "config", "simulate", "help-all"} <= shown
    assert len(shown) <= 25
    assert "General:" in help_text("serve", width=80)
    everything = set(re.findall(options, help_text("serve", width=80, flag="--help-all")))
    assert {row.option.removeprefix("--") for row in SETTINGS if row.option} | shown <= everything


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_into_80_columns(name: str) -> None:
    assert max(map(len, help_text(name, width=80).splitlines())) <= 80


async def test_a_shell_completes_commands_and_options() -> None:
    for typed, wanted in (("r", "run"), ("run --w", "--watch"), ("member a", "add")):
        line = f"comfy-cloud-proxy {typed}"
        environment = {
            "_COMFY_CLOUD_PROXY_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }
        program = "from proxy.cli import main; main()"
        async with child("-c", program, environment=os.environ | environment) as process:
            out, err = await process.communicate()
        assert wanted in out.decode(), err


# --- check ---


def told(out: str) -> dict[str, tuple[str, str]]:
    """What `check` says: `{what: (ok or FAILED, the sentence)}`."""
    rows = (line.split(maxsplit=1) for line in out.splitlines())
    return {rest[:14].strip(): (word, rest[14:]) for word, rest in rows}


async def checked(folder: Path, url: object, key: str | None = KEY) -> tuple[int, dict]:
    environment = {"COMFY_CLOUD_BASE_URL": str(url), "COMFY_PROXY_DATA_DIR": str(folder)}
    if key:
        environment["COMFY_CLOUD_API_KEY"] = key
    code, out, err = await spawned("check", **environment)
    assert err == ""
    assert KEY not in out
    return code, told(out)


async def test_check_says_ok_for_each_thing(tmp_path: Path) -> None:
    async with Simulator(key=KEY) as simulator:
        code, lines = await checked(tmp_path / "new", simulator.base_url)
    assert code == 0
    assert list(lines) == [
        "settings",
        "cloud",
        "key",
        "plan",
        "event socket",
        "billing",
        "data folder",
    ]
    assert {word for word, _ in lines.values()} == {"ok"}


async def test_check_shows_what_the_account_tells(tmp_path: Path) -> None:
    async with Simulator(key=KEY, plan="creator") as simulator:
        _, lines = await checked(tmp_path, simulator.base_url)
        assert lines["plan"][1].startswith("The cloud does not say")
        assert "enter it on the page" in lines["billing"][1]
        simulator.switches.update({"announced_slots": True, "billing_for_keys": True})
        _, lines = await checked(tmp_path, simulator.base_url)
    plan = "Creator plan, 3 jobs at once, 30 minutes for a run, balance 12.34 USD."
    assert lines["plan"] == ("ok", plan)
    assert "billing" not in lines


@pytest.mark.parametrize(
    ("paid", "cents", "word", "says"),
    [
        (None, 1234, None, ""),
        (None, 0, "warning", "The balance is 0.00 USD: Comfy Cloud will refuse partner nodes."),
        (0, 0, "FAILED", "Comfy Cloud will refuse all jobs and partner nodes (no funds)."),
    ],
)
async def test_check_says_what_an_account_cannot_pay(
    tmp_path: Path, paid: int | None, cents: int, word: str | None, says: str
) -> None:
    async with Simulator(key=KEY) as simulator:
        simulator.switches.update({"billing_for_keys": True})
        account = simulator.account
        account.credits, account.balance_cents = paid, cents
        code, lines = await checked(tmp_path, simulator.base_url)
    found, sentence = lines.get("credits", (None, ""))
    assert (code, found) == (int(word == "FAILED"), word)
    assert sentence.startswith(says)


async def test_check_finds_a_key_that_does_not_work(tmp_path: Path) -> None:
    async with Simulator(key=KEY) as simulator:
        code, lines = await checked(tmp_path, simulator.base_url, "comfyui-wrong-one")
    assert code == 1
    assert [word for word, _ in lines.values()] == ["ok", "ok", "FAILED", "FAILED", "ok"]
    assert "The cloud does not know this key: create one" in lines["key"][1]


async def test_check_finds_a_missing_key(tmp_path: Path) -> None:
    async with Simulator(key=KEY) as simulator:
        code, lines = await checked(tmp_path, simulator.base_url, None)
    assert code == 1
    assert lines["cloud"][0] == "ok"
    assert "set it as COMFY_CLOUD_API_KEY" in lines["key"][1]


@pytest.mark.parametrize(
    ("key", "flaw"),
    [
        ("comfyui-one two", "a space or a line break"),
        ("\u201ccomfyui-one\u201d", "a quotation mark"),
        ('"comfyui-one"', "a quotation mark"),
        ("comfyui-\u00f6ne", "a letter beyond ASCII"),
    ],
)
async def test_check_says_what_is_wrong_with_a_key_that_cannot_be_one(
    tmp_path: Path, key: str, flaw: str
) -> None:
    async with Simulator(key=KEY) as simulator:
        code, lines = await checked(tmp_path, simulator.base_url, key)
    word, sentence = lines["key"]
    assert (code, word) == (1, "FAILED")
    assert f"is invalid, because it contains {flaw}: copy it again" in sentence
    assert "one" not in sentence.replace("one line", "")


async def test_check_names_a_missing_key_when_the_cloud_is_away_too(tmp_path: Path) -> None:
    code, lines = await checked(tmp_path, "http://127.0.0.1:1", None)
    assert code == 1
    assert "set it as COMFY_CLOUD_API_KEY" in lines["key"][1]
    assert "Not tested" in lines["event socket"][1]


async def test_check_finds_a_cloud_that_is_away(tmp_path: Path) -> None:
    code, lines = await checked(tmp_path, "http://127.0.0.1:1")
    assert code == 1
    assert "cannot be reached" in lines["cloud"][1]
    assert "cannot connect to 127.0.0.1:1 (Connection refused)" in lines["cloud"][1]
    assert lines["data folder"][0] == "ok"


async def test_check_finds_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    certificate, key = await asyncio.to_thread(certify, tmp_path, "own")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, lines = await checked(tmp_path, f"https://127.0.0.1:{port}")
    assert "(the certificate is not trusted: self-signed certificate)" in lines["cloud"][1]


@pytest.mark.parametrize(("status", "body"), [(404, "<html>"), (405, "{}"), (200, "{}")])
async def test_check_finds_that_somebody_else_answers(
    tmp_path: Path, status: int, body: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as other:
        code, lines = await checked(tmp_path, other.make_url("/"))
    assert code == 1
    assert "is not Comfy Cloud: correct COMFY_CLOUD_BASE_URL" in lines["cloud"][1]


async def test_check_finds_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with Simulator(key=KEY) as simulator:
        code, lines = await checked(tmp_path / "file" / "data", simulator.base_url)
    assert code == 1
    assert "choose another with --data-dir" in lines["data folder"][1]


async def test_check_gives_json_for_a_bug_report(tmp_path: Path) -> None:
    async with Simulator(key=KEY) as simulator:
        environment = {
            "COMFY_CLOUD_BASE_URL": str(simulator.base_url),
            "COMFY_CLOUD_API_KEY": "comfyui-wrong-one",
            "COMFY_PROXY_DATA_DIR": str(tmp_path),
        }
        code, out, _ = await spawned("check", "--json", **environment)
    report = json.loads(out)
    assert (code, report["ok"], report["version"]) == (1, False, __version__)
    assert [(check["check"], check["ok"]) for check in report["checks"]] == [
        ("settings", True),
        ("cloud", True),
        ("key", False),
        ("event socket", False),
        ("data folder", True),
    ]
    assert "The cloud does not know this key" in report["checks"][2]["message"]
    assert "wrong-one" not in out


async def test_check_can_look_at_the_simulator(tmp_path: Path) -> None:
    code, out, _ = await spawned("check", "--simulate", "--data-dir", str(tmp_path))
    servers = environment_of(tmp_path)  # each has a line, too
    assert (code, out.count("ok ")) == (0, 7 + len(servers))


async def test_it_listens_on_several_addresses(tmp_path: Path) -> None:
    port = free_port()
    both = "127.0.0.1, 127.0.0.2"
    async with (
        serving(tmp_path, "--simulate", "--host", both, port=port),
        aiohttp.ClientSession() as session,
    ):
        for host in both.split(", "):
            async with session.get(f"http://{host}:{port}/prompt") as answer:
                assert answer.status == 200


def test_one_address_that_others_reach_is_enough_to_be_refused() -> None:
    with pytest.raises(ConfigError, match="Listening on"):
        refuse_open_access(Settings(host="127.0.0.1,0.0.0.0", data_dir=Path()))
    refuse_open_access(Settings(host="127.0.0.1,::1", data_dir=Path()))
