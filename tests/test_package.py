"""The package as a release publishes it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
URL = "https://code.example/owner/comfy-cloud-proxy"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution and the wheel, built as in the workflow of a release."""
    folder = tmp_path_factory.mktemp("dist")
    environment = {**os.environ, "PROJECT_URL": URL, "GITHUB_REF_NAME": "v9"}
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_source_distribution_has_no_stray_files(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files", "proxy"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {name for name in names if name.startswith("proxy/")} <= {*tracked.stdout.split()}
    assert {name for name in names if not name.startswith("proxy/")} == {
        "PKG-INFO",
        "pyproject.toml",
        "hatch_build.py",
        ".gitignore",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "config.example.toml",
    }


def test_the_wheel_has_the_package_alone(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {re.sub(r"-[^-]*\.dist-info", "-dist-info", top) for top in tops} == {
        "proxy",
        "comfy_cloud_proxy-dist-info",
    }


def test_the_package_names_its_addresses(built: tuple[Path, Path]) -> None:
    urls = dict(line.split(", ") for line in metadata(built[1]).get_all("Project-URL", []))
    assert urls["Source"] == URL
    assert urls["Changelog"] == f"{URL}/blob/v9/CHANGELOG.md"
    assert {*urls} == {"Documentation", "Source", "Changelog", "Issues"}


def test_links_of_the_published_readme_are_absolute(built: tuple[Path, Path]) -> None:
    text = str(metadata(built[1]).get_payload())
    links = re.findall(r"!?\[[^\]]*\]\(([^)]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    assert f"{URL}/raw/v9/docs/images/terminal.svg" in links
    for link in links:
        if link.startswith(URL):
            place = re.sub(r"^[a-z]+/v9/", "", link.removeprefix(f"{URL}/")).partition("#")[0]
            assert (ROOT / place).exists(), place
