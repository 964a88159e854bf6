"""What a history entry of a job says: its end, its texts and its files, which are downloaded."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import aiohttp

from proxy.cli.comfy import Comfy
from proxy.cli.common import CommandError
from proxy.translate import output_files
from proxy.translate.reading import field_of, list_of, object_of

#: Maximum number of attempts at a download.
_ATTEMPTS = 3


def files_of(entry: dict[str, Any]) -> list[dict[str, str]]:
    """Return the files that the outputs of a history entry name, each once, ready for `GET
    /view`."""
    files: dict[tuple[str, ...], dict[str, str]] = {}
    for _, (_, _, filename, item) in output_files.files_of(entry.get("outputs")):
        file = {
            "filename": filename,
            "subfolder": str(item.get("subfolder") or ""),
            "type": str(item.get("type") or "output"),
        }
        files.setdefault(tuple(file.values()), file)
    return list(files.values())


def texts_of(entry: dict[str, Any]) -> list[str]:
    """Return the texts among the outputs of a history entry."""
    outputs = object_of(entry.get("outputs")).values()
    found = (item for output in outputs for item in list_of(field_of(output, "text")))
    return [item for item in found if isinstance(item, str)]


def require_writable(folder: Path) -> None:
    """Check that files can be written to the folder, or to the one that it would be created in.

    The folder is created with the first file. Raises `CommandError`.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"comfy-cloud-proxy")
    except OSError as error:
        raise _not_writable(folder, error) from None


async def download(comfy: Comfy, file: dict[str, str], folder: Path) -> Path:
    """Save a file beneath the folder and say where; nothing that is there is overwritten.

    Raises `CommandError` when the server does not give it or the folder cannot be written.
    """
    try:
        path, target = await asyncio.to_thread(_claim, folder, file)
    except OSError as error:
        raise _not_writable(folder, error) from None
    complete = False
    try:
        with target:
            await _fetch(comfy, file, target)
            complete = True
    except OSError as error:
        raise _not_writable(folder, error) from None
    finally:
        if not complete:
            path.unlink(missing_ok=True)
    return path


def _not_writable(folder: Path, error: OSError) -> CommandError:
    return CommandError(
        f"{folder} cannot be written ({error.strerror}): choose another folder with --output."
    )


async def _fetch(comfy: Comfy, file: dict[str, str], target: BinaryIO) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with comfy.view(file) as content:
                async for chunk in content.iter_chunked(1 << 16):
                    await asyncio.to_thread(target.write, chunk)
        except (aiohttp.ClientError, TimeoutError) as error:
            status = error.status if isinstance(error, aiohttp.ClientResponseError) else None
            if attempt == _ATTEMPTS or (status is not None and status < 500):
                reason = f"status {status}" if status is not None else str(error)
                raise CommandError(
                    f"The output {file['filename']} cannot be downloaded "
                    f"({reason or type(error).__name__}): try {comfy.base_url / 'view' % file}."
                ) from None
            target.seek(0)
            target.truncate()
            await asyncio.sleep(attempt)
        else:
            return


def _claim(folder: Path, file: dict[str, str]) -> tuple[Path, BinaryIO]:
    """Open a new file of the output's name, or of the name with ` (1)`, ` (2)`… in it."""
    wanted = folder.joinpath(*_parts(file["subfolder"]), (_parts(file["filename"]) or ["file"])[-1])
    wanted.parent.mkdir(parents=True, exist_ok=True)
    path, count = wanted, 0
    while True:
        try:
            return path, path.open("xb")
        except FileExistsError:
            count += 1
            path = wanted.with_stem(f"{wanted.stem} ({count})")


def _parts(path: str) -> list[str]:
    """Return the parts of a server's path that cannot lead out of a folder."""
    pure = PurePosixPath("".join(filter(str.isprintable, path)).replace("\\", "/"))
    return [part for part in pure.parts if part not in ("/", "..") and not part.endswith(":")]


def failure_of(entry: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return how the job failed: `execution_error` or `execution_interrupted` and its data.

    `None` if it did not. Servers without a `status` in their history keep only what succeeded.
    """
    status = entry.get("status")
    if not isinstance(status, dict) or status.get("status_str", "success") == "success":
        return None
    for message in reversed(status.get("messages") or ()):
        if message[0] in ("execution_error", "execution_interrupted"):
            return message[0], message[1]
    return "execution_error", {}
