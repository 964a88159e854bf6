"""`catalog save`: the list of nodes of a ComfyUI as a file, for a deployment with the same
nodes."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from yarl import URL

from proxy.catalog.owners import split_owners
from proxy.cli.common import CommandError, UsageError
from proxy.cli.tables import say
from proxy.cloud.errors import CloudError
from proxy.cloud.v2.catalog import NodeList


def save(address: str, target: Path) -> int:
    """Write the list of a ComfyUI into a file, whole or not at all. Return 0."""
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{address} is not the address of a ComfyUI: begin it with http://.")
    try:
        body = asyncio.run(NodeList(URL(address)).read())
        classes, _ = split_owners(body)
    except (CloudError, ValueError) as error:
        raise CommandError(
            f"{address} returned no list of nodes ({error}): start ComfyUI there, or correct the "
            "address."
        ) from None
    try:
        with tempfile.NamedTemporaryFile(
            dir=target.absolute().parent, prefix=".catalog-", delete=False
        ) as file:
            file.write(body)
        Path(file.name).replace(target)
    except OSError as error:
        raise CommandError(
            f"{target} cannot be written ({error.strerror}): choose another file."
        ) from None
    say(f"{len(classes):,} node classes in {target}.")
    return 0
