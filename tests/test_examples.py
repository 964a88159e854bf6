"""The examples are what they say: projects of Docker Compose, settings, commands."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from process import serving
from ruamel.yaml import YAML

from proxy.settings import SETTINGS, load

ROOT = Path(__file__).parent.parent
COMPOSE = sorted((ROOT / "examples").glob("*/compose.yaml"))
IMAGE = "comfy-cloud-proxy"
GATEWAY = ROOT / "examples/gateway"


def project(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8")))


def proxies(path: Path) -> list[dict[str, Any]]:
    services = project(path)["services"].values()
    return [
        service
        for service in services
        if service["image"].partition(":")[0] == IMAGE and "command" not in service
    ]


def substituted(environment: Mapping[str, str], **given: str) -> dict[str, str]:
    """The variables of a service as Compose hands them over where `given` are set."""
    pattern = re.compile(r"\$\{(\w+)(?::[-?]([^}]*))?\}")
    return {
        name: pattern.sub(lambda found: given.get(found[1]) or found[2] or "", str(value))
        for name, value in environment.items()
    }


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def instruction(word: str) -> str:
    """What stands behind the last instruction of a kind in the Dockerfile."""
    return re.findall(rf"(?m)^{word} (.*)$", dockerfile())[-1].strip()


def image_environment() -> dict[str, str]:
    pairs = (pair.split("=", 1) for pair in shlex.split(instruction("ENV")))
    return {name: value for name, value in pairs if name != "PATH"}


def of_the_container(service: dict[str, Any], folder: Path) -> dict[str, str]:
    """The variables that the proxy sees, with the container's folders below `folder`."""
    data, secrets = folder / "data", folder / "secrets"
    variables = image_environment() | substituted(service["environment"])
    for secret in service["secrets"]:
        secrets.mkdir(exist_ok=True)
        (secrets / secret).write_text("comfyui-key")
    places = {"/data": str(data), "/run/secrets": str(secrets)}
    return {
        name: re.sub(r"^(/data|/run/secrets)", lambda found: places[found[0]], value)
        for name, value in variables.items()
    }


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.environment, raising=False)


def each_project(test: Any) -> Any:
    return pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)(test)


