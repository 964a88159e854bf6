"""Every code block of the documents has a language, and can be parsed in it."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from servers import program

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
CADDY = shutil.which("caddy")
NODE = shutil.which("node")


def blocks() -> Iterator[tuple[str, str, str]]:
    """The page, the language and the text of each block."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for indent, language, block in re.findall(r"(?ms)^( *)```(\w*)\n(.*?)^\1```$", text):
            lines = (line.removeprefix(indent) for line in block.splitlines(keepends=True))
            yield page.name, language, "".join(lines)


def run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def of_powershell(text: str, folder: Path) -> None:
    """As a shell reads it: nothing here can parse PowerShell."""
    text = re.sub(r"(?m)^& ", "", text).replace("\\Scripts\\", "/bin/").replace("$HOME\\", "~/")
    run("bash", "-n", text=re.sub(r'(?m)^\$env:(\w+) = "(.*)"$', r"export \1=\2", text))


def make_certificate(folder: Path) -> None:
    run(
        *(
            program("openssl", package="OpenSSL"),
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=localhost",
        ),
        *("-keyout", str(folder / "comfy.key"), "-out", str(folder / "comfy.pem")),
    )


def of_haproxy(text: str, folder: Path) -> None:
    if HAPROXY is None:
        pytest.skip("haproxy is not installed")
    make_certificate(folder)
    with (folder / "comfy.pem").open("a") as file:
        file.write((folder / "comfy.key").read_text())
    config = folder / "haproxy.cfg"
    times = "timeout connect 5s\n    timeout client 1m\n    timeout server 1m"
    text = text.replace("/etc/haproxy/", f"{folder}/")
    config.write_text(f"defaults\n    mode http\n    {times}\n\n{text}")
    run(HAPROXY, "-c", "-q", "-f", str(config))


def of_typescript(text: str, folder: Path) -> None:
    if NODE is None:
        pytest.skip("node is not installed")
    module = folder / "block.mjs"
    module.write_text(text)
    run(NODE, "--check", str(module))


def of_caddy(text: str, folder: Path) -> None:
    if CADDY is None:
        pytest.skip("caddy is not installed")
    config = folder / "Caddyfile"
    config.write_text(text)
    run(CADDY, "adapt", "--config", str(config))


PARSERS: dict[str, Callable[[str, Path], object]] = {
    "sh": lambda text, _: run("bash", "-n", text=text),
    "python": lambda text, _: ast.parse(text),
    "json": lambda text, _: json.loads(text),
    "toml": lambda text, _: tomllib.loads(text),
    "yaml": lambda text, _: YAML(typ="safe").load(text),
    "ts": of_typescript,
    "haproxy": of_haproxy,
    "caddyfile": of_caddy,
    "powershell": of_powershell,
    "text": lambda text, _: None,
}


@pytest.mark.parametrize(("page", "language", "text"), list(blocks()))
def test_a_block_can_be_parsed(page: str, language: str, text: str, tmp_path: Path) -> None:
    PARSERS[language](text, tmp_path)
    assert text.strip()


def test_windows_has_the_same_steps() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (windows,) = re.findall(r"(?s)```powershell\n(.*?)```", text)
    unix = next(block for page, _, block in blocks() if page == "README.md" and "-m venv" in block)
    translated = (
        windows.replace("py -m", "python3 -m")
        .replace("& ", "")
        .replace("$HOME\\", "~/")
        .replace("\\Scripts\\", "/bin/")
        .replace(
            '$env:COMFY_CLOUD_API_KEY = "comfyui-..."', "export COMFY_CLOUD_API_KEY=comfyui-..."
        )
    )
    assert translated == unix
