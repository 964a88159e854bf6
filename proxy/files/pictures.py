"""Untrusted pictures: decoded and encoded in processes with limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from proxy.files import picture_tasks
from proxy.files.conversions import Conversion
from proxy.files.opened_pictures import MAX_PIXELS, NotAPictureError, TooManyPixelsError
from proxy.files.picture_worker import HEADER_SECONDS, Task, UnusualError, name_of
from proxy.members.member import LOCAL
from proxy.runtime.processes import EndedError, Processes
from proxy.sharing.turns import Turns
from proxy.translate.assets import picture_metadata
from proxy.translate.errors import LocalError

#: Maximum number of usual pictures that are processed concurrently; beside them one of the others,
#: and one header.
WORKERS = 2


class PictureHeader(Struct, frozen=True):
    """What the header of a picture says; width and height are unknown if it has too many pixels."""

    width: int | None
    height: int | None

    @property
    def metadata(self) -> bytes | None:
        """The metadata of the picture's record."""
        if self.width is None or self.height is None:
            return None
        return picture_metadata(self.width, self.height)


def unreadable(filename: str, error: NotAPictureError) -> LocalError:
    """Return the error of a file that is not a picture, or has too many pixels."""
    if isinstance(error, TooManyPixelsError):
        return LocalError(
            "image_too_large",
            f"{filename} has more than {error.max_pixels} pixels, the maximum for this request; "
            "use a smaller picture.",
            extra_info={"max_pixels": error.max_pixels},
        )
    return LocalError(
        "invalid_image", f"{filename} cannot be used as a picture: {error}; send a complete file."
    )


def _wanted(
    task: Task, sources: Sequence[Path], targets: Sequence[Path] = (), **options: Any
) -> dict[str, Any]:
    """Return a task of a usual picture, as the process reads it."""
    return {
        "task": name_of(task),
        "sources": [str(path) for path in sources],
        "targets": [str(path) for path in targets],
        "options": options,
        "is_usual": True,
    }


class PictureWorkers:
    """Processes pictures in a few processes.

    A member has one picture at a time, so that nobody occupies all processes; the only member of a
    proxy without tokens may. What takes longer than a usual picture gives its turn to others, and
    is done again beside these. Headers are read in a third place, so that uploads wait for no
    conversion.
    """

    def __init__(self) -> None:
        self._processes = Processes("proxy.files.picture_worker")
        self._usual = Turns(1, WORKERS, limits={LOCAL: WORKERS})
        self._others = Turns(1, 1)
        self._headers = Turns(1, 1)

    async def header(self, member: str, path: Path) -> PictureHeader | None:
        """Return what a file's header says, `None` for one that is no picture, or takes too much
        memory or time. Raises `LocalError`."""
        async with self._headers.hold(member):
            try:
                width, height = await self._done(_wanted(picture_tasks.size, [path]))
            except TooManyPixelsError:
                return PictureHeader(None, None)
            except (NotAPictureError, EndedError):
                return None
            return PictureHeader(width, height)

    async def convert(self, member: str, source: Path, target: Path, wanted: Conversion) -> None:
        """Write a converted picture. Raises `NotAPictureError`, `LocalError`."""
        options = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
        await self.run(member, picture_tasks.convert, [source], [target], **options)

    async def run(
        self,
        member: str,
        task: Task,
        sources: Sequence[Path],
        targets: Sequence[Path] = (),
        **options: Any,
    ) -> Any:
        """Wait for the member's turn, let a process do a task, and return its result.

        A caller that is cancelled stops the work. Raises `NotAPictureError`, also where it takes
        too much memory or time, and `LocalError` if there can be no process.
        """
        wanted = _wanted(task, sources, targets, **options)
        async with self._usual.hold(member):
            with suppress(EndedError, UnusualError):
                return await self._done(wanted)
        async with self._others.hold(member):
            try:
                return await self._done({**wanted, "is_usual": False})
            except EndedError as error:
                pixels = error.progress.get("pixels", MAX_PIXELS + 1)
                raise TooManyPixelsError(pixels - 1) from None

    async def _done(self, wanted: Mapping[str, Any]) -> Any:
        """Return the result of a task. Raises `NotAPictureError`, `LocalError`, `EndedError`, and
        `UnusualError` for a picture that is not usual."""
        try:
            answer = await self._processes.run(wanted, HEADER_SECONDS)
        except OSError as error:
            raise LocalError(
                "pictures_unavailable",
                "The proxy cannot start the process that reads pictures; try again later.",
                kind="unavailable",
                retry_after=5.0,
            ) from error
        match answer:
            case {"result": result}:
                return result
            case {"is_usual": False}:
                raise UnusualError
            case {"max_pixels": max_pixels}:
                raise TooManyPixelsError(max_pixels)
            case {"refusal": [text, kind, reason]}:
                raise NotAPictureError(text, kind, reason)
        raise RuntimeError(f"a picture could not be processed: {answer}")

    async def close(self) -> None:
        """End the processes."""
        await self._processes.close()
