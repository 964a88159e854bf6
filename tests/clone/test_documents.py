"""The README and the tutorial, word for word, from a fresh clone: `make readme`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from servers import free_port

from proxy.simulator import Simulator

pytestmark = [pytest.mark.clone, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8188"


def newest() -> str:
    """The newest Python of this machine that can make environments."""
    for minor in range(30, 11, -1):
        python = shutil.which(f"python3.{minor}", path=f"/usr/bin:{os.environ['PATH']}")
        if python and not subprocess.run([python, "-c", "import ensurepip"]).returncode:
            return python
    return sys.executable


def oldest() -> str:
    """The oldest Python that the package supports, or else the Python of the tests."""
    return shutil.which("python3.11") or sys.executable


PYTHONS = dict.fromkeys(os.path.realpath(python) for python in (oldest(), newest()))


def blocks(page: str, language: str = "sh") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"(?s)```{language}\n(.*?)```", text)


@dataclass
class User:
    """Somebody at a shell in a clone, with a home folder in which nothing is yet."""

    clone: Path
    home: Path
    python: str
    port: int

    def environment(self, **more: str) -> dict[str, str]:
        names = {"PATH", "LANG", "SSL_CERT_FILE"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in names or name.startswith(("PIP_", "UV_"))
        }
        own = ("bin", ".local/bin", ".comfy-cloud-proxy/bin")
        path = ":".join([*(f"{self.home}/{folder}" for folder in own), kept["PATH"]])
        settings = {"COMFY_PROXY_PORT": str(self.port), "COMFY_SERVER": self.url}
        return {**kept, "HOME": str(self.home), "PATH": path, **settings, **more}

    @property
    def url(self) -> str:
        return ADDRESS.replace("8188", str(self.port))

    async def types(self, script: str, **environment: str) -> str:
        """Run lines to their end; what they print. Another port stands in for 8188."""
        async with self.typing(script, **environment) as process:
            out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()

    @asynccontextmanager
    async def typing(
        self, script: str, **environment: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run lines whose last one goes on; what is left of them is interrupted behind it."""
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-euo",
            "pipefail",
            "-c",
            script.replace("8188", str(self.port)),
            cwd=self.clone,
            env=self.environment(**environment),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGINT)
                await process.communicate()

    @asynccontextmanager
    async def serving(self, script: str, **environment: str) -> AsyncIterator[list[str]]:
        """Run lines of which the last one serves; what they printed before that."""
        async with self.typing(script, **environment) as process:
            assert process.stdout is not None
            output: list[str] = []
            while not (output and output[-1].startswith("listening on ")):
                line = await process.stdout.readline()
                assert line, "".join(output)
                output.append(line.decode())
            yield output


@pytest.fixture(params=PYTHONS, ids=lambda python: Path(python).name)
def user(request: pytest.FixtureRequest, tmp_path: Path) -> User:
    clone, home = tmp_path / "clone", tmp_path / "home"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    (home / "bin").mkdir(parents=True)
    python = home / "bin/python3"
    python.write_text(f'#!/bin/sh\nexec "{request.param}" "$@"\n')
    python.chmod(0o755)
    return User(clone, home, request.param, free_port())


async def get(url: str, token: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as http,
        http.get(url, headers=headers, ssl=_anyone()) as answer,
    ):
        return answer.status, await answer.text()


def _anyone() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_what_the_documents_say_works(user: User) -> None:
    await follow_the_tutorial(user)
    await follow_the_readme(user)


async def follow_the_tutorial(user: User) -> None:
    start, calls, first, second, cloud = blocks("docs/index.md")
    async with user.serving(start):
        output = await user.types(calls)
        assert '"queue_running": []' in output or '"queue_running":[]' in output
        assert "2 files" in await user.types(first)
        assert len(list((user.clone / "pictures").glob("*.png"))) == 2
        assert "2 files" in await user.types(second)
    async with Simulator() as simulator:
        simulator.add_account("comfyui-...", "creator")
        async with user.serving(cloud, COMFY_CLOUD_BASE_URL=str(simulator.base_url)) as output:
            assert any("Key accepted." in line for line in output)


async def follow_the_readme(user: User) -> None:
    install_uv = (
        "python3 -m venv ~/tools && ~/tools/bin/pip install -q uv && ln -s ~/tools/bin/uv ~/bin/uv"
    )
    demo, use, plain, _, team = blocks("README.md")
    output = await user.types(demo.replace("https://ADDRESS-OF-THIS-REPOSITORY", str(user.clone)))
    assert len(list((user.clone / "comfy-cloud-proxy/demo-output").glob("*.png"))) == 2
    assert "Next: .venv/bin/comfy-cloud-proxy --simulate" in output
    (client,) = blocks("README.md", "python")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    async with Simulator() as simulator:
        simulator.add_account("comfyui-...", "pro")
        cloud = {"COMFY_CLOUD_BASE_URL": str(simulator.base_url)}
        await user.types(install_uv)
        await user.types("".join(plain.splitlines(keepends=True)[:2]))
        async with user.serving(use, **cloud):
            status, page = await get(f"{user.url}/")
            assert (status, "ComfyUI" in page) == (200, True)
            (needs,) = re.findall(r"`(pip install [^'`]+)`", text)
            await user.types(needs)
            (user.clone / "client.py").write_text(client.replace("8188", str(user.port)))
            output = await user.types(f"{user.home}/.comfy-cloud-proxy/bin/python client.py")
            assert "progress 20\n" in output
            assert output.endswith("execution_success \n")
            shutil.copy(user.clone / "examples/text-to-image.json", user.clone / "workflow.json")
            (run,) = re.findall(r"`(comfy-cloud-proxy run [^`]+)`", text)
            assert "2 files" in await user.types(run)
        key = {"COMFY_CLOUD_API_KEY": "comfyui-..."}
        assert "Key accepted." in await user.types("comfy-cloud-proxy check", **cloud, **key)
        async with user.serving("comfy-cloud-proxy --simulate"):
            assert json.loads((await get(f"{user.url}/queue"))[1])["queue_pending"] == []
        await user.types(
            "openssl req -quiet -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem "
            "-days 2 -subj /CN=localhost"
        )
        async with user.serving(team, **cloud, **key) as output:
            (token,) = re.findall(r"(?m)^ccp_\S+", "".join(output))
            address = user.url.replace("http:", "https:")
            assert (await get(f"{address}/queue"))[0] == 401
            assert (await get(f"{address}/queue", token))[0] == 200
