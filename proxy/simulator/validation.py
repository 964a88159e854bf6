"""Which outputs of a graph can run, and what is wrong with the others, as ComfyUI says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from proxy.simulator.errors import frames, type_name
from proxy.simulator.nodes import Files, InputSpec, NodeClass, NodeClasses

#: `{"type", "message", "details", "extra_info"}`.
Reason: TypeAlias = dict[str, Any]

#: Combos with more values than this are not spelled out in errors.
LONG_LIST = 20


@dataclass(frozen=True, slots=True)
class GraphVerdict:
    """What a validation found.

    `outputs` are the output nodes that can run; `node_errors` what is wrong with single nodes;
    `error` is `None` when at least one output can run (`node_errors` may be filled then, too).
    """

    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, Any] = field(default_factory=dict)
    error: Reason | None = None


def validate(
    graph: object, *, catalog: NodeClasses, targets: list[str] | None, files: Files
) -> GraphVerdict:
    """Check a graph; changes values in it to the type of their input ("7" to 7), as ComfyUI does.

    `targets` restricts the output nodes to those named (`partial_execution_targets`). `files`
    says whether a file is known by its name as it stands in the graph ("x.png [output]").
    Never raises.
    """
    if isinstance(graph, str | list) and not graph:
        graph = {}
    if not isinstance(graph, dict):
        return GraphVerdict(
            error=_reason(
                "invalid_prompt",
                "The prompt must be an object of nodes.",
                f"It is {type(graph).__name__!r}.",
            )
        )
    for node_id, node in graph.items():
        error = _unknown_class(node_id, node, catalog)
        if error is not None:
            return GraphVerdict(error=error)
    outputs = [
        node_id
        for node_id, node in graph.items()
        if catalog[node["class_type"]].output_node and (targets is None or node_id in targets)
    ]
    if not outputs:
        return GraphVerdict(error=_reason("prompt_no_outputs", "Prompt has no outputs", ""))
    return _Validator(graph, catalog, files).outputs(outputs)


def _reason(kind: str, message: str, details: str, **extra_info: Any) -> Reason:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _unknown_class(node_id: str, node: object, catalog: NodeClasses) -> Reason | None:
    """Return what the newest ComfyUI says of a node whose class it does not have."""
    class_type = node.get("class_type") if isinstance(node, dict) else None
    if isinstance(class_type, str) and class_type in catalog:
        return None
    meta = node.get("_meta") if isinstance(node, dict) else None
    title = meta.get("title") if isinstance(meta, dict) else None
    if isinstance(node, dict) and "class_type" in node:
        title = class_type if title is None else title
        message = f"Node '{title}' not found. The custom node may not be installed."
    else:
        message = (
            f"Node '{title or f'ID #{node_id}'}' has no class_type."
            " The workflow may be corrupted or a custom node is missing."
        )
    return _reason(
        "missing_node_type",
        message,
        f"Node ID '#{node_id}'",
        node_id=node_id,
        class_type=class_type,
        node_title=title,
    )


@dataclass(slots=True)
class _NodeVerdict:
    """What is known of a node: `valid` is false, without reasons, below a node with errors."""

    valid: bool
    reasons: list[Reason]


class _Validator:
    def __init__(self, graph: dict[str, Any], catalog: NodeClasses, files: Files) -> None:
        self._graph = graph
        self._catalog = catalog
        self._files = files
        self._verdicts: dict[str, _NodeVerdict] = {}
        self._path: list[str] = []

    def outputs(self, outputs: list[str]) -> GraphVerdict:
        good: list[str] = []
        node_errors: dict[str, Any] = {}
        lines: list[str] = []
        for output in outputs:
            try:
                verdict = self._node(output)
            except Exception as error:  # noqa: BLE001 - any junk in the graph ends here
                verdict = self._verdicts[output] = _NodeVerdict(False, [_exception(error)])
            if verdict.valid:
                good.append(output)
                continue
            lines += [f"{reason['message']}: {reason['details']}" for reason in verdict.reasons]
            self._blame(output, node_errors)
        if good:
            return GraphVerdict(good, node_errors)
        message = "Prompt outputs failed validation"
        error_ = _reason("prompt_outputs_failed_validation", message, "\n".join(lines))
        return GraphVerdict(node_errors=node_errors, error=error_)

    def _blame(self, output: str, node_errors: dict[str, Any]) -> None:
        """Blame every node found bad so far for an output that fails after it, as ComfyUI does."""
        for node_id, verdict in self._verdicts.items():
            if verdict.valid or not verdict.reasons:
                continue
            entry = node_errors.setdefault(
                node_id,
                {
                    "errors": verdict.reasons,
                    "dependent_outputs": [],
                    "class_type": self._graph[node_id]["class_type"],
                },
            )
            entry["dependent_outputs"].append(output)

    def _node(self, node_id: str) -> _NodeVerdict:
        if node_id in self._verdicts:
            return self._verdicts[node_id]
        if node_id in self._path:
            return self._cycle(node_id)
        node = self._graph[node_id]
        inputs = node["inputs"]
        node_class = self._catalog[node["class_type"]]
        reasons: list[Reason] = []
        valid = True
        for name, spec in node_class.inputs().items():
            if name not in inputs:
                if name in node_class.required:
                    reasons.append(_missing(name))
            elif isinstance(inputs[name], list):
                found = self._link(node_id, name, spec, inputs[name])
                valid = valid and found is None
                reasons += found or []
            else:
                reasons += _value(inputs, name, spec, checked=name in node_class.checks)
        reasons += self._custom(node_class, inputs)
        cycle = self._verdicts.get(node_id, _NodeVerdict(True, []))
        reasons = cycle.reasons + [reason for reason in reasons if reason not in cycle.reasons]
        verdict = _NodeVerdict(valid and not reasons, reasons)
        self._verdicts[node_id] = verdict
        return verdict

    def _link(
        self, node_id: str, name: str, spec: InputSpec, link: list[Any]
    ) -> list[Reason] | None:
        """Return what is wrong with a link: `None` for a good one, no reasons where the other node
        is to blame."""
        config = _config(spec)
        if len(link) != 2:
            return [
                _reason(
                    "bad_linked_input",
                    "Bad linked input, must be a length-2 list of [node_id, slot_index]",
                    name,
                    input_name=name,
                    input_config=config,
                    received_value=link,
                )
            ]
        source, slot = link
        received = self._catalog[self._graph[source]["class_type"]].outputs[slot]
        if not _fits(received, spec[0]):
            return [
                _reason(
                    "return_type_mismatch",
                    "Return type mismatch between linked nodes",
                    f"{name}, received_type({received}) mismatch input_type({spec[0]})",
                    input_name=name,
                    input_config=config,
                    received_type=received,
                    linked_node=link,
                )
            ]
        self._path.append(node_id)
        try:
            return None if self._node(source).valid else []
        except Exception as error:  # noqa: BLE001 - told as the linked node's error
            self._verdicts[source] = _NodeVerdict(
                False, [_inner_exception(error, name, config, link)]
            )
            return []
        finally:
            self._path.pop()

    def _cycle(self, node_id: str) -> _NodeVerdict:
        path = [*self._path[self._path.index(node_id) :], node_id]
        members = list(dict.fromkeys(path))
        details = " -> ".join(f"{member} ({self._graph[member]['class_type']})" for member in path)
        for member in members:
            reason = _reason(
                "dependency_cycle",
                "Dependency cycle detected",
                details,
                node_id=member,
                cycle_nodes=members,
            )
            self._verdicts[member] = _NodeVerdict(False, [reason])
        return self._verdicts[node_id]

    def _custom(self, node_class: NodeClass, inputs: dict[str, Any]) -> list[Reason]:
        given = {
            name: inputs[name]
            for name in node_class.checks
            if name in inputs and not isinstance(inputs[name], list)
        }
        if node_class.check is None or not given:
            return []
        answer = node_class.check(given, self._files)
        if answer is True:
            return []
        return [
            _reason(
                "custom_validation_failed",
                "Custom validation failed for node",
                name if answer is False else f"{name} - {answer}",
                input_name=name,
            )
            for name in given
        ]


def _config(spec: InputSpec) -> list[Any]:
    return [spec[0], spec[1] if len(spec) > 1 else {}]


def _fits(received: str, wanted: object) -> bool:
    if received == wanted or "*" in (received, wanted):
        return True
    if not isinstance(wanted, str):
        return received == "COMBO"
    return bool(set(received.split(",")) & set(wanted.split(",")))


def _missing(name: str) -> Reason:
    return _reason("required_input_missing", "Required input is missing", name, input_name=name)


def _exception(error: Exception) -> Reason:
    return _reason(
        "exception_during_validation",
        "Exception when validating node",
        str(error),
        exception_type=type_name(error),
        traceback=frames(error),
    )


def _inner_exception(error: Exception, name: str, config: list[Any], link: list[Any]) -> Reason:
    return _reason(
        "exception_during_inner_validation",
        "Exception when validating inner node",
        str(error),
        input_name=name,
        input_config=config,
        exception_message=str(error),
        exception_type=type_name(error),
        traceback=frames(error),
        linked_node=link,
    )


_CONVERSIONS: dict[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def _value(inputs: dict[str, Any], name: str, spec: InputSpec, *, checked: bool) -> list[Reason]:
    """Bring a value to its input's type, in place; then look at its bounds or its list."""
    kind, config = spec[0], _config(spec)
    value = inputs[name]
    if isinstance(value, dict) and "__value__" in value:
        value = inputs[name] = value["__value__"]
    if isinstance(kind, str) and kind in _CONVERSIONS:
        try:
            value = inputs[name] = _CONVERSIONS[kind](value)
        except (TypeError, ValueError, OverflowError) as error:
            return [
                _reason(
                    "invalid_input_type",
                    f"Failed to convert an input value to a {kind} value",
                    f"{name}, {value}, {error}",
                    input_name=name,
                    input_config=config,
                    received_value=value,
                    exception_message=str(error),
                )
            ]
    if checked:
        return []
    return _bounds(value, name, config) or _choice(value, name, config)


def _bounds(value: Any, name: str, config: list[Any]) -> list[Reason]:
    low, high = config[1].get("min"), config[1].get("max")
    if low is not None and value < low:
        kind, message = "value_smaller_than_min", f"Value {value} smaller than min of {low}"
    elif high is not None and value > high:
        kind, message = "value_bigger_than_max", f"Value {value} bigger than max of {high}"
    else:
        return []
    return [
        _reason(kind, message, name, input_name=name, input_config=config, received_value=value)
    ]


def _choice(value: Any, name: str, config: list[Any]) -> list[Reason]:
    if isinstance(config[0], list):
        choices = config[0]
    elif config[0] == "COMBO" and "remote" not in config[1]:
        choices = config[1].get("options", [])
    else:
        return []
    several = isinstance(value, list) and config[1].get("multiselect")
    wrong = [item for item in (value if several else [value]) if item not in choices]
    if not wrong:
        return []
    long = len(choices) > LONG_LIST
    listed = f"(list of length {len(choices)})" if long else str(choices)
    return [
        _reason(
            "value_not_in_list",
            "Value not in list",
            f"{name}: {', '.join(map(repr, wrong))} not in {listed}",
            input_name=name,
            input_config=None if long else config,
            received_value=value,
        )
    ]
