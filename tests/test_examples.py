"""The examples are what they say: projects of Docker Compose, settings, commands."""

from __future__ import annotations

import argparse
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

import aiohttp
import kubernetes_validate
import pytest
from backend import environment_of
from browser.reverse_proxy import nginx_text
from process import serving
from ruamel.yaml import YAML
from servers import free_port
from test_code_blocks import NGINX, make_certificate

from proxy.cli.serve import STOP_TIMEOUT
from proxy.settings import SETTINGS, load

ROOT = Path(__file__).parent.parent
COMPOSE = sorted((ROOT / "examples").glob("*/compose.yaml"))
IMAGE = "comfy-cloud-proxy"
GATEWAY = ROOT / "examples/gateway"
KUBERNETES = sorted((ROOT / "examples/kubernetes").glob("*.yaml"))
#: What may be in the files of secrets.
SECRETS = {
    "comfy_cloud_api_key": "comfyui-key",
    "database": "postgresql://proxy:geheim@postgres/proxy",
}
#: The folders of the containers.
PLACES = re.compile(r"^(file:)?(/data|/run/secrets|/blobs|/input|/output)")


def project(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8")))


def proxies(path: Path) -> list[dict[str, Any]]:
    services = project(path)["services"].values()
    return [
        service
        for service in services
        if service["image"].partition(":")[0] == IMAGE and "command" not in service
    ]


def volumes(service: Mapping[str, Any]) -> list[str]:
    """The volumes and folders of a service; empty for one without a name."""
    return [volume.rpartition(":")[0] for volume in map(_without_mode, service.get("volumes", ()))]


def _without_mode(volume: str) -> str:
    return volume.removesuffix(":ro")


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
    variables = image_environment() | substituted(service["environment"])
    for secret in service["secrets"]:
        (folder / "run/secrets").mkdir(exist_ok=True, parents=True)
        (folder / "run/secrets" / secret).write_text(SECRETS[secret])
    return placed(variables, folder)


def placed(variables: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Variables with the container's folders below `folder`."""
    return {
        name: PLACES.sub(lambda found: f"{found[1] or ''}{folder}{found[2]}", value)
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
        named = [name for name in volumes(service) if name]
        assert {name for name in named if not name.startswith(".")} <= set(whole["volumes"])
        assert all((path.parent / name).exists() for name in named if name.startswith("."))
        assert set(service.get("secrets", ())) <= set(whole["secrets"])
        assert set(service.get("networks", ())) <= {*whole["networks"], "default"}
        assert set(service.get("depends_on", ())) <= set(whole["services"])


@each_project
def test_its_proxies_are_bounded_and_reached_by_no_published_port(path: Path) -> None:
    builds = [service["build"] for service in proxies(path) if "build" in service]
    (context,) = [build if isinstance(build, str) else build["context"] for build in builds]
    assert (path.parent / context / "Dockerfile").resolve() == ROOT / "Dockerfile"
    for service in proxies(path):
        assert not {"ports", "user", "tmpfs"} & service.keys()
        assert {"mem_limit", "cpus", "pids_limit", "read_only", "cap_drop"} <= service.keys()
        grace = int(service["stop_grace_period"].removesuffix("s"))
        assert grace > STOP_TIMEOUT
        assert service["volumes"][0].rpartition(":")[2] == instruction("VOLUME")
    assert image_environment()["TMPDIR"] == instruction("VOLUME")


@each_project
def test_its_variables_are_settings_that_can_be_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for service in proxies(path):
        for name, value in of_the_container(service, tmp_path).items():
            monkeypatch.setenv(name, value)
        settings = load()
        assert settings.host == "0.0.0.0"
        assert str(settings.port) == instruction("EXPOSE")
        assert settings.data_dir == tmp_path / "data"
        assert settings.api_key_file is not None
        assert (settings.database is None) == (len(proxies(path)) == 1)


@each_project
def test_its_secrets_go_to_the_image_s_user_and_not_to_git(path: Path) -> None:
    whole, uid = project(path), instruction("USER").partition(":")[0]
    assert f"useradd --uid {uid} " in instruction("RUN")
    for secret in whole["secrets"].values():
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


def lines_of_docker() -> list[tuple[str, list[str]]]:
    """The page and the words of each `docker build` and `docker run` of the documents."""
    pages = [*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md")]
    texts = {page.name: page.read_text(encoding="utf-8").replace("\\\n", " ") for page in pages}
    return [
        (name, shlex.split(line, comments=True))
        for name, text in texts.items()
        for line in re.findall(r"(?m)^docker ((?:build|run) .*)$", text)
    ]


@pytest.mark.parametrize(("page", "words"), lines_of_docker(), ids=str)
def test_docker_gets_what_the_image_has(
    page: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docker = argparse.ArgumentParser(exit_on_error=False)
    for flag in ("-t", "--build-arg", "-p", "-v", "-e", "--name", "--network"):
        docker.add_argument(flag, action="append", default=[])
    for flag in ("-d", "--rm"):
        docker.add_argument(flag, action="store_true")
    docker.add_argument("image")
    docker.add_argument("command", nargs=argparse.REMAINDER)
    given = docker.parse_args(words[1:])
    if words[0] == "build":
        assert given.image == "."
        arguments = re.findall(r"(?m)^ARG (\w+)", dockerfile())
        assert {argument.partition("=")[0] for argument in given.build_arg} <= set(arguments)
        return
    if given.image == "your-application":
        return
    assert ["build", "-t", given.image] in [
        words[:3] for name, words in lines_of_docker() if name == page
    ]
    for published in given.p:
        address, _, port = published.rpartition(":")
        assert (address, port) == ("127.0.0.1:8188", instruction("EXPOSE"))
    for volume in given.v:
        assert volume.rpartition(":")[2] == instruction("VOLUME")
    passed = dict(argument.partition("=")[::2] for argument in given.e)
    for name, value in placed(image_environment() | passed, tmp_path).items():
        monkeypatch.setenv(name, value or "comfyui-key")
    if "--simulate" not in given.command:
        assert load().api_key is not None
    options = {option for option in given.command if option.startswith("--")}
    assert options <= {setting.option for setting in SETTINGS}
    assert "--insecure-allow-anyone" in options or load().insecure_allow_anyone


with_caddy = pytest.mark.parametrize("name", ["gateway", "cluster"])


@with_caddy
def test_caddy_is_trusted_and_its_address_is_never_given_to_another(name: str) -> None:
    path = ROOT / "examples" / name / "compose.yaml"
    whole = project(path)
    caddy = whole["services"]["caddy"]
    (pool,) = whole["networks"]["front"]["ipam"]["config"]
    address = ipaddress.ip_address(caddy["networks"]["front"]["ipv4_address"])
    for proxy in proxies(path):
        trusted = ipaddress.ip_network(proxy["environment"]["COMFY_PROXY_TRUSTED_PROXIES"])
        assert list(trusted.hosts()) == [address]
    assert address in ipaddress.ip_network(pool["subnet"])
    assert address not in ipaddress.ip_network(pool["ip_range"])
    assert address != ipaddress.ip_address(pool["gateway"])


@with_caddy
def test_caddy_hands_on_to_every_proxy(name: str) -> None:
    folder = ROOT / "examples" / name
    text = (folder / "Caddyfile").read_text(encoding="utf-8")
    services = project(folder / "compose.yaml")["services"]
    ours = {
        service for service in services if services[service] in proxies(folder / "compose.yaml")
    }
    assert set(re.findall(r"(\S+):(\d+)", text)) == {(name, instruction("EXPOSE")) for name in ours}
    (variable,) = re.findall(r"\{\$(\w+)\}", text)
    assert variable in services["caddy"]["environment"]


@pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed")
@with_caddy
def test_caddy_takes_the_configuration(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["caddy", "validate", "--adapter", "caddyfile", "--config", "Caddyfile"],
        cwd=ROOT / "examples" / name,
        env=os.environ | {"COMFY_DOMAIN": "comfy.example.com", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    config = tmp_path / "nginx.conf"
    config.write_text(nginx_text(tmp_path, "443 ssl", int(instruction("EXPOSE"))))
    done = subprocess.run(
        [str(NGINX), "-t", "-q", "-e", str(tmp_path / "error.log"), "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def manifests() -> list[dict[str, Any]]:
    texts = [path.read_text(encoding="utf-8") for path in KUBERNETES]
    return [dict(document) for text in texts for document in YAML(typ="safe").load_all(text)]


def containers() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The containers of the manifests, each with its pod."""
    pods = [
        manifest["spec"]["template"]["spec"]
        for manifest in manifests()
        if "template" in manifest["spec"]
    ]
    kinds = ("initContainers", "containers")
    return [(pod, container) for pod in pods for kind in kinds for container in pod.get(kind, ())]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda value: value["kind"])
def test_kubernetes_takes_the_manifests(manifest: dict[str, Any]) -> None:
    for version in ("1.32", "1.36"):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_pods_serve_until_they_have_left_the_service() -> None:
    (deployment,) = (manifest for manifest in manifests() if manifest["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (proxy,) = pod["containers"]
    (port,) = proxy["ports"]
    assert str(port["containerPort"]) == instruction("EXPOSE")
    sleeping = proxy["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > STOP_TIMEOUT + sleeping


async def test_pods_start_while_the_cloud_is_away(tmp_path: Path) -> None:
    (deployment,) = (manifest for manifest in manifests() if manifest["kind"] == "Deployment")
    (proxy,) = deployment["spec"]["template"]["spec"]["containers"]
    away = f"http://127.0.0.1:{free_port()}"
    environment = {"COMFY_CLOUD_API_KEY": "comfyui-key", "COMFY_CLOUD_BASE_URL": away}
    async with (
        serving(tmp_path, environment=environment) as running,
        aiohttp.ClientSession() as session,
    ):
        statuses = {}
        for name in ("startup", "readiness", "liveness"):
            path = proxy[f"{name}Probe"]["httpGet"]["path"]
            async with session.get(f"{running.url}{path}") as answer:
                statuses[name] = answer.status
    assert statuses == {"startup": 200, "readiness": 200, "liveness": 200}


def test_the_variables_of_pods_are_settings_that_can_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {"api-key": "comfyui-key", "database": SECRETS["database"]}
    folder = tmp_path / "run/secrets/comfy"
    folder.mkdir(parents=True)
    for pod, container in containers():
        (items,) = (volume["secret"]["items"] for volume in pod["volumes"] if "secret" in volume)
        for item in items:
            (folder / item["path"]).write_text(values[item["key"]])
        given = {
            variable["name"]: variable.get("value", "from a secret")
            for variable in container["env"]
        }
        for name, value in placed(image_environment() | given, tmp_path).items():
            monkeypatch.setenv(name, value)
        settings = load()
        assert settings.database is not None
        assert settings.database.get_secret_value() == SECRETS["database"]
        assert settings.data_dir == tmp_path / "data"


def commands_of_the_gateway() -> list[list[str]]:
    text = (GATEWAY / "compose.yaml").read_text(encoding="utf-8")
    found = re.findall(r"(?m)^# +docker compose run --rm proxy (.*)$", text)
    documented = (ROOT / "docs/gateway.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^docker compose run --rm proxy (.*)$", documented) == found
    return [shlex.split(line) for line in found]


async def test_the_gateway_takes_its_first_member_before_its_first_start(tmp_path: Path) -> None:
    (service,) = proxies(GATEWAY / "compose.yaml")
    ours = {"COMFY_PROXY_SIMULATE": "1", "COMFY_PROXY_PORT": "0"}
    ours |= environment_of(tmp_path / "data")
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


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_alerts() -> None:
    command = ["promtool", "check", "rules", str(MONITORING / "alerts.yaml")]
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("unit", sorted((ROOT / "examples/systemd").glob("*.service")), ids=str)
def test_systemd_units_name_settings_that_exist(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    known = {setting.environment for setting in SETTINGS}
    assert set(re.findall(r"(?m)^#?Environment=(\w+)=", text)) <= known
    assert "TimeoutStopSec=30" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("machines", ["one", "several"])
def test_systemd_takes_the_unit(tmp_path: Path, machines: str) -> None:
    text = (ROOT / "examples/systemd/comfy-cloud-proxy.service").read_text(encoding="utf-8")
    if machines == "several":
        text = re.sub(r"(?m)^#(?=\w+=)", "", text)
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


def test_a_python_without_venv_is_reported_each_time(tmp_path: Path) -> None:
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
