"""What a node class is: its description in `object_info` form and the function that runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

#: An input as `object_info` writes it: `["INT", {"default": 1}]` or `[["a", "b"], {}]`.
InputSpec: TypeAlias = Sequence[Any]


class Context(Protocol):
    """What a running node may do besides computing.

    Nothing here blocks but `step`, where a node should stand once per unit of its work: it paces
    the run, and a cancel takes effect there (as at any other await).
    """

    node_id: str
    prompt: dict[str, Any]
    extra_data: dict[str, Any]

    def progress(self, value: float, maximum: float) -> None:
        """Tell how far the node is. A picture of the same step is to be shown before."""

    def picture(self, image: bytes, image_type: str = "image/jpeg") -> None:
        """Show an encoded picture: a preview, or a result that goes over the websocket."""

    def text(self, text: str) -> None:
        """Show a text on the node."""

    async def step(self) -> None:
        """Wait as long as the pace of the run asks for."""

    def load(self, name: str) -> bytes:
        """Return the bytes of an upload or an output, by its name as it stands in the graph.

        Raises `KeyError` for an unknown name.
        """

    def save(
        self,
        data: bytes,
        *,
        extension: str,
        prefix: str,
        type: str = "output",  # noqa: A002
    ) -> dict[str, Any]:
        """Store a file; answers its item `{"filename", "subfolder", "type"}` for the ui.

        `extension` is with its dot (".png"); `type` is "output" or "temp".
        """


@dataclass(frozen=True, slots=True)
class Output:
    """What a run of a node gives: a value per output slot, and what the client is shown."""

    values: tuple[Any, ...] = ()
    ui: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Blocker:
    """A value that no node behind it runs with, as ComfyUI's `ExecutionBlocker`.

    With a message the first of these nodes tells it as an error, which does not end the run.
    """

    message: str | None = None


Run: TypeAlias = Callable[[dict[str, Any], Context], Awaitable[Output | tuple[Any, ...] | None]]
#: Says whether the cloud has a file, by its name as it stands in the graph ("x.png [output]").
Files: TypeAlias = Callable[[str], bool]
#: Looks at the given inputs: `True`, or `False` or the reason for a `custom_validation_failed`.
Check: TypeAlias = Callable[[dict[str, Any], Files], bool | str]


@dataclass(frozen=True)
class NodeClass:
    """A node class.

    `run` receives the values of the inputs by name (hidden ones too) and a `Context`; it returns
    a tuple of the output values, or an `Output` where it has a ui. What it raises is the node's
    failure. `check` is called at validation with those of the inputs named in `checks` that are
    not links; ComfyUI's own checks of lists and bounds are then left out for these inputs.
    `volatile` nodes are never taken from the cache. `info` adds or replaces fields of
    `object_info` (`api_node`, `deprecated`, `output_tooltips`, `search_aliases`...).
    """

    name: str
    run: Run
    required: Mapping[str, InputSpec] = field(default_factory=dict)
    optional: Mapping[str, InputSpec] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    output_names: tuple[str, ...] | None = None
    output_node: bool = False
    display_name: str | None = None
    category: str = "simulator"
    description: str = ""
    python_module: str = "nodes"
    check: Check | None = None
    checks: tuple[str, ...] = ()
    volatile: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self) -> dict[str, InputSpec]:
        """Return the required and the optional inputs."""
        return {**self.required, **self.optional}

    def object_info(self) -> dict[str, Any]:
        """Return the class as `GET /object_info` shows it, with the fields of the newest
        ComfyUI."""
        groups: dict[str, Mapping[str, Any]] = {"required": self.required}
        if self.optional:
            groups["optional"] = self.optional
        if self.hidden:
            groups["hidden"] = self.hidden
        return {
            "input": {group: dict(specs) for group, specs in groups.items()},
            "input_order": {group: list(specs) for group, specs in groups.items()},
            "is_input_list": False,
            "output": list(self.outputs),
            "output_is_list": [False] * len(self.outputs),
            "output_name": list(self.output_names or self.outputs),
            "name": self.name,
            "display_name": self.display_name or self.name,
            "description": self.description,
            "python_module": self.python_module,
            "category": self.category,
            "output_node": self.output_node,
            "has_intermediate_output": False,
            "search_aliases": [],
            **self.info,
        }


NodeClasses: TypeAlias = Mapping[str, NodeClass]
