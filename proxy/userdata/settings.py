"""A member's settings: a file among its user data, as in ComfyUI. Everything here blocks."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

import structlog

from proxy.translate import codec
from proxy.userdata.disk import Disk
from proxy.userdata.names import BadNameError

log = structlog.get_logger(__name__)

FILE = "comfy.settings.json"


class SettingsFile:
    """The settings on a disk. Methods raise `StorageError` when it refuses."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._changing = threading.Lock()

    def read(self) -> dict[str, Any]:
        """All settings; none where the file is missing or is no JSON object."""
        try:
            settings = codec.loads(self._disk.read(FILE))
        except FileNotFoundError:
            return {}
        except (ValueError, BadNameError):
            settings = None
        if not isinstance(settings, dict):
            log.warning("settings_read_failed", file=FILE)
            return {}
        return settings

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set some and keep the others."""
        with self._changing:
            settings = {**self.read(), **changes}
            self._disk.write(FILE, json.dumps(settings, indent=4).encode())
