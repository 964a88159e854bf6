"""Reading of JSON whose form nobody guarantees: what is not as it should be counts as empty."""

from __future__ import annotations

from typing import Any


def object_of(value: object) -> dict[str, Any]:
    """Return an object of JSON, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """Return a list of JSON, an empty one for anything else."""
    return value if isinstance(value, list) else []


def objects_of(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list."""
    return [item for item in list_of(value) if isinstance(item, dict)]


def text_of(value: object) -> str:
    """Return a text, an empty one for anything else."""
    return value if isinstance(value, str) else ""


def field_of(value: object, *names: str) -> Any:
    """Return the field of an object, or of one in it, by its names from the outside to the inside;
    `None` where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
