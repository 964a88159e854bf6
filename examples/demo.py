"""`make demo`: a workflow through the proxy's local API, from nothing.

Starts the proxy on a free port, in front of the simulator or, where COMFY_CLOUD_API_KEY or
COMFY_CLOUD_API_KEY_FILE is set, before Comfy Cloud; submits `text-to-image.json` as any client
would, and saves the pictures to `./demo-output/`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.cli.common import CommandError
from proxy.cli.run import Request, run

WORKFLOW = Path(__file__).with_name("text-to-image.json")
OUTPUT = Path("demo-output")


def main() -> int:
    """Run the demo. Returns 0, or 1 where the proxy does not start or the workflow fails."""
    real = any(map(os.environ.get, ("COMFY_CLOUD_API_KEY", "COMFY_CLOUD_API_KEY_FILE")))
    with tempfile.TemporaryDirectory() as data, proxy(data, simulate=not real) as url:
        if url is None:
            return 1
        try:
            return run(Request([WORKFLOW], url, OUTPUT))
        except CommandError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code


@contextmanager
def proxy(data: str, *, simulate: bool) -> Iterator[str | None]:
    """A proxy in a process of its own, and where it listens; `None` if it could not start."""
    command = [sys.executable, "-m", "proxy", "serve", "--port", "0", "--host", "127.0.0.1"]
    command += ["--data-dir", data, "--simulate" if simulate else "--no-simulate"]
    # In a session of its own: Ctrl-C is for the workflow, which is cancelled through the proxy.
    with subprocess.Popen(
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


if __name__ == "__main__":
    sys.exit(main())
