"""Metadata of a release: the addresses of the project, and a README with absolute links.

The workflow of a release sets PROJECT_URL to the address of the repository, and GITHUB_REF_NAME to
the tag. Without PROJECT_URL there are no addresses, and links stay relative.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReleaseMetadata(MetadataHookInterface):
    """Sets `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling with the table `project`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if address := os.environ.get("PROJECT_URL"):
            version = os.environ.get("GITHUB_REF_NAME", "main")
            text = absolute(text, address, version)
            metadata["urls"] = {
                "Documentation": f"{address}/blob/{version}/docs/index.md",
                "Source": address,
                "Changelog": f"{address}/blob/{version}/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text: str, address: str, version: str) -> str:
    """The text with links to a version in the repository instead of relative links."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[1].startswith("!") else "blob"
        return f"{found[1]}({address}/{kind}/{version}/{found[2]})"

    return re.sub(r"(!?\[[^\]]*\])\((?!https?:|#)([^)]+)\)", link, text)
