"""`service`: the proxy as a service of the user, under systemd or launchd."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from proxy.cli.common import CommandError, command, examples
from proxy.cli.tables import say
from proxy.settings import SETTINGS, ConfigError, Settings, load, read_accounts

_NAME = "comfy-cloud-proxy"
_LABEL = "org.comfy-cloud-proxy"
#: Seconds for each call of systemctl or launchctl: stopping takes up to 8.
_TIMEOUT = 60.0

_UNIT = """\
# Written by `comfy-cloud-proxy service install`.
[Unit]
Description=Local ComfyUI API whose workflows run on Comfy Cloud

[Service]
ExecStart={command}
{environment}Restart=on-failure
RestartSec=2
TimeoutStopSec=30

[Install]
WantedBy=default.target
"""


service = typer.Typer(
    help="Run the proxy as a service of your user.",
    no_args_is_help=True,
    epilog=examples("service install", "service uninstall"),
)


@command(
    service,
    "install",
    "service install",
    "service install --config config.toml",
    "service install --simulate --print",
    short="Install and start the service.",
    settings=SETTINGS,
)
def _install(
    options: dict[str, Any],
    show: Annotated[
        bool, typer.Option("--print", help="Print the service file without installing it.")
    ] = False,
) -> int:
    """Install the proxy as a service that starts at login (systemd or launchd).

    The service uses these options and the settings of the environment. A key in
    COMFY_CLOUD_API_KEY is written to a file that only you can read. Run the command again to
    change the options.
    """
    return _install_service(load(options), options, show=show)


@command(service, "uninstall", "service uninstall", settings=())
def _uninstall(options: dict[str, Any]) -> int:
    """Stop the service and remove it. The data folder stays."""
    path = _unit_path()
    if not path.exists():
        raise CommandError(f"The service is not installed: {path} does not exist.")
    _stop(path)
    path.unlink()
    if sys.platform != "darwin":
        _call("systemctl", "--user", "daemon-reload")
    say("The service was removed. The data folder and the key file stay.")
    return 0


def _install_service(settings: Settings, options: Mapping[str, Any], *, show: bool) -> int:
    """Install and start the service with these options and the environment's settings.

    `show` prints its file instead. Raises `CommandError`, and `ConfigError` without a key.
    """
    key_file = _key_file(settings, write=not show)
    words = _command(settings, options)
    environment = _environment(settings, key_file)
    path = _unit_path()
    if path.suffix == ".plist":
        text = plistlib.dumps(agent(words, environment)).decode()
    else:
        text = unit(words, environment)
    if show:
        say(text.removesuffix("\n"))
        return 0
    replaced = path.exists()
    if replaced:
        _stop(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    _start(path)
    say(f"The service {'was restarted' if replaced else 'is running'} and starts when you log in.")
    say(f"Its file is {path}.")
    if sys.platform == "darwin":
        say(f"Its log is {_log()}.")
    else:
        say(f"Its log: journalctl --user --unit {_NAME} --follow")
        say("To keep it running after you log out: loginctl enable-linger")
    return 0


def _key_file(settings: Settings, *, write: bool) -> Path | None:
    """Write a file for a key that only the environment has, which a service does not see."""
    if settings.simulate:
        return None
    if not read_accounts(settings):
        raise ConfigError(
            "There is no API key: set COMFY_CLOUD_API_KEY or --api-key-file (create a key at "
            "https://platform.comfy.org), or use --simulate."
        )
    key = os.environ.get("COMFY_CLOUD_API_KEY")
    if not key or settings.api_key is None or settings.api_key.get_secret_value() != key:
        return None
    path = platformdirs.user_config_path(_NAME) / "api-key"
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{key}\n")
        say(f"The key of COMFY_CLOUD_API_KEY was written to {path}, which only you can read.")
    return path


def _command(settings: Settings, options: Mapping[str, Any]) -> list[str]:
    # -P: a folder called `proxy` where it starts is not taken for the package.
    words = [sys.executable, "-P", "-m", "proxy", "serve"]
    for row in SETTINGS:
        if row.option is None or row.name not in options:
            continue
        if row.is_flag:
            words.append(row.option if options[row.name] else f"--no-{row.option[2:]}")
        else:
            words += [row.option, _absolute(getattr(settings, row.name), options[row.name])]
    return words


def _environment(settings: Settings, key_file: Path | None) -> dict[str, str]:
    """Return the settings of this environment, without secrets."""
    found = {}
    for row in SETTINGS:
        text = row.in_environment(os.environ)
        if text is None or row.name == "api_key":
            continue
        if row.secret:
            raise CommandError(
                f"{row.environment} is a secret: write {row.name} to a settings file and set "
                "--config."
            )
        found[row.environment] = _absolute(getattr(settings, row.name), text)
    if key_file is not None:
        found["COMFY_CLOUD_API_KEY_FILE"] = str(key_file)
    return found


def _absolute(value: object, text: object) -> str:
    return str(value.absolute() if isinstance(value, Path) else text)


def _unit_path() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library/LaunchAgents" / f"{_LABEL}.plist"
    if sys.platform == "win32" or shutil.which("systemctl") is None:
        raise CommandError(
            "This machine has neither systemd nor launchd: run comfy-cloud-proxy at login with the "
            "scheduler of the system."
        )
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "systemd/user" / f"{_NAME}.service"


def _log() -> Path:
    return Path.home() / "Library/Logs" / f"{_NAME}.log"


def unit(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return a unit of systemd."""
    lines = (f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items())
    words = " ".join(_quoted(word).replace("$", "$$") for word in command)
    return _UNIT.format(command=words, environment="".join(lines))


def _quoted(word: str) -> str:
    """Return a quoted word of a unit (systemd.syntax, "Quoting"; systemd.unit, "Specifiers")."""
    for letter, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("%", "%%")):
        word = word.replace(letter, written)
    return f'"{word}"'


def agent(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return an agent of launchd (launchd.plist)."""
    return {
        "Label": _LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": 30,
        "StandardOutPath": str(_log()),
        "StandardErrorPath": str(_log()),
    }


def _start(path: Path) -> None:
    if sys.platform != "win32" and path.suffix == ".plist":
        _call("launchctl", "bootstrap", f"gui/{os.getuid()}", str(path))
        return
    _call("systemctl", "--user", "daemon-reload")
    _call("systemctl", "--user", "enable", "--now", _NAME)


def _stop(path: Path) -> None:
    if sys.platform != "win32" and path.suffix == ".plist":
        _call("launchctl", "bootout", f"gui/{os.getuid()}/{_LABEL}", fails=True)
        return
    _call("systemctl", "--user", "disable", "--now", _NAME)


def _call(*words: str, fails: bool = False) -> None:
    """Run a program of the system; it may fail where there is nothing to stop."""
    try:
        done = subprocess.run(  # noqa: S603  # a fixed program, no shell
            words, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{' '.join(words)} did not run ({error}).") from None
    if done.returncode and not fails:
        lines = (done.stderr or done.stdout).strip().splitlines()
        why = lines[0] if lines else f"exit code {done.returncode}"
        raise CommandError(f"{' '.join(words)} failed: {why}.")
