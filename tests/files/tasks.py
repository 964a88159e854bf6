"""Tasks of the process for pictures, carried out in this one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from proxy.files import picture_tasks
from proxy.files.conversions import Conversion
from proxy.files.picture_worker import Task, TaskFiles


def done(task: Task, sources: Sequence[Path], targets: Sequence[Path] = (), **options: Any) -> Any:
    """The result of a task."""
    with ExitStack() as stack:
        files = TaskFiles(
            [stack.enter_context(path.open("rb")) for path in sources],
            [stack.enter_context(path.open("wb")) for path in targets],
            lambda _: None,
        )
        return task(files, **options)


def converted(path: Path, wanted: Conversion) -> bytes:
    """The converted picture."""
    target = path.with_name("converted")
    options = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    done(picture_tasks.convert, [path], [target], **options)
    return target.read_bytes()
