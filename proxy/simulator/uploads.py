"""Uploads: their limits, their names, and the direct way past the API."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from uuid import uuid4

from blake3 import blake3

from proxy.simulator import media
from proxy.simulator.account import SimulatedAccount
from proxy.simulator.assets import SimulatedAsset
from proxy.simulator.errors import bad_request
from proxy.simulator.storage import Storage
from proxy.simulator.switches import Switches

DIRECT_UPLOAD_LIFE = 900


def take(
    account: SimulatedAccount,
    storage: Storage,
    switches: Switches,
    data: bytes,
    filename: str,
    *,
    tags: tuple[str, ...] = ("input",),
    subfolder: str = "",
    uploaded: bool = True,
) -> SimulatedAsset:
    """Store an upload under the hash of its bytes; its extension follows them, not its name.

    What is not `uploaded` is sent as an asset, of any kind.
    Raises `Refusal` (400) for what is too large or not taken.
    """
    try:
        medium = media.identify(data, filename)
    except media.TooLargeError as error:
        raise bad_request(str(error)) from None
    taken = {
        "images": ("image",),
        "media": ("image", "audio", "video"),
        "any": ("image", "audio", "video", "3d", "other"),
    }
    if uploaded and medium.family not in taken[switches.upload_kinds]:
        raise bad_request("the file is not an image or of another kind that is taken here")
    digest = blake3(data).hexdigest()
    asset = SimulatedAsset(
        name=filename,
        cloud_name=_name(digest, medium.extension, switches),
        digest=digest,
        size=len(data),
        media_type=medium.media_type,
        tags=tags,
        subfolder=subfolder,
        uploaded=uploaded,
    )
    storage.put(asset.cloud_name, data, medium.media_type)
    account.library.add(asset)
    return asset


def _name(digest: str, extension: str, switches: Switches) -> str:
    match switches.upload_names:
        case "bare":
            return digest
        case "prefixed":
            return f"blake3:{digest}.{extension}"
        case "upper":
            return f"{digest.upper()}.{extension.upper()}"
        case _:
            return f"{digest}.{extension}"


@dataclass(slots=True)
class Ticket:
    """The right to send one picture without a credential."""

    account: SimulatedAccount
    media_type: str
    id: str = field(default_factory=lambda: uuid4().hex)
    expires: float = field(default_factory=lambda: time.monotonic() + DIRECT_UPLOAD_LIFE)


class DirectUploads:
    """The tickets that are out. Each is good for one try."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}

    def issue(self, account: SimulatedAccount, media_type: str) -> Ticket:
        """Return a new ticket."""
        ticket = Ticket(account, media_type)
        self._tickets[ticket.id] = ticket
        return ticket

    def redeem(self, ticket_id: str) -> Ticket | None:
        """Use a ticket up; `None` if there is none or it is too old."""
        ticket = self._tickets.pop(ticket_id, None)
        return ticket if ticket is not None and ticket.expires > time.monotonic() else None
