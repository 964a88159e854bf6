"""The graph of a job between the two APIs, with the cloud's names for the member's files in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from proxy.translate.file_inputs import is_file_input, is_loader, names_file
from proxy.translate.names import (
    MAX_FOLDERS,
    Place,
    folders_of,
    is_hash_name,
    resolve,
    split_annotated,
    written_place,
)
from proxy.translate.reading import field_of, object_of, text_of
from proxy.translate.shapes import Shape, Shapes

T = TypeVar("T")

#: Says whether the member may use a file, by its name as it stands in a graph ("x.png [output]").
HasFile: TypeAlias = Callable[[str], bool]

_TOKEN = re.compile(r"[\w.:-]+")


def substitute(
    graph: Mapping[str, Any],
    *,
    shapes: Shapes,
    cloud_name: Callable[[Place], Any],
    place_of: Callable[[str], Place | None] = written_place,
    any_input: bool = True,
) -> dict[str, Any]:
    """Return a copy of the graph in which strings that name a known file have the cloud's name.

    `shapes` gives the classes; `cloud_name` gives what the cloud reads for the file at a place, or
    `None` if there is none; `place_of` gives the place that a string names. What a class does not
    take for the name of a file (`Shape.may_name_file`) stays; without `any_input` also what is not
    certain to be one (`is_file_input`).
    """

    def renamed(shape: Shape | None, name: str, value: Any) -> Any:
        """Return an input's value with the names in it, at any depth, but not in links."""
        if isinstance(value, str):
            may_name = shape is None or shape.may_name_file(name, value)
            place = place_of(value) if may_name or not any_input else None
            return (None if place is None else cloud_name(place)) or value
        if isinstance(value, dict):
            return {key: renamed(shape, name, item) for key, item in value.items()}
        if isinstance(value, list) and not is_link(value):
            return [renamed(shape, name, item) for item in value]
        return value

    shapes, sent = cache(shapes), {}
    for node_id, node in graph.items():
        sent[node_id] = node
        if inputs := inputs_of(node):
            shape = class_shape(node, shapes)
            class_type = str(node.get("class_type"))
            new = {
                name: renamed(shape, name, value)
                if any_input or is_file_input(class_type, shape, name, inputs)
                else value
                for name, value in inputs.items()
            }
            sent[node_id] = {**node, "inputs": new}
    return sent


def file_strings(graph: Mapping[str, Any], shapes: Shapes) -> set[str]:
    """Return all strings of a graph that are looked up as names of files.

    Those are the ones that `substitute` may replace, and whatever names a content as the cloud
    does. Other free text and the choices of a class are not among them.
    """
    shapes = cache(shapes)  # a graph may have more classes than the catalog keeps at hand
    found: set[str] = set()
    for node in graph.values():
        shape = class_shape(node, shapes)
        loads = str(field_of(node, "class_type"))
        for name, value in inputs_of(node).items():
            for text in strings(value):
                named = shape is None or shape.may_name_file(name, text) or is_loader(loads, name)
                if named or _names_content(text):
                    found.add(text)
    return found


def class_shape(node: Any, shapes: Shapes) -> Shape | None:
    """Return the class of a node of a graph, `None` where it has none that is known."""
    class_type = field_of(node, "class_type")
    return shapes(class_type) if isinstance(class_type, str) else None


def written_names(graph: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, str]:
    """Return the cloud's names in a graph that was sent, each as the client's `graph` wrote it.

    Where it was written in several ways the first counts. An annotation that the cloud was sent too
    is no part of the name.
    """
    found: dict[str, str] = {}
    pending: list[tuple[Any, Any]] = [
        (inputs_of(graph.get(node_id)), inputs_of(node)) for node_id, node in sent.items()
    ]
    pending.reverse()
    while pending:
        written, called = pending.pop()
        if isinstance(written, str) and isinstance(called, str):
            if written != called or is_hash_name(called):
                name, annotated = split_annotated(called)
                found.setdefault(name, split_annotated(written)[0] if annotated else written)
        elif isinstance(written, dict) and isinstance(called, dict):
            pending += [(written.get(key), called[key]) for key in reversed([*called])]
        elif isinstance(written, list) and isinstance(called, list):
            pending += reversed([*zip(written, called, strict=False)])
    return found