@each_project
def test_it_is_a_compose_file(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema"]
    command += ["--builtin-schema", "vendor.compose-spec", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@each_project
def test_what_its_services_use_is_declared(path: Path) -> None:
    whole = project(path)
    for service in whole["services"].values():
        named = [volume.partition(":")[0] for volume in service.get("volumes", ())]
        assert {name for name in named if not name.startswith(".")} <= set(whole["volumes"])
        assert all((path.parent / name).exists() for name in named if name.startswith("."))
        assert set(service.get("secrets", ())) <= set(whole["secrets"])
        assert set(service.get("networks", ())) <= {*whole["networks"], "default"}
        assert set(service.get("depends_on", ())) <= set(whole["services"])


@each_project
def test_nothing_declared_is_left_over(path: Path) -> None:
    whole = project(path)
    services = whole["services"].values()
    assert set(whole["secrets"]) == {name for one in services for name in one.get("secrets", ())}
    used = {volume.partition(":")[0] for one in services for volume in one.get("volumes", ())}
    assert set(whole["volumes"]) <= used
    assert set(whole["networks"]) <= {name for one in services for name in one["networks"]}


@each_project
def test_its_proxy_is_bounded_and_reached_by_no_published_port(path: Path) -> None:
    (service,) = proxies(path)
    build = service["build"]
    context = build if isinstance(build, str) else build["context"]
    assert (path.parent / context / "Dockerfile").resolve() == ROOT / "Dockerfile"
    assert not {"ports", "user", "tmpfs"} & service.keys()
    assert {"mem_limit", "cpus", "pids_limit", "read_only", "cap_drop"} <= service.keys()
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > int(image_environment()["COMFY_PROXY_SHUTDOWN_TIMEOUT"])
    assert f":{instruction('VOLUME')}" in service["volumes"][0]
    assert image_environment()["TMPDIR"] == instruction("VOLUME")


@each_project
def test_its_variables_are_settings_that_can_be_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (service,) = proxies(path)
    for name, value in of_the_container(service, tmp_path).items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.host == "0.0.0.0"
    assert str(settings.port) == instruction("EXPOSE")
    assert settings.data_dir == tmp_path / "data"
    assert settings.api_key_file is not None


@each_project
def test_its_secrets_go_to_the_image_s_user_and_not_to_git(path: Path) -> None:
    whole, uid = project(path), instruction("USER").partition(":")[0]
    assert f"useradd --uid {uid} " in instruction("RUN")
    (secret,) = whole["secrets"].values()
    for text in (path.read_text(), (ROOT / f"docs/{path.parent.name}.md").read_text()):
        assert f"sudo chown -R {uid} secrets" in text
        assert f"> {secret['file'].removeprefix('./')}\n" in text
    ignored = subprocess.run(["git", "check-ignore", "-q", secret["file"]], cwd=path.parent)
    assert ignored.returncode in (0, 128)  # 128: no repository, as in an archive of the source


def test_the_image_is_built_of_what_docker_is_given() -> None:
    given = re.findall(r"(?m)^!(.*)$", (ROOT / ".dockerignore").read_text())
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", dockerfile())
    assert {name for line in copied for name in line.split()} == set(given)
    assert all((ROOT / name).exists() for name in given)


def test_caddy_is_trusted_and_its_address_is_never_given_to_another() -> None:
    whole = project(GATEWAY / "compose.yaml")
    caddy, (proxy,) = whole["services"]["caddy"], proxies(GATEWAY / "compose.yaml")
    (pool,) = whole["networks"]["front"]["ipam"]["config"]
    address = ipaddress.ip_address(caddy["networks"]["front"]["ipv4_address"])
    trusted = ipaddress.ip_network(proxy["environment"]["COMFY_PROXY_TRUSTED_PROXIES"])
    assert list(trusted.hosts()) == [address]
    assert address in ipaddress.ip_network(pool["subnet"])
    assert address not in ipaddress.ip_network(pool["ip_range"])
    assert address != ipaddress.ip_address(pool["gateway"])


def test_caddy_hands_on_to_the_proxy() -> None:
    text = (GATEWAY / "Caddyfile").read_text(encoding="utf-8")
    services = project(GATEWAY / "compose.yaml")["services"]
    assert re.findall(r"reverse_proxy (\S+):(\d+) ", text) == [("proxy", instruction("EXPOSE"))]
    assert services["proxy"] in proxies(GATEWAY / "compose.yaml")
    (variable,) = re.findall(r"\{\$(\w+)\}", text)
    assert variable in services["caddy"]["environment"]


def commands_of_the_gateway() -> list[list[str]]:
    text = (GATEWAY / "compose.yaml").read_text(encoding="utf-8")
    found = re.findall(r"(?m)^# +docker compose run --rm proxy (.*)$", text)
    documented = (ROOT / "docs/gateway.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^docker compose run --rm proxy (.*)$", documented) == found
    return [shlex.split(line) for line in found]


async def test_the_gateway_takes_its_first_member_before_its_first_start(tmp_path: Path) -> None:
    (service,) = proxies(GATEWAY / "compose.yaml")
    ours = {"COMFY_PROXY_SIMULATE": "1", "COMFY_PROXY_PORT": "0"}
    environment = os.environ | of_the_container(service, tmp_path) | ours

    def proxy(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "proxy", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    refused = proxy(*shlex.split(instruction("CMD").strip('[]"')))
    assert refused.returncode == 2
    assert "comfy-cloud-proxy member add NAME" in refused.stderr
    for arguments in commands_of_the_gateway():
        done = proxy(*arguments)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ccp_")
    async with serving(tmp_path / "data", environment=environment) as running:
        assert running.url.host == "0.0.0.0"
        assert await running.stop() == 0


MONITORING = ROOT / "examples/monitoring"


def documented_metrics() -> set[str]:
    table = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    return set(re.findall(r"(?m)^\| `(comfy_cloud_proxy_\w+)` \|", table))


@pytest.mark.parametrize("name", ["alerts.yaml", "dashboard.json"])
def test_monitoring_uses_metrics_that_exist(name: str) -> None:
    used = set(re.findall(r"comfy_cloud_proxy_\w+", (MONITORING / name).read_text("utf-8")))
    assert {re.sub(r"_bucket$", "", metric) for metric in used} <= documented_metrics()


def test_the_dashboard_shows_every_metric_that_is_documented() -> None:
    shown = (MONITORING / "dashboard.json").read_text(encoding="utf-8")
    missing = {name for name in documented_metrics() if name not in shown}
    assert missing == {"comfy_cloud_proxy_build_info"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_alerts() -> None:
    command = ["promtool", "check", "rules", str(MONITORING / "alerts.yaml")]
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("unit", sorted((ROOT / "examples/systemd").glob("*.service")), ids=str)
def test_systemd_units_name_settings_that_exist(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    known = {setting.environment for setting in SETTINGS}
    assert set(re.findall(r"(?m)^Environment=(\w+)=", text)) <= known
    assert "TimeoutStopSec=30" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "examples/systemd/comfy-cloud-proxy.service").read_text(encoding="utf-8")
    unit = tmp_path / "comfy-cloud-proxy.service"
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text), encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=str)
def test_workflows_follow_their_schema(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "github-workflows"]
    checked = subprocess.run([*command, str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_workflows_run_the_projects_own_commands() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        used = re.findall(r"(?m)- run: make (\w+)", path.read_text(encoding="utf-8"))
        assert set(used) <= targets


def test_workflows_test_every_python_that_the_package_takes() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (lowest,) = re.findall(r'requires-python = ">=(3\.\d+)"', pyproject)
    jobs = project(ROOT / ".github/workflows/ci.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"][0] == lowest


def test_a_python_without_venv_is_told_each_time(tmp_path: Path) -> None:
    """Debian's Python without python3-venv leaves a folder without pip behind."""
    python = tmp_path / "python3"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\n'
        f'for folder; do :; done\n{sys.executable} -m venv --without-pip "$folder"\n'
        'echo "The virtual environment was not created successfully because ensurepip is not '
        'available." >&2\nexit 1\n'
    )
    python.chmod(0o755)
    venv = tmp_path / "venv"
    for _ in range(2):
        demo = subprocess.run(
            ["make", "demo", f"PYTHON={python}", f"VENV={venv}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert demo.returncode != 0
        assert "apt install python3-venv" in demo.stdout
        assert "No module named pip" not in demo.stdout + demo.stderr
        assert not venv.exists()
