"""The documents say what the code does."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import checks
import pytest
import reference

from proxy.app.routes import ROUTES
from proxy.packs.table import PACK_NODES
from proxy.settings import ACCOUNT_SETTINGS, PROVIDER_SETTINGS, SETTINGS, Setting, load
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


@pytest.mark.parametrize("name", reference.PAGES)
def test_pages_drawn_from_the_code_are_fresh(name: str) -> None:
    assert page(name) == reference.PAGES[name](), "run make docs"


def test_a_stale_page_is_found_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reference.main(["--check"]) == 1
    assert "docs/settings.md is not as the code says" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_documented_in_its_forms(setting) -> None:
    section = page("docs/settings.md").split(f"### {setting.name}\n")[1].split("###")[0]
    assert setting.key in (None, setting.name)
    for form in (setting.option, setting.environment):
        assert form is None or f"`{form}`" in section


def test_the_page_of_routes_has_them_all() -> None:
    assert checks.wrong_rows(page("docs/routes.md"), ROUTES) == []


def test_what_the_tables_say_of_routes_is_in_sentences() -> None:
    for (_, path), row in checks.documented_routes(page("docs/routes.md")).items():
        assert all(cell.endswith(".") for name, cell in row.items() if name != "Twin"), path


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


@pytest.mark.parametrize("row", ACCOUNT_SETTINGS, ids=lambda row: row.name)
def test_every_setting_of_an_account_is_documented(row: Setting) -> None:
    section = page("docs/settings.md").split(f"### accounts.{row.name}\n")[1].split("###")[0]
    assert row.help in section


@pytest.mark.parametrize("row", PROVIDER_SETTINGS, ids=lambda row: row.name)
def test_every_setting_of_a_provider_is_documented(row: Setting) -> None:
    section = page("docs/settings.md").split(f"### providers.{row.name}\n")[1].split("###")[0]
    assert row.help in section


def test_names_stay_whole_where_settings_are_documented() -> None:
    assert not re.findall(r"(?m)\w-$", page("config.example.toml"))
    assert not re.findall(r"`\w+- \w+`", page("docs/settings.md"))


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


def test_the_site_has_every_document() -> None:
    outside = {"changelog.md", "contributing.md"}
    named = set(re.findall(r": ([\w-]+\.md)$", page("mkdocs.yml"), re.MULTILINE))
    assert named == {*DOCS, *outside}


def test_what_the_readme_makes_can_be_made() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", page("Makefile")))
    assert set(re.findall(r"\bmake ([a-z]+)\b", page("README.md"))) <= targets


def test_continuous_integration_calls_the_checks_and_the_tests_of_the_readme() -> None:
    called = re.findall(r"(?m)^ *make ([a-z-]+)$", page(".ci/run"))
    own = ["test-probe", "attacks", "readme", "test-cluster", "site", "browser", "container"]
    assert called == ["check", "audit", "test", *own]
    (tests,) = re.findall(r"`make ([a-z]+)` runs the tests", page("README.md"))
    assert tests in called


def test_continuous_integration_installs_the_programs_of_all_tests() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    programs = set(re.findall(r"skipif\(shutil\.which\(\"([\w-]+)\"\)", sources))
    assert programs > {"promtool", "caddy"}
    assert programs <= set(re.findall(r"([\w-]+):[\w-]+", page(".ci/run")))


def test_the_welcome_page_tells_how_the_web_interface_comes() -> None:
    text = page("proxy/api/welcome.html")
    extras = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]
    (installed,) = re.findall(r"pip install '\.\[(\w+)\]'", text)
    assert installed in extras
    assert "comfy-cloud-proxy[" not in text, "the package is not published"
    (command,) = re.findall(r"<code>(docker build .*)</code>", text)
    assert command in page("docs/sidecar.md")


def test_what_the_readme_sets_are_settings() -> None:
    known = {setting.environment for setting in SETTINGS}
    assert set(re.findall(r"\bCOMFY_(?:PROXY|CLOUD)_[A-Z_]+\b", page("README.md"))) <= known


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
