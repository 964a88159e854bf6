"""The workflow of a job in its pictures, where the upstream does not write it.

The web interface opens it from a PNG (a `tEXt` chunk named `workflow`) or a WebP (the tag
`Make` of its EXIF, as ComfyUI writes it). Other formats stay as they are.
"""

from __future__ import annotations

import struct

from proxy.files.picture_parts import PNG, Edit, Edits, Read, png_chunk, webp_exif
from proxy.storage.jobs import JobRepository
from proxy.translate import codec, workflow_metadata

#: Maximum bytes of a workflow that is written into pictures.
MAX_BYTES = 4 * 1024 * 1024

#: Where the chunk after the first one, IHDR, begins (W3C PNG, 11.2.1).
_AFTER_HEADER = 33
#: TIFF 6.0: the type of a text, and the tags that ComfyUI writes.
_ASCII, _MAKE = 2, 0x010F


class JobWorkflows:
    """Reads the workflows that clients sent with their jobs."""

    def __init__(self, jobs: JobRepository) -> None:
        self._jobs = jobs

    async def of(self, member: str, prompt_id: str) -> bytes | None:
        """Return the workflow of a job as JSON in ASCII, `None` without one. Raises
        `StorageError`."""
        entry = await self._jobs.history.entry(member, prompt_id)
        extra_data = None if entry is None else entry.extra_data
        if extra_data is None:
            job = await self._jobs.get(member, prompt_id)
            payload = None if job is None else await self._jobs.payloads.get(job.order)
            extra_data = None if payload is None else payload.extra_data
        if extra_data is None:
            return None
        workflow = workflow_metadata.workflow_of(codec.loads(extra_data))
        text = codec.dumps(workflow).encode("ascii") if workflow else b""
        return text if 0 < len(text) <= MAX_BYTES else None


def edits_for(read: Read, size: int, workflow: bytes) -> Edits:
    """Return a function that writes a workflow into a complete picture of this size."""
    head = read(0, _AFTER_HEADER)
    if head.startswith(PNG) and len(head) == _AFTER_HEADER:
        chunk = png_chunk(b"tEXt", b"workflow\0" + workflow)
        return Edits((Edit(_AFTER_HEADER, _AFTER_HEADER, chunk),))
    if head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8X":
        return Edits()
    found = webp_exif(read, size, max_bytes=MAX_BYTES)
    exif = None if found is None else _with_make(found.data, b"workflow:" + workflow + b"\0")
    return Edits() if found is None or exif is None else Edits(found.replaced(exif))


def _with_make(exif: bytes, text: bytes) -> bytes | None:
    """Return EXIF with one more text in its first directory, which moves to the end; `None` if it
    has one with this tag, or is damaged."""
    before = b"Exif\0\0" if exif.startswith(b"Exif\0\0") else b""
    tiff = exif[len(before) :]
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(f"{order}4xI", tiff)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        end = directory + 2 + 12 * count
        entries = [tiff[at : at + 12] for at in range(directory + 2, end, 12)]
        (following,) = struct.unpack_from(f"{order}I", tiff, end)
        tags = [struct.unpack_from(f"{order}H", entry)[0] for entry in entries]
    except struct.error:
        return None
    if _MAKE in tags or count > 1000:
        return None
    tiff += b"\0" * (len(tiff) % 2)
    entries.append(struct.pack(f"{order}HHII", _MAKE, _ASCII, len(text), len(tiff)))
    entries.sort(key=lambda entry: struct.unpack_from(f"{order}H", entry))
    body = tiff + text + b"\0" * (len(text) % 2)
    moved = struct.pack(f"{order}H", len(entries)) + b"".join(entries)
    moved += struct.pack(f"{order}I", following)
    return before + body[:4] + struct.pack(f"{order}I", len(body)) + body[8:] + moved
