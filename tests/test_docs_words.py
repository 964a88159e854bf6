"""Commands, options, settings and routes that the pages name exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checks
import pytest
import reference
import typer.main
from comfy_cloud_probe.cli import app as probe_app

from proxy.cli import with_default_command
from proxy.cli.commands import app
from proxy.settings import ACCOUNT_SETTINGS, SETTINGS, load

ROOT = Path(__file__).parent.parent
#: Written by hand; those drawn from the code are right by birth.
PAGES = [
    name
    for name in ("README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
    if name not in reference.PAGES or name == "docs/metrics.md"  # of which only a table is drawn
]
#: Names of other programs' things, so that only commands are looked at.
OF_OTHERS = "docs/recipes.md"
OURS = [name for name in PAGES if name != OF_OTHERS]
NAMES = {setting.key for setting in SETTINGS} | {row.name for row in ACCOUNT_SETTINGS}
ROOT_COMMAND = typer.main.get_command(app)
PROBE = typer.main.get_command(probe_app)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def spans(text: str) -> list[str]:
    """What stands in `backticks`."""
    return re.findall(r"`([^`]+)`", re.sub(r"(?s)```.*?```", "", text).replace("\n", " "))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"(?s)```{language}\n(.*?)```", text)


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each call of our program that a page shows."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    for line in lines + [span for span in spans(text) if span.startswith("comfy-cloud-proxy ")]:
        words = shlex.split(line, comments=True)
        if words[:3] == ["docker", "compose", "run"]:
            service = next(word for word in words if word.partition("-")[0] == "proxy")
            yield words[words.index(service) + 1 :]
        elif "comfy-cloud-proxy" in words and words[:2] != ["docker", "build"]:
            place = len(words) - words[::-1].index("comfy-cloud-proxy")
            yield with_default_command(words[place:])


def find(arguments: list[str]) -> tuple[Any, list[str]]:
    command: Any = ROOT_COMMAND
    while hasattr(command, "commands"):
        assert arguments, f"{command.name} wants a command behind it"
        assert arguments[0] in command.commands, arguments[0]
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


def all_commands(command: Any = ROOT_COMMAND) -> Iterator[Any]:
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from all_commands(below)


def options(command: Any) -> set[str]:
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_can_be_called(name: str) -> None:
    for arguments in commands(page(name)):
        if arguments[0] in ("--version", "--help", "-h"):
            continue
        command, rest = find(arguments)
        named = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert named <= options(command), arguments


@pytest.mark.parametrize("name", OURS)
def test_the_options_of_a_page_are_options(name: str) -> None:
    known = set().union(*map(options, [*all_commands(), PROBE]))
    named = {word for span in spans(page(name)) for word in re.findall(r"^--[a-z-]+", span)}
    assert named - {"--no-", "--seed"} <= known  # a form, and an option of tests/chaos


@pytest.mark.parametrize("name", PAGES)
def test_the_variables_of_a_page_are_settings(name: str) -> None:
    known = {setting.environment for setting in SETTINGS}
    assert set(re.findall(r"\bCOMFY_(?:PROXY|CLOUD)_[A-Z_]+\b", page(name))) <= known


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_page_are_settings(name: str) -> None:
    text = re.sub(r"[\[\]\n]", " ", page(name))
    named = re.findall(r"\b[Ss]ettings? +`([a-z_]+)`", text)
    named += [span.partition(" = ")[0] for span in spans(text) if re.match(r"[a-z_]+ = ", span)]
    assert set(named) <= NAMES


@pytest.mark.parametrize("name", [name for name in OURS if name != "README.md"])
def test_the_routes_of_a_page_are_served(name: str) -> None:
    routes = checks.documented_routes(page("docs/routes.md"))
    served = [(method, re.sub(r"\{[^}]*\}", "[^/]+", path)) for method, path in routes]
    for method, path in re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`? ]*)", page(name)):
        plain = re.sub(r"\{[^}]*\}", "x", path)
        methods = {known for known, route in served if re.fullmatch(route, plain)}
        assert methods & {method, "any"}, f"{method} {path}"


@pytest.mark.parametrize("name", OURS)
def test_the_toml_of_a_page_can_be_used(name: str, tmp_path: Path) -> None:
    for text in blocks(page(name), "toml"):
        if "project" in tomllib.loads(text):  # a pyproject.toml
            continue
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        load({"config": str(path)})
