"""What the person sees of a running workflow: nodes, steps and previews."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment

from proxy.translate.frames import CloudPicture, parse_frame
from proxy.translate.reading import field_of


class TerminalPictures:
    """Pictures in this terminal: by the protocols of kitty or Sixel (iTerm2 and others), or blocks.

    The terminal is asked what it can, which takes a moment.
    """

    #: Height of a picture in lines of text.
    HEIGHT = 16

    def __init__(self, console: Console) -> None:
        self._image: Any = None
        #: Whether pictures are more than colored blocks.
        self.sharp = False
        ours = console.file is sys.stdout and console.is_terminal and sys.stdin.isatty()
        if ours and not console.no_color and not console.is_dumb_terminal:
            from textual_image import renderable

            logging.getLogger("textual_image").setLevel(logging.ERROR)
            self._image = renderable.Image
            if renderable.Image is renderable.SixelImage and not _shows_sixel():
                self._image = renderable.HalfcellImage
            self.sharp = self._image is not renderable.HalfcellImage
            # The terminal is asked for the size of its letters here, and not while it draws.
            Measurement.get(console, console.options, self._image(Image.new("L", (1, 1))))

    def drawn(self, picture: Path | io.BytesIO) -> _Drawn | None:
        """Return what rich prints; `None` if this is no picture, or none can be shown."""
        if self._image is None:
            return None
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(picture) as opened:
                opened.thumbnail((1024, 1024))
                return _Drawn(self._image(opened.copy(), height=self.HEIGHT))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None


def _shows_sixel() -> bool:
    """Return whether a terminal that says that it knows Sixel also shows it.

    tmux (3.5a in Debian) always says so, and drops the pictures unless the terminal around it knows
    Sixel, too.
    """
    if "TMUX" not in os.environ:
        return True
    query = ("tmux", "display-message", "-p", "#{client_termfeatures}")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=2, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False
    return "sixel" in done.stdout.strip().split(",")


class _Drawn:
    """A picture that is rendered once, however often it is shown."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self._segments: list[Segment] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._segments is None:
            self._segments = list(console.render(self._image, options))
        return self._segments

    def forget(self) -> None:
        """Free what the terminal keeps of it."""
        self._image.cleanup()


class _Bars(Progress):
    """Bars below the newest preview."""

    picture: _Drawn | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield what is drawn ten times a second."""
        if self.picture is not None:
            yield self.picture
        yield from super().get_renderables()


#: The words for nodes that were running when a run did not succeed.
_BROKEN_OFF = {"execution_error": "failed", "execution_interrupted": "stopped"}


class Display:
    """Bars for the workflow and for each node at work, and a line for each node that is done.

    Where the output is no terminal there are only the lines.
    """

    def __init__(
        self, graph: Mapping[str, Any], console: Console, *, previews: bool = False
    ) -> None:
        self.previews = 0
        self._ahead = 0
        self._pictures = TerminalPictures(console) if previews else None
        self._graph = graph
        self._console = console
        #: The nodes at work.
        self._running: dict[str, Task] = {}
        self._done: set[str] = set()
        self._bars = _Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=4,  # a preview goes over the line each time
            disable=not console.is_terminal,
            transient=True,
        )
        self._whole = self._bars.add_task("waiting", total=len(graph))

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Write a line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, path: Path) -> None:
        """Show a picture, where the terminal can."""
        if self._pictures is not None and self._pictures.sharp:
            picture = self._pictures.drawn(path)
            if picture is not None:
                self._console.print(picture)

    def waiting(self, ahead: int) -> None:
        """Say how many jobs come first."""
        if ahead != self._ahead:
            self._ahead = ahead
            text = f"waiting, {counted(ahead, 'job')} ahead"
            self._bars.update(self._whole, description=text)
            if not self._console.is_terminal:
                self.say(text)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take a text message about the job."""
        if kind == "execution_start":
            self._bars.update(self._whole, description="running")
        elif kind == "execution_cached":
            for node in data.get("nodes") or ():
                self._finish(str(node), "cached")
        elif kind == "executing":
            self._executing(data.get("display_node") or data.get("node"))
        elif kind in _BROKEN_OFF:
            for node_id in list(self._running):
                self._finish(node_id, _BROKEN_OFF[kind])
        elif kind == "progress" and data.get("node") is not None:
            self._progress(str(data["node"]), data.get("value"), data.get("max"))
        elif kind == "progress_state":
            for node_id, state in (data.get("nodes") or {}).items():
                if isinstance(state, dict):
                    self._state(str(state.get("display_node_id") or node_id), state)

    def frame(self, frame: bytes, prompt_id: str) -> None:
        """Take a binary message; count it if it is a preview and not another job's."""
        preview = parse_frame(frame)
        if not isinstance(preview, CloudPicture) or preview.prompt_id not in (None, prompt_id):
            return
        node = preview.display_node_id or next(reversed(self._running), None)
        self.previews += 1
        if self._pictures is not None:
            before = self._bars.picture
            self._bars.picture = self._pictures.drawn(io.BytesIO(preview.image)) or before
            if before not in (None, self._bars.picture):
                before.forget()
        if node in self._running:
            task = self._running[node]
            count = task.fields["previews"] + 1
            name = f"{self.name(node)}, {counted(count, 'preview')}"
            self._bars.update(task.id, description=name, previews=count)

    def name(self, node_id: object) -> str:
        """Return a node's name for people: class and id, and its title where it has another."""
        node = self._graph.get(str(node_id))
        if node is None:
            return f"node {node_id}"
        title, kind = field_of(node, "_meta", "title"), str(node["class_type"])
        named = f' "{title}"' if title and title != kind else ""
        return f"{kind} ({node_id}){named}"

    def _executing(self, node: object) -> None:
        for other in list(self._running):
            if other != str(node):
                self._finish(other)
        if node is not None:
            self._start(str(node))

    def _state(self, node_id: str, state: dict[str, Any]) -> None:
        if state.get("state") == "running":
            self._progress(node_id, state.get("value"), state.get("max"))
        elif state.get("state") == "finished" and node_id in self._running:
            self._finish(node_id)

    def _progress(self, node_id: str, value: object, maximum: object) -> None:
        self._start(node_id)
        if (task := self._running.get(node_id)) is None:
            return
        if isinstance(value, int | float) and isinstance(maximum, int | float):
            self._bars.update(task.id, completed=value)
            task.total = maximum or None

    def _start(self, node_id: str) -> None:
        if node_id not in self._running and node_id not in self._done:
            self._bars.add_task(self.name(node_id), total=None, previews=0)
            self._running[node_id] = self._bars.tasks[-1]

    def _finish(self, node_id: str, word: str = "done") -> None:
        if node_id in self._done:
            return
        self._done.add(node_id)
        self._bars.update(self._whole, completed=len(self._done & self._graph.keys()))
        task = self._running.pop(node_id, None)
        line = f"{word:<5} {self.name(node_id)}"
        if task is not None:
            self._bars.remove_task(task.id)
            if task.total is not None and task.total > 1:
                line += f"  {task.completed:g}/{task.total:g} steps"
            if previews := task.fields["previews"]:
                line += f"  {counted(previews, 'preview')}"
            line += f"  {task.elapsed or 0:.1f} s"
        self.say(line)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 file`, `2 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
