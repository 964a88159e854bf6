"""The documents say what the code does."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from proxy.packs.discovery import PACK_NODES
from proxy.settings import ACCOUNT_SETTINGS, SETTINGS, load
from proxy.translate import COMFYUI, errors

ROOT = Path(__file__).parent.parent
DOCS = sorted(path.name for path in ROOT.glob("docs/*.md"))


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def uncommented(text: str) -> str:
    """An example with its lines of settings in force."""
    return re.sub(r"(?m)^#(?=[\w\[])", "", text)


def anchor(heading: str) -> str:
    """The part of an address behind `#` that leads to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_page_of_the_web_interface_names_the_version() -> None:
    assert f"speaks as ComfyUI {COMFYUI}:" in page("docs/web-interface.md")


def test_the_example_file_is_a_settings_file(tmp_path: Path) -> None:
    text = uncommented(page("config.example.toml").partition("# --- Accounts ---")[0])
    values = tomllib.loads(text)
    assert list(values) == [setting.key for setting in SETTINGS if setting.key]
    path = tmp_path / "config.toml"
    path.write_text(text)
    load({"config": str(path)})


@pytest.mark.parametrize("left_out", [("key", "slots"), ("key_file", "plan")])
def test_the_example_of_an_account_is_one(tmp_path: Path, left_out: tuple[str, str]) -> None:
    text = uncommented(page("config.example.toml").partition("# --- Accounts ---")[2])
    (account,) = tomllib.loads(text)["accounts"]
    assert list(account) == [row.name for row in ACCOUNT_SETTINGS]
    path = tmp_path / "config.toml"
    path.write_text(re.sub(rf"(?m)^({'|'.join(left_out)}) = .*$", "", text))
    (loaded,) = load({"config": str(path)}).accounts
    assert loaded.name == account["name"]


def test_the_example_file_changes_nothing_as_it_is() -> None:
    assert tomllib.loads(page("config.example.toml")) == {}


def test_every_helper_node_has_its_row_which_says_what_is_exact() -> None:
    rows = re.findall(r"(?m)^\| `([^`]+)` \| (\S.*) \| .*\|$", page("docs/helper-nodes.md"))
    assert sorted(name for name, _ in rows) == sorted(PACK_NODES)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *(f"docs/{d}" for d in DOCS)])
def test_links_within_the_project_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page(name)):
        path, _, heading = target.partition("#")
        place = (ROOT / name).parent / path if path else ROOT / name
        assert place.exists(), target
        headings = re.findall(r"(?m)^#+ (.+)$", place.read_text("utf-8")) if heading else ()
        assert not heading or heading in map(anchor, headings), target


def test_the_index_has_every_document() -> None:
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", page("docs/index.md"))) == {*DOCS} - {"index.md"}


def test_the_version_has_its_entry_in_the_changelog() -> None:
    from proxy import __version__

    assert f"## {__version__}" in page("CHANGELOG.md")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.json")), ids=lambda p: p.name)
def test_examples_are_workflows_in_api_format(path: Path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    assert all({"class_type", "inputs"} <= node.keys() for node in graph.values())


#: Words of refusals that no client sees: they are translated on the way.
_INTERNAL = {"invalid", "unknown", "unreachable"}


#: They have types of exceptions in nodes.
_OF_NODES = {"PackNodeError"}


#: Functions that refuse a parameter of the query as `invalid_NAME`.
_OF_PARAMETERS = {"query_number", "_history_integer", "day_parameter", "_choice"}


def error_types() -> set[str]:
    """Every `error.type` that the code gives: in a refusal, of the cloud, or in a validation."""
    found = set(errors._WAYS_OUT)
    for path in (ROOT / "proxy").rglob("*.py"):
        if "simulator" in path.relative_to(ROOT).parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and len(node.args) > 1:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                type_ = node.args[0]
                is_type = name.endswith("Error") and name not in _OF_NODES
                if (is_type or name == "__init__") and isinstance(type_, ast.Constant):
                    found.add(str(type_.value))
                if is_type and isinstance(type_, ast.Name) and hasattr(errors, type_.id):
                    found.add(str(getattr(errors, type_.id)))
                parameter = node.args[1]
                if name in _OF_PARAMETERS and isinstance(parameter, ast.Constant):
                    found.add(f"invalid_{parameter.value}")
        if path.parent.name == "translate":
            words = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
            found |= VALIDATION & {word for word in words if isinstance(word, str)}
    return {word for word in found - _INTERNAL if re.fullmatch(r"\w+", word)}


VALIDATION = {
    "missing_node_type",
    "required_input_missing",
    "bad_linked_input",
    "return_type_mismatch",
    "invalid_input_type",
    "value_smaller_than_min",
    "value_bigger_than_max",
    "value_not_in_list",
    "custom_validation_failed",
    "dependency_cycle",
    "exception_during_inner_validation",
    "exception_during_validation",
    "prompt_no_outputs",
    "prompt_outputs_failed_validation",
}


def test_every_error_type_has_its_paragraph() -> None:
    text = page("docs/troubleshooting.md")
    lines = re.findall(r"(?m)^(?:### |\* )(`\w+`(?:, `\w+`)*)$", text)
    described = re.findall(r"`(\w+)`", ", ".join(lines))
    assert sorted(described) == sorted(error_types())