def is_link(value: object) -> bool:
    """Return whether an input's value is `[node id, output index]`."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    source, index = value
    return isinstance(source, str) and type(index) is int  # a boolean is none


def unwrapped(value: Any) -> Any:
    """Return the value of an input that is wrapped, as a list must be that is no link."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def strings(value: Any) -> Iterator[str]:
    """Yield the strings at any depth, also keys; a link to another node has none."""
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, dict):
            pending += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list) and not is_link(inner):
            pending += inner


def values_in(value: Any) -> Iterator[Any]:
    """Yield a value and all values in it, at any depth."""
    pending = [value]
    while pending:
        inner = pending.pop()
        yield inner
        if isinstance(inner, dict):
            pending += inner.values()
        elif isinstance(inner, list):
            pending += inner


def has_more_values(value: Any, limit: int) -> bool:
    """Return whether there are more than `limit` values in a value, itself counted; it is not
    looked through further than that."""
    return len(list(islice(values_in(value), limit + 1))) > limit


#: A string whose last part is a content hash, as the cloud names files.
_NAMES_CONTENT = re.compile(
    r"(?:.*[/\\:\s])?[0-9a-f]{64}(?:\.\w+)?\s*(?:\[\w+\]\s*)?", re.IGNORECASE | re.DOTALL
)

#: Longer strings are no names.
_LONGEST = 1024


def foreign_files(graph: Mapping[str, Any], has_file: HasFile) -> dict[str, Any]:
    """Return node errors for every name of the cloud's that belongs to no file of the member.

    Whether the account has such a file makes no difference. `has_file` says whether the member
    has it.
    """
    return _invalid_files(
        graph, lambda _node, _name, text: _names_content(text) and not has_file(text)
    )


def missing_files(graph: Mapping[str, Any], shapes: Shapes, has_file: HasFile) -> dict[str, Any]:
    """Return node errors for every name of a file that the member does not have, in inputs that
    offer files to choose from. A choice that is no name of a file, such as `none`, is right."""
    shapes = cache(shapes)

    def is_missing(node: Mapping[str, Any], name: str, text: str) -> bool:
        if has_file(text):
            return False
        shape, inputs = class_shape(node, shapes), inputs_of(node)
        if not is_file_input(str(node.get("class_type")), shape, name, inputs):
            return False
        known = () if shape is None else shape.expanded(inputs)
        declared = next((each for each in known if each.name == name), None)
        if declared is None:
            return True
        is_choice = declared.type == "COMBO" or isinstance(declared.type, list)
        return is_choice and (names_file(text) or text not in (declared.choices or ()))

    return _invalid_files(graph, is_missing)


def _invalid_files(
    graph: Mapping[str, Any], is_wrong: Callable[[Mapping[str, Any], str, str], bool]
) -> dict[str, Any]:
    """Return node errors for the strings of which `is_wrong` says so, by node and input."""
    node_errors = {}
    for node_id, node in graph.items():
        found = [
            invalid_file(str(name), text)
            for name, value in inputs_of(node).items()
            for text in strings(value)
            if is_wrong(node, str(name), text)
        ]
        if found:
            class_type = node.get("class_type")
            node_errors[node_id] = {
                "errors": found,
                "dependent_outputs": [],
                "class_type": text_of(class_type),
            }
    return node_errors


