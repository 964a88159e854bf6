"""Looks for known vulnerabilities of the packages in the lock files of this folder: `make audit`.

It fails for a vulnerability, and not for lack of a network: then it says that it was skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
#: Seconds for the packages of a file.
TIMEOUT = 120


def report(lock: Path) -> list[dict[str, Any]]:
    """Return what pip-audit says of each package of a lock file; nothing if it gets no answer."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
        command += ["--progress-spinner", "off", "--timeout", "15"]
        command += ["--format", "json", "--output", str(written), "--requirement", str(lock)]
        try:
            subprocess.run(command, check=False, capture_output=True, timeout=TIMEOUT)
            return list(json.loads(written.read_bytes())["dependencies"])
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return []


def conclude(packages: Iterable[Mapping[str, Any]]) -> tuple[int, str]:
    """Return the exit code and what is printed for the reports of all packages."""
    checked = [package for package in packages if "vulns" in package]
    if not checked:
        return 0, "Skipped: the list of vulnerabilities cannot be reached."
    lines = sorted(
        {
            f"{package['name']} {package['version']}: {found['id']}, fixed in "
            f"{', '.join(found['fix_versions']) or 'no version'}"
            for package in checked
            for found in package["vulns"]
        }
    )
    names = {package["name"] for package in checked}
    lines.append(f"{len(names)} packages checked, {len(lines)} vulnerabilities")
    return int(len(lines) > 1), "\n".join(lines)


def main() -> int:
    """Print what was found; 1 if there is a vulnerability."""
    code, text = conclude(
        package for lock in sorted(FOLDER.glob("*.lock")) for package in report(lock)
    )
    sys.stdout.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
