"""Reading of what others write: URLs, and JSON whose form nobody guarantees.

What is not as it should be counts as empty in JSON.
"""

from __future__ import annotations

from typing import Any

from yarl import URL


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


def url_of(text: str, *, encoded: bool = False) -> URL:
    """Return the URL of a text, whose escapes stay as they are if it is `encoded`.

    Raises `ValueError` for what is no URL; yarl itself raises `IndexError` for some hosts in
    brackets (`http://[::1]@`).
    """
    try:
        return URL(text, encoded=encoded)
    except IndexError as error:
        raise ValueError("the host is no address") from error
