"""`service`: a unit or an agent that runs the proxy as this user runs it."""

from __future__ import annotations

import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from process import child

from proxy.cli import main
from proxy.cli import service as services
from proxy.settings import SETTINGS
from proxy.simulator import Simulator

KEY = "comfyui-0123456789"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home; `systemctl` and `launchctl` of the machine write down their calls."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.environment, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("systemctl", "launchctl"):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def called(home: Path) -> list[str]:
    return (home / "calls").read_text().splitlines()


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as raised:
        main(words)
    output = capsys.readouterr()
    return int(raised.value.code or 0), output.out, output.err


UNIT = ".config/systemd/user/comfy-cloud-proxy.service"


def lines_of(unit: Path, key: str) -> list[str]:
    """The values of a key of a unit, without systemd's own escapes."""
    found = [line.partition("=") for line in unit.read_text().splitlines()]
    return [value.replace("$$", "$").replace("%%", "%") for name, _, value in found if name == key]


async def test_a_service_runs_as_this_user_runs_it(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulator(key=KEY) as simulator:
        monkeypatch.setenv("COMFY_CLOUD_API_KEY", KEY)
        monkeypatch.setenv("COMFY_CLOUD_BASE_URL", str(simulator.base_url))
        monkeypatch.chdir(home)
        words = ("--port", "0", "--data-dir", "my $data 50%")
        code, out, err = ended(capsys, "service", "install", *words)
        assert (code, err) == (0, "")
        assert KEY not in out
        unit, key_file = home / UNIT, home / ".config/comfy-cloud-proxy/api-key"
        assert KEY not in unit.read_text()
        assert key_file.read_text().strip() == KEY
        assert key_file.stat().st_mode & 0o777 == 0o600
        assert called(home) == [
            "systemctl --user daemon-reload",
            "systemctl --user enable --now comfy-cloud-proxy",
        ]
        python, *arguments = shlex.split(lines_of(unit, "ExecStart")[0])
        assert python == sys.executable
        environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        for pair in map(shlex.split, lines_of(unit, "Environment")):
            name, _, value = pair[0].partition("=")
            environment[name] = value
        async with child(*arguments, environment=environment) as process:
            assert process.stdout is not None
            line = await process.stdout.readline()
        assert line.startswith(b"listening on http://127.0.0.1:")
        assert (home / "my $data 50%" / "proxy.db").exists()


def test_it_is_replaced_and_removed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended(capsys, "service", "install", "--simulate")
    assert ended(capsys, "service", "install", "--simulate", "--port", "8200")[0] == 0
    assert '"--port" "8200"' in (home / UNIT).read_text()
    assert "systemctl --user disable --now comfy-cloud-proxy" in called(home)
    assert ended(capsys, "service", "uninstall")[0] == 0
    assert not (home / UNIT).exists()
    code, _, err = ended(capsys, "service", "uninstall")
    assert code == 1
    assert "The service is not installed" in err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended(capsys, "service", "install", "--simulate", "--data-dir", str(home / 'a "b" c'))
    command = ["systemd-analyze", "--user", "verify", str(home / UNIT)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(home)}
    verified = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_print_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", KEY)
    code, out, _ = ended(capsys, "service", "install", "--print")
    assert code == 0
    assert "ExecStart=" in out
    assert KEY not in out
    assert not (home / ".config").exists()


def test_what_fails_is_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "programs/systemctl").write_text("#!/bin/sh\necho 'No medium found' >&2\nexit 1\n")
    code, _, err = ended(capsys, "service", "install", "--simulate")
    assert code == 1
    assert err == "systemctl --user daemon-reload failed: No medium found.\n"


def test_a_service_needs_a_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ended(capsys, "service", "install")
    assert code == 2
    assert "There is no API key: set COMFY_CLOUD_API_KEY or --api-key-file" in err
    assert not (home / UNIT).exists()


def test_a_secret_is_not_written_into_the_file_of_the_service(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_PROXY_DATABASE", "postgresql://proxy:a-secret@db/comfy")
    code, _, err = ended(capsys, "service", "install", "--simulate")
    assert code != 0
    assert not (home / UNIT).exists()
    assert "COMFY_PROXY_DATABASE is a secret" in err


def test_launchd_gets_an_agent(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mac:
        platform = "darwin"
        executable = sys.executable

    monkeypatch.setattr(services, "sys", Mac)
    assert ended(capsys, "service", "install", "--simulate")[0] == 0
    path = home / "Library/LaunchAgents/org.comfy-cloud-proxy.plist"
    agent: dict[str, Any] = plistlib.loads(path.read_bytes())
    words = ["-P", "-m", "proxy", "serve", "--simulate"]
    assert agent["ProgramArguments"] == [sys.executable, *words]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert called(home) == [f"launchctl bootstrap gui/{os.getuid()} {path}"]
    assert ended(capsys, "service", "uninstall")[0] == 0
    assert not path.exists()
