"""A ComfyUI's disk, as a model for what the proxy shows of files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from proxy.translate.names import TYPES


def is_file(path: str) -> bool:
    """Also of names that no disk takes."""
    return os.path.isfile(path)  # noqa: PTH113


class Disk:
    """A ComfyUI's three folders on a real disk, and the rules by which it writes to them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for type_ in TYPES:
            (base / type_).mkdir(parents=True)

    def upload(self, data: bytes, name: str, subfolder: str, type_: str, overwrite: bool) -> str:
        """Raises `OSError` or `ValueError` where ComfyUI refuses or fails."""
        root = str(self.base / type_)
        folder = os.path.join(root, os.path.normpath(subfolder))  # noqa: PTH118
        target = os.path.abspath(os.path.join(folder, name))  # noqa: PTH100, PTH118
        if os.path.commonpath([root, target]) != root:
            raise ValueError("outside")
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        stem, extension = os.path.splitext(name)  # noqa: PTH122
        number, found = 0, False
        while not overwrite and os.path.exists(target):  # noqa: PTH110
            if Path(target).read_bytes() == data:
                found = True
                break
            number += 1
            name = f"{stem} ({number}){extension}"
            target = os.path.join(folder, name)  # noqa: PTH118
        if not found:
            Path(target).write_bytes(data)
        return name

    def save(self, data: bytes, prefix: str, type_: str) -> str:
        """The path of an output that a node writes."""
        path = self.next_output(prefix, type_)
        path.write_bytes(data)
        return str(path.relative_to(self.base / type_))

    def next_output(self, prefix: str, type_: str) -> Path:
        """Where a node will write its next output; makes the folder."""
        root = self.base / type_
        subfolder, stem = os.path.split(os.path.normpath(prefix))
        folder = root / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [0]
        for name in os.listdir(folder):  # noqa: PTH208
            if name.startswith(stem + "_"):
                with contextlib.suppress(ValueError):
                    numbers.append(int(name[len(stem) + 1 :].split("_")[0]))
        return folder / f"{stem}_{max(numbers) + 1:05}_.png"

    def view(self, name: str, subfolder: str, type_: str) -> Path | int:
        """The file that `GET /view` answers with, or the status of its refusal."""
        if not name or name.startswith("/") or ".." in name:
            return 400
        root = str(self.base / type_)
        folder = os.path.abspath(os.path.join(root, subfolder))  # noqa: PTH100, PTH118
        if os.path.commonpath([root, folder]) != root:
            return 403
        path = Path(folder) / os.path.basename(name)  # noqa: PTH119
        return path if is_file(str(path)) else 404

    def tidy(self) -> None:
        """Remove the empty folders that an upload leaves; we have none of them."""
        for folder, _, _ in os.walk(self.base, topdown=False):
            if Path(folder).parent != self.base and Path(folder) != self.base:
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()

    def listing(self, type_: str) -> dict[str, bytes]:
        root = self.base / type_
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
