"""The cloud's own names of files in a graph: whoever has one could use any file of the account."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.translate.graph import is_link
from proxy.translate.validation_inputs import HasFile, Reason, reason

#: A string whose last part is a content hash, as the cloud names files.
_NAMES_CONTENT = re.compile(
    r"(?:.*[/\\:\s])?[0-9a-f]{64}(?:\.\w+)?\s*(?:\[\w+\])?\s*", re.IGNORECASE | re.DOTALL
)

#: Longer strings are no names.
_LONGEST = 1024


def foreign_files(graph: Mapping[str, Any], has_file: HasFile) -> dict[str, Any]:
    """Node errors for every name of the cloud's that is of no file of the member.

    Whether the account has such a file makes no difference. `has_file` says whether the member
    has it.
    """
    node_errors = {}
    for node_id, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, Mapping) else None
        found = [
            _invalid(str(name), text)
            for name, value in (inputs.items() if isinstance(inputs, Mapping) else ())
            for text in _strings(value)
            if _names_content(text) and not has_file(text)
        ]
        if found:
            class_type = node.get("class_type")
            node_errors[node_id] = {
                "errors": found,
                "dependent_outputs": [],
                "class_type": class_type if isinstance(class_type, str) else "",
            }
    return node_errors


def _names_content(text: str) -> bool:
    return 64 <= len(text) <= _LONGEST and _NAMES_CONTENT.fullmatch(text) is not None


def _strings(value: Any) -> Iterator[str]:
    """Strings at any depth, also as keys; a link to another node has none."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list) and not is_link(one):
            pending += one


def _invalid(name: str, value: str) -> Reason:
    return reason(
        "custom_validation_failed",
        "Custom validation failed for node",
        f"{name} - Invalid file: {value}",
        input_name=name,
    )
