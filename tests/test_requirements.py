"""The lock files say what pyproject.toml says, with the hash of every file."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxy.translate import FRONTEND

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "requirements"
#: The oldest Python that is supported and a newer one, for requirements that differ between them.
PYTHONS = ("3.11", "3.14")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK = script("lock")
GROUPS: dict[str, list[str]] = LOCK.groups()


def locked(name: str) -> list[Requirement]:
    lines = (FOLDER / f"{name}.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]


def test_the_oldest_web_interface_is_what_pyproject_allows_first() -> None:
    found = {requirement.name: requirement.specifier for requirement in locked(LOCK.OLDEST)}
    assert found == {
        requirement.name: requirement.specifier for requirement in map(Requirement, LOCK.oldest())
    }
    for wanted in map(Requirement, GROUPS[LOCK.UI]):
        (oldest,) = found[wanted.name]
        assert oldest.operator == "=="
        assert wanted.specifier.contains(oldest.version), "run make lock"


def test_the_web_interface_that_this_comfyui_requires_may_be_installed() -> None:
    (allowed,) = (
        wanted.specifier for wanted in map(Requirement, GROUPS[LOCK.UI]) if "front" in wanted.name
    )
    assert allowed.contains(FRONTEND)


@pytest.mark.parametrize("name", GROUPS)
def test_what_pyproject_wants_is_locked_in_a_version_that_it_takes(name: str) -> None:
    found = [*locked(name), *locked("run")]
    for line in GROUPS[name]:
        wanted = Requirement(line)
        for python in PYTHONS:
            place = {"python_version": python, "python_full_version": f"{python}.0"}
            if wanted.marker is not None and not wanted.marker.evaluate(place):
                continue
            versions = [
                next(iter(requirement.specifier)).version
                for requirement in found
                if canonicalize_name(requirement.name) == canonicalize_name(wanted.name)
                and (requirement.marker is None or requirement.marker.evaluate(place))
            ]
            assert versions, f"{wanted.name} is not locked in {name}: run make lock"
            assert all(map(wanted.specifier.contains, versions)), f"{wanted}: run make lock"


@pytest.mark.parametrize("name", GROUPS)
def test_everything_has_one_version_and_hashes(name: str) -> None:
    blocks = re.split(r"(?m)^(?=[a-z0-9])", (FOLDER / f"{name}.lock").read_text(encoding="utf-8"))
    assert len([block for block in blocks if block]) == len(locked(name))
    assert all("--hash=sha256:" in block for block in blocks if block)
    assert all(
        [specifier.operator for specifier in item.specifier] == ["=="] for item in locked(name)
    )


def test_all_lock_files_agree() -> None:
    versions: dict[str, set[str]] = {}
    for name in GROUPS:
        for requirement in locked(name):
            versions.setdefault(f"{requirement.name} {requirement.marker}", set()).add(
                str(requirement.specifier)
            )
    assert {name for name, found in versions.items() if len(found) > 1} == set()
