"""URLs that others write."""

from __future__ import annotations

from yarl import URL


def url_of(text: str, *, encoded: bool = False) -> URL:
    """Return the URL of a text, whose escapes stay as they are if it is `encoded`.

    Raises `ValueError` for what is no URL; yarl itself raises `IndexError` for some hosts in
    brackets (`http://[::1]@`).
    """
    try:
        return URL(text, encoded=encoded)
    except IndexError as error:
        raise ValueError("the host is no address") from error
