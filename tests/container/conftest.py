"""The real image, built once: the documented ways, on a base that this machine makes."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from container.oci import Store, documented, missing

ROOT = Path(__file__).parents[2]


def builds() -> list[dict[str, str]]:
    """Each `docker build` of the documents: its tag and its build arguments."""
    text = (ROOT / "docs/sidecar.md").read_text(encoding="utf-8")
    return [documented(shlex.split(line)) for line in re.findall(r"(?m)^docker build .*$", text)]


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """The images of the documents, by their tags. Skips where something is missing."""
    if why := missing():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="comfy-cloud-proxy-") as folder:
        place = Path(folder)
        place.chmod(0o711)
        store = Store(place)
        base = store.make_base()
        for arguments in builds():
            store.build(ROOT, **{"BASE": base, **arguments})
        yield store
