"""`demo`: a workflow through the local API, from nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.cli.common import PROGRAM, CommandError
from proxy.cli.run import Request, run
from proxy.cli.tables import say

#: The workflow of the documents, `examples/text-to-image.json`.
WORKFLOW = Path(__file__).with_name("text-to-image.json")
OUTPUT = Path("demo-output")


def demo() -> int:
    """Start a proxy on a free port, run a workflow on it, and save the pictures.

    The proxy runs on the simulator, or on Comfy Cloud if COMFY_CLOUD_API_KEY or
    COMFY_CLOUD_API_KEY_FILE is set. Return 0, or 1 if the proxy does not start or the workflow
    fails.
    """
    real = any(map(os.environ.get, ("COMFY_CLOUD_API_KEY", "COMFY_CLOUD_API_KEY_FILE")))
    with tempfile.TemporaryDirectory() as data, _proxy(data, simulate=not real) as url:
        if url is None:
            return 1
        try:
            code = run(Request([WORKFLOW], url, OUTPUT))
        except CommandError as error:
            say(str(error), err=True)
            return error.exit_code
    if not (code or real):
        say(_next_step())
    return code


def _next_step() -> str:
    """Return what a person does after the demo, with the command as it can be typed."""
    own = Path(sys.argv[0]).absolute()
    found = shutil.which(PROGRAM)
    if not found or Path(found).absolute() != own:
        step = f"{os.path.relpath(own)} --simulate"
    elif "UV" in os.environ:  # uvx, whose environment is on the PATH of this process alone
        step = "the same command, with --simulate in the place of demo"
    else:
        step = f"{PROGRAM} --simulate"
    return (
        "\nThe simulator draws landscapes, whatever the prompt is.\n"
        f"Next: {step}\nThen open http://127.0.0.1:8188/\n"
        "For nodes of your own, a deployment of Comfy can be an account: add --simulate-deployment "
        "to see one."
    )


@contextmanager
def _proxy(data: str, *, simulate: bool) -> Iterator[str | None]:
    """Run a proxy in a process of its own; yield its address, or `None` if it did not start."""
    command = [sys.executable, "-m", "proxy", "serve", "--port", "0", "--host", "127.0.0.1"]
    command += ["--data-dir", data, "--simulate" if simulate else "--no-simulate"]
    # In a session of its own: Ctrl-C is for the workflow, which is cancelled through the proxy.
    with subprocess.Popen(  # noqa: S603 (our own command)
        [*command, "--log-level", "warning"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            sys.stdout.write(line)
            sys.stdout.flush()
            yield line.split()[2] if line else None
        finally:
            process.terminate()
