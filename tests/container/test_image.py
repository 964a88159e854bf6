"""The image as it is documented: built, started without rights, used, asked, stopped."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from container.conftest import ROOT, builds
from container.oci import Store, new_volume, running
from test_examples import commands_of_the_gateway, project, substituted

pytestmark = [pytest.mark.container, pytest.mark.timeout(2400)]

SLIM, WITH_UI = "comfy-cloud-proxy", "comfy-cloud-proxy:ui"
SIDECAR, GATEWAY = (ROOT / f"examples/{name}/compose.yaml" for name in ("sidecar", "gateway"))
OPEN = {"COMFY_PROXY_INSECURE_ALLOW_ANYONE": "1", "COMFY_PROXY_SIMULATE": "1"}
URL = "http://127.0.0.1:8188"


def asked(path: str, token: str = "") -> tuple[str, ...]:
    """The command that prints the status and the body of a route, from within."""
    script = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "q = u.Request(sys.argv[1], headers={'X-API-Key': sys.argv[2]} if sys.argv[2] else {})\n"
        "try: a = u.urlopen(q)\n"
        "except e.HTTPError as error: a = error\n"
        "print(a.status); print(a.read().decode())"
    )
    return ("python", "-c", script, f"{URL}{path}", token)


def answer(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    assert done.returncode == 0, done.stderr
    status, _, body = done.stdout.partition("\n")
    return int(status), body


def test_the_documents_tag_an_image_with_and_one_without_the_web_interface() -> None:
    assert {build["tag"]: build.get("EXTRAS", "") for build in builds()} == {
        SLIM: "",
        WITH_UI: "ui",
    }


def test_it_runs_a_job_without_rights_and_keeps_it_in_the_volume(
    store: Store, tmp_path: Path
) -> None:
    data = new_volume(store, SLIM, tmp_path / "data")
    health = store.config(SLIM)["Healthcheck"]["Test"]
    assert health[0] == "CMD"
    with running(store, SLIM, environment=OPEN, mounts={"/data": data}) as proxy:
        proxy.wait_for("listening on http://0.0.0.0:8188")
        state = proxy.execute("cat", "/proc/1/status").stdout
        assert "Uid:\t10001\t10001\t10001\t10001\n" in state
        for capabilities in ("Prm", "Eff", "Bnd"):
            assert f"Cap{capabilities}:\t0000000000000000\n" in state
        assert "NoNewPrivs:\t1\n" in state
        assert "Read-only file system" in proxy.execute("touch", "/here", "/tmp/here").stderr
        assert proxy.execute(*health[1:]).returncode == 0
        workflow = (ROOT / "examples/text-to-image.json").read_text(encoding="utf-8")
        (data / "workflow.json").write_text(workflow, encoding="utf-8")
        done = proxy.execute(
            *("comfy-cloud-proxy", "run", "/data/workflow.json"), "--output", "/data/output"
        )
        assert done.returncode == 0, done.stderr
        assert "saved" in done.stdout
        assert proxy.stop() == 0
    assert list((data / "output").glob("*.png"))
    with running(store, SLIM, environment=OPEN, mounts={"/data": data}) as again:
        again.wait_for("listening on")
        status, body = answer(again.execute(*asked("/history")))
        assert (status, len(json.loads(body))) == (200, 1)
        assert again.stop() == 0


def test_it_is_unhealthy_when_nothing_answers(store: Store, tmp_path: Path) -> None:
    health = store.config(SLIM)["Healthcheck"]["Test"]
    environment = OPEN | {"COMFY_PROXY_PORT": "8189"}
    data = new_volume(store, SLIM, tmp_path / "data")
    with running(store, SLIM, environment=environment, mounts={"/data": data}) as proxy:
        proxy.wait_for("listening on")
        elsewhere = ("env", "COMFY_PROXY_PORT=8188")
        assert proxy.execute(*health[1:]).returncode == 0
        assert proxy.execute(*elsewhere, *health[1:]).returncode != 0


def test_the_refusal_to_listen_says_what_helps_in_a_container(store: Store, tmp_path: Path) -> None:
    data = new_volume(store, SLIM, tmp_path / "data")
    environment = {"COMFY_PROXY_SIMULATE": "1"}
    with running(store, SLIM, environment=environment, mounts={"/data": data}) as proxy:
        assert proxy.ended() == 2
    text = "".join(proxy.output)
    assert "COMFY_PROXY_INSECURE_ALLOW_ANYONE=1" in text
    assert "comfy-cloud-proxy member add NAME" in text
    assert "--host" not in text


@pytest.mark.parametrize(("tag", "served"), [(SLIM, False), (WITH_UI, True)])
def test_only_the_image_for_it_has_the_web_interface(
    store: Store, tmp_path: Path, tag: str, served: bool
) -> None:
    data = new_volume(store, tag, tmp_path / "data")
    with running(store, tag, environment=OPEN, mounts={"/data": data}) as proxy:
        proxy.wait_for("listening on")
        status, page = answer(proxy.execute(*asked("/")))
        assert status == 200
        assert ("<title>ComfyUI</title>" in page) is served
        assert ("docker build" in page) is not served


@pytest.mark.parametrize("tag", [SLIM, WITH_UI])
def test_it_has_nothing_that_installs_programs(store: Store, tag: str) -> None:
    with store.unpacked(tag) as root:
        for place in ("opt", "usr/local"):
            found = [path for path in (root / place).rglob("pip*") if path.name.startswith("pip")]
            assert [path for path in found if path.name.rstrip("0123456789.") == "pip"] == []


def test_the_sidecar_runs_as_it_is(store: Store, tmp_path: Path) -> None:
    services = project(SIDECAR)["services"]
    proxy, application = services["comfyui"], services["application"]
    assert proxy["image"] == application["image"] == SLIM
    data = new_volume(store, SLIM, tmp_path / "data")
    secrets = new_volume(store, SLIM, tmp_path / "secrets")
    (secrets / "comfy_cloud_api_key").touch()
    input_ = new_volume(store, SLIM, tmp_path / "input", "/input")
    output = new_volume(store, SLIM, tmp_path / "output", "/output")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 comfyui\n")
    workflow, inputs, outputs = application["volumes"]
    source, place, _ = workflow.split(":")
    shared = (inputs.partition(":")[0], outputs.partition(":")[0])
    assert proxy["volumes"][1:] == [f"{shared[0]}:/input:ro", f"{shared[1]}:/output"]
    with running(
        store,
        SLIM,
        environment=substituted(proxy["environment"], COMFY_PROXY_SIMULATE="1"),
        mounts={"/data": data, "/run/secrets": secrets, "/input": input_, "/output": output},
        read_only=proxy["read_only"],
    ) as comfyui:
        comfyui.wait_for("listening on")
        with running(
            store,
            SLIM,
            *application["command"],
            mounts={
                place: (SIDECAR.parent / source).resolve(),
                outputs.partition(":")[2]: output,
                "/etc/hosts": hosts,
            },
            read_only=application.get("read_only", False),
            network=comfyui.network,
        ) as program:
            assert program.ended() == 0, program.output
        assert "saved" in "".join(program.output)
        assert comfyui.stop() == 0
    assert list(output.glob("*.png"))


def test_the_gateway_lets_in_its_first_member_alone(store: Store, tmp_path: Path) -> None:
    proxy = project(GATEWAY)["services"]["proxy"]
    assert (proxy["image"], proxy["build"]["args"]) == (WITH_UI, {"EXTRAS": "ui"})
    data = new_volume(store, WITH_UI, tmp_path / "data")
    secrets = new_volume(store, WITH_UI, tmp_path / "secrets")
    (secrets / "comfy_cloud_api_key").touch()
    environment = substituted(proxy["environment"], COMFY_PROXY_SIMULATE="1")
    mounts = {"/data": data, "/run/secrets": secrets}
    for command in commands_of_the_gateway():
        with running(store, WITH_UI, *command, environment=environment, mounts=mounts) as program:
            assert program.ended() == 0, program.output
    token = next(word for word in "".join(program.output).split() if word.startswith("ccp_"))
    with running(store, WITH_UI, environment=environment, mounts=mounts) as gateway:
        gateway.wait_for("listening on")
        assert answer(gateway.execute(*asked("/queue")))[0] == 401
        assert answer(gateway.execute(*asked("/queue", token)))[0] == 200
        assert gateway.stop() == 0
