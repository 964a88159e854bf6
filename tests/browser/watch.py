"""What goes wrong in a page: errors of its scripts, refused requests, requests to other hosts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yarl import URL

if TYPE_CHECKING:
    from playwright.async_api import Page, Request, Response

#: What the frontend asks a new ComfyUI for and does not get, each with the reason.
REFUSED_BY_COMFYUI_TOO = {
    r"404 GET /user\.css": "ComfyUI has no such file; the page names it for the user's own style",
    r"404 GET /api/userdata/user\.css": "the user has not written a style",
    r"404 GET /api/userdata/comfy\.templates\.json": "the user has not made templates of nodes",
    r"404 GET /api/userdata/workflows%2F\.index\.json": "the user has not bookmarked a workflow",
    r"404 GET /api/userdata\?dir=workflows&.*": "the user has not saved a workflow yet",
    r"404 GET /api/userdata\?dir=subgraphs&.*": "the user has not saved a subgraph yet",
    r"404 GET /api/view\?.*filename=sketch\.png&.*": "the example's picture is not uploaded yet",
    r"404 GET /api/experiment/models/preview/.*": "no picture lies beside the model",
    r"404 GET /api/view_metadata/.*": "the model has no metadata",
}

#: Where the frontend goes beside its own address, whichever that is.
ELSEWHERE = {
    r"api\.comfy\.org/releases": "it looks for news of ComfyUI",
    r"127\.0\.0\.1/api/experiment/models/preview/.*": "it forgets its base path for these",
    r"127\.0\.0\.1/assets/images/favicon_progress_16x16/.*": "and for the tab's moving icon",
}


@dataclass
class Watch:
    """The faults of a page whose own server is at `home`, with nothing of it beside that path."""

    home: URL
    errors: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    abroad: set[str] = field(default_factory=set)

    def over(self, page: Page) -> None:
        """Watch over this page."""
        page.on("pageerror", lambda error: self.errors.append(f"{error}"))
        page.on("response", self._answered)
        page.on("request", self._asked)

    def unexpected(self) -> list[str]:
        """Each fault that is not known."""
        known = [*REFUSED_BY_COMFYUI_TOO, *ELSEWHERE]
        seen = [*self.errors, *self.refused, *sorted(self.abroad)]
        return [fault for fault in seen if not any(re.fullmatch(rule, fault) for rule in known)]

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            url = URL(response.url, encoded=True)
            path = url.raw_path_qs.removeprefix(self.home.raw_path.removesuffix("/"))
            self.refused.append(f"{response.status} {response.request.method} {path}")

    def _asked(self, request: Request) -> None:
        url = URL(request.url, encoded=True)
        if url.scheme not in ("http", "https"):
            return
        if url.origin() != self.home.origin() or not url.path.startswith(self.home.path):
            self.abroad.add(f"{url.host}{url.path}")
