"""Complete answers of the cloud, their limits, and what calls read out of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct

from proxy.cloud.errors import CloudAmbiguous, CloudGarbage, CloudOversized, refusal
from proxy.translate import codec, media_types
from proxy.translate.codec import redact
from proxy.translate.reading import object_of, objects_of


class AnswerLimits(Struct, frozen=True):
    """Limits of an answer: bytes after decompression, and JSON values as `codec.breadth` counts."""

    size: int
    values: int


#: The limits of most answers; of a job's detail without its workflow; and of the catalog, which has
#: about 9 MB and 700,000 values.
USUAL = AnswerLimits(16 * 1024 * 1024, 200_000)
DETAIL = AnswerLimits(64 * 1024 * 1024, 100_000)
CATALOG = AnswerLimits(64 * 1024 * 1024, 3_000_000)
#: Maximum bytes of an answer that is parsed on the event loop; larger ones are parsed in a thread.
MAX_PARSED_INLINE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with a status below 300. `call` names what was asked, `content_type` is the
    header, and `attempts` the number of requests it took."""

    call: object
    body: bytes = field(repr=False)
    content_type: str
    attempts: int
    key: str = field(repr=False)
    limits: AnswerLimits = USUAL

    def parse(self, data: bytes) -> Any:
        """Return the value of JSON from the body, with the account's key redacted. Raises
        `CloudGarbage`."""
        if codec.breadth(data) > self.limits.values:
            raise CloudOversized(f"{self.call}: the answer has too many values")
        try:
            value = codec.loads_text(data)
        except ValueError:
            raise CloudGarbage(f"{self.call}: the answer is not JSON") from None
        return redact(value, self.key) if codec.may_show(data, self.key) else value

    def example(self) -> Any:
        """Return the body as an example of its form, `None` for a large one."""
        if len(self.body) > MAX_PARSED_INLINE:
            return None
        try:
            return self.parse(self.body)
        except CloudGarbage:
            return self.body[:64].decode(errors="replace")

    def object(self) -> dict[str, Any]:
        """Return the body as a JSON object. Raises `CloudGarbage`."""
        value = self.parse(self.body)
        if not isinstance(value, dict):
            raise CloudGarbage(f"{self.call}: the answer is not a JSON object")
        return value

    def objects(self) -> list[dict[str, Any]]:
        """Return the objects of the JSON list in the body. Raises `CloudGarbage`."""
        value = self.parse(self.body)
        if not isinstance(value, list):
            raise CloudGarbage(f"{self.call}: the answer is not a list")
        return objects_of(value)


#: Maximum bytes of a value of `extra_data` that is read.
_MAX_EXTRA_BYTES = 4096
#: Maximum characters of the id of a job.
_MAX_ID = 512


class Submission(Struct, frozen=True):
    """The result of a submission: the job's cloud id, and the nodes that the cloud left out."""

    cloud_id: str
    node_errors: dict[str, Any]


def job_id_of(value: object) -> str:
    """Return the id of a job, an empty text for what is none."""
    return value if isinstance(value, str) and len(value) <= _MAX_ID else ""


def submission_of(answer: Answer) -> Submission:
    """Return the submission of a 200.

    Documents show a 200 with an `error` instead of a job: raises `CloudRefused`. If the answer
    names neither, raises `CloudAmbiguous`: the account's jobs must be searched, and if the job does
    not exist, the `node_errors` are the reason. Raises `CloudGarbage`.
    """
    call, result = answer.call, answer.object()
    if result.get("error"):
        raise refusal(call, 400, result, None)
    cloud_id, node_errors = job_id_of(result.get("prompt_id")), result.get("node_errors")
    if cloud_id:
        return Submission(cloud_id, object_of(node_errors))
    refused = refusal(call, 400, result, None) if node_errors else None
    raise CloudAmbiguous(f"{call}: no job in the answer", taken=not node_errors, refused=refused)


def page_with(of: str, answer: Answer) -> dict[str, Any]:
    """Return a page of a list, which it has under the key `of`. Raises `CloudGarbage`."""
    page = answer.object()
    if not isinstance(page.get(of), list):
        raise CloudGarbage(f"{answer.call}: no list of {of} in the answer")
    return page


def next_page(page: dict[str, Any], offset: int) -> dict[str, str | int]:
    """Return the query of the next page, by cursor or else by offset; empty after the last."""
    about = page.get("pagination")
    if not isinstance(about, dict) or not about.get("has_more", bool(about.get("next_cursor"))):
        return {}
    cursor = about.get("next_cursor")
    return {"after": cursor} if isinstance(cursor, str) and cursor else {"offset": offset}


def status_only(answer: Answer) -> None:
    """Ignore the body, on which the documents disagree: the 2xx is enough."""


def file_of(answer: Answer) -> tuple[bytes, str]:
    """Return the body, and its media type without parameters."""
    return answer.body, media_types.essence(answer.content_type)


def uploaded_name(answer: Answer) -> str:
    """Return the cloud's name of an uploaded file. Raises `CloudGarbage`."""
    name = answer.object().get("name")
    if not isinstance(name, str) or not name:
        raise CloudGarbage(f"{answer.call}: no name in the answer")
    return name


def object_bytes(answer: Answer) -> bytes:
    """Return the body of an answer that is a JSON object, unparsed unless it may contain the
    account's key. Raises `CloudGarbage`, `CloudOversized`."""
    body = answer.body.strip()
    if not (body.startswith(b"{") and body.endswith(b"}")):
        raise CloudGarbage(f"{answer.call}: the answer is not a JSON object")
    if codec.breadth(body) > answer.limits.values:
        raise CloudOversized(f"{answer.call}: the answer has too many values")
    return codec.dump_bytes(answer.object()) if codec.may_show(body, answer.key) else body


def detail_of(answer: Answer) -> dict[str, Any]:
    """Return a job's detail without its workflow, which may be large. Raises `CloudGarbage`."""
    try:
        members = codec.members_of(answer.body)
    except ValueError:  # perhaps a NaN, which ComfyUI writes
        return {name: value for name, value in answer.object().items() if name != "workflow"}
    members.pop("workflow", None)
    detail: dict[str, Any] = answer.parse(msgspec.json.encode(members))
    return detail


def extra_data_of(answer: Answer) -> dict[str, Any] | None:
    """Return the short values of the `extra_data` in a job's detail, `None` if it has none. Raises
    `CloudGarbage`."""
    try:
        detail = codec.members_of(answer.body)
    except ValueError:
        answer.object()  # raises no error for a NaN, which ComfyUI writes
        return None
    try:
        extra = codec.members_of(codec.members_of(detail["workflow"])["extra_data"])
    except (ValueError, KeyError):
        return None
    values = {name: bytes(raw) for name, raw in extra.items()}
    return {
        name: answer.parse(value)
        for name, value in values.items()
        if len(value) <= _MAX_EXTRA_BYTES
    }


def asset_name(filename: str, answer: Answer) -> str:
    """Return the name of an asset for its loader: `loader_path`, or its hash with the file's
    extension. Raises `CloudGarbage`."""
    asset = answer.object()
    name, hash_ = asset.get("loader_path"), asset.get("hash") or asset.get("asset_hash")
    if not name and isinstance(hash_, str):
        name = hash_.removeprefix("blake3:") + PurePosixPath(filename).suffix.lower()
    if not isinstance(name, str) or not name:
        raise CloudGarbage(f"{answer.call}: neither loader_path nor hash in the answer")
    return name