def malformed_inputs(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return node errors for all nodes whose `inputs` are there and no object.

    The worker of a local ComfyUI ends over such a node; PHP makes `[]` of an empty object.
    """
    return {
        node_id: {
            "errors": [
                {
                    "type": "invalid_inputs",
                    "message": "The inputs of a node must be an object",
                    "details": f"Node ID '#{node_id}'",
                    "extra_info": {},
                }
            ],
            "dependent_outputs": [],
            "class_type": node.get("class_type"),
        }
        for node_id, node in graph.items()
        if not isinstance(node.get("inputs", {}), dict)
    }


def _names_content(text: str) -> bool:
    return 64 <= len(text) <= _LONGEST and _NAMES_CONTENT.fullmatch(text) is not None


def invalid_file(name: str, value: str, what: str = "file") -> dict[str, Any]:
    """Return the error of an input that names a missing file, in ComfyUI's form."""
    return {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": f"{name} - Invalid {what}: {value}",
        "extra_info": {"input_name": name},
    }


def deep_prefixes(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return node errors for every `filename_prefix` with more than `MAX_FOLDERS` folders."""
    node_errors = {}
    for node_id, node in graph.items():
        path = resolve("output", filename_prefix(node) or "") or ""
        if (count := folders_of(path)) > MAX_FOLDERS:
            error = {
                "type": "custom_validation_failed",
                "message": "Custom validation failed for node",
                "details": f"filename_prefix - It has {count:,} nested folders, and at most "
                f"{MAX_FOLDERS} are allowed.",
                "extra_info": {"input_name": "filename_prefix"},
            }
            node_errors[node_id] = {
                "errors": [error],
                "dependent_outputs": [],
                "class_type": str(node.get("class_type") or ""),
            }
    return node_errors


def sources(graph: Mapping[str, Any], *node_ids: str) -> set[str]:
    """Return the ids of all nodes that the nodes' inputs come from, over any number of links."""
    found: set[str] = set()
    pending = list(node_ids)
    while pending:
        for source in links_of(graph.get(pending.pop())):
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def takers_of(graph: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the ids of the nodes that take an input directly from a node, by its id."""
    found: dict[str, list[str]] = {}
    for node_id, node in graph.items():
        for source in links_of(node):
            found.setdefault(source, []).append(node_id)
    return found


def reachable(graph: Mapping[str, Any], outputs: Collection[str] | None) -> set[str]:
    """Return the nodes that outputs depend on and the outputs; all nodes without `outputs`."""
    if outputs is None:
        return set(graph)
    return (set(outputs) | sources(graph, *outputs)) & graph.keys()


def inputs_of(node: Any) -> Mapping[str, Any]:
    """Return the inputs of a node, none where it has an unknown form."""
    return object_of(field_of(node, "inputs"))


def filename_prefix(node: Mapping[str, Any] | None) -> str | None:
    """Return the node's `filename_prefix`, unless another node computes it."""
    prefix = unwrapped(inputs_of(node).get("filename_prefix"))
    return prefix if isinstance(prefix, str) else None


def links_of(node: Any) -> Iterator[str]:
    """Yield the ids of the nodes that a node's inputs come from."""
    for value in inputs_of(node).values():
        if is_link(value):
            yield value[0]


def reveal(value: T, local_name: Mapping[str, str]) -> T:
    """Return `value` with the cloud's names in its strings, at any depth, replaced by the member's.

    Errors of nodes quote their inputs; a client must not see names there that it never used.
    """
    revealed: Any = value
    if isinstance(value, str):
        revealed = _TOKEN.sub(lambda token: _reveal_token(token[0], local_name), value)
    elif isinstance(value, dict):
        revealed = {key: reveal(item, local_name) for key, item in value.items()}
    elif isinstance(value, list):
        revealed = [reveal(item, local_name) for item in value]
    return revealed  # type: ignore[no-any-return]


def words(value: Any) -> set[str]:
    """Return all words that `reveal` looks up for a value."""
    texts = (inner for inner in values_in(value) if isinstance(inner, str))
    return {token.rstrip(".:") for text in texts for token in _TOKEN.findall(text)}


def _reveal_token(token: str, local_name: Mapping[str, str]) -> str:
    """Return a token with its name replaced; a name may be followed by a full stop."""
    word = token.rstrip(".:")
    return local_name.get(word, word) + token[len(word) :]
