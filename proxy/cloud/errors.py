"""Errors of calls to Comfy Cloud.

* `CloudError`

  * `CloudUnreachable`: no answer; the call can be repeated

    * `CloudDown`: not sent, because the circuit is open

  * `CloudAmbiguous`: a submission without a clear answer; the job may exist
  * `CloudRefused`: an answer with an HTTP status of 400 or more

    * `CloudUnauthorized`: 401, the key does not work
    * `CloudFilesGone`: inputs of a submission are no longer stored

  * `CloudGarbage`: an answer that the cloud's API does not have

    * `CloudOversized`: an answer with too many bytes or values
    * `CloudTruncated`: a list that was cut off before what was looked for

Messages, bodies and causes of these errors contain no key, token or signed URL.
"""

# ruff: noqa: N818 (the names say what happened: "except CloudRefused")

from __future__ import annotations

from proxy.runtime.supervisor import OutsideError
from proxy.translate.errors import LocalError

#: Default `Retry-After` of answers to clients, in seconds.
_RETRY_AFTER = 10.0
#: Statuses of a gateway without an answer of its upstream server (502, 504 in RFC 9110; the others
#: are Cloudflare's).
GATEWAY_STATUSES = frozenset({502, 504, 520, 521, 522, 523, 524})
#: Statuses of a server that does not work: those, and its own 503.
UNAVAILABLE_STATUSES = GATEWAY_STATUSES | {503}
#: Statuses of a read after which it is worth repeating.
PASSING_STATUSES = UNAVAILABLE_STATUSES | {408, 425, 429, 500}


class CloudError(OutsideError):
    """Base of all failures of calls to Comfy Cloud.

    `retry_after` is in how many seconds it is worth calling again, `None` if that is unknown.
    `title` is what sentences to people call the server.
    """

    retry_after: float | None = None
    title: str = "Comfy Cloud"


class CloudUnreachable(CloudError):
    """Raised without a complete answer: refused, unknown host, reset, timed out, cut off.

    `sent` is whether the request may have reached the cloud; a submission raises this only if it
    has not.
    """

    def __init__(
        self, message: str, *, sent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.sent = sent
        self.retry_after = retry_after


class CloudDown(CloudUnreachable):
    """Raised while the circuit is open: nothing is sent for the next `retry_after` seconds.

    `status` is that of the last answer (503, or a gateway's), `None` if there was none.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status


class CloudAmbiguous(CloudError):
    """Raised when a job was sent without a clear answer: it may exist.

    `taken` is whether the answer means success without naming the job. `refused` is what the answer
    means if the job turns out not to exist.
    """

    def __init__(
        self,
        message: str,
        *,
        taken: bool = False,
        refused: CloudRefused | None = None,
    ) -> None:
        super().__init__(message)
        self.taken = taken
        self.refused = refused


class CloudRefused(CloudError):
    """Raised for an answer with a status of 400 or more.

    `body` is the parsed JSON, or the text if it is not JSON. A 401 and a 429 are also raised for
    calls that are not sent because they would follow such an answer too soon.
    """

    def __init__(
        self, message: str, status: int, body: object = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class CloudFilesGone(CloudRefused):
    """Raised for a submission that names inputs which are no longer stored; they can be uploaded
    again."""


class CloudUnauthorized(CloudRefused):
    """Raised for a 401: there is no key, or an invalid one."""


class CloudGarbage(CloudError):
    """Raised for an answer that is not as in the cloud's OpenAPI: not JSON, a field missing, a
    redirect. `problem` says which in a few words."""

    def __init__(self, message: str, problem: str = "not of its form") -> None:
        super().__init__(message)
        self.problem = problem


class CloudOversized(CloudGarbage):
    """Raised for an answer with more bytes or values than any that the API describes."""


class CloudTruncated(CloudGarbage):
    """Raised when a job is not in a list that was cut off: it may stand behind."""

    def __init__(self, message: str) -> None:
        super().__init__(message, problem="too large")


def refusal(call: object, status: int, body: object, retry_after: float | None) -> CloudRefused:
    """Return the error of an answer; `call` names the method and the route."""
    kind = CloudUnauthorized if status == 401 else CloudRefused
    message = _message_of(body)
    return kind(f"{call}: {status}{': ' if message else ''}{message}", status, body, retry_after)


def unanswered(error: CloudError, lead: str, then: str) -> LocalError:
    """Return the error for a client whose call to the cloud got no answer.

    `lead` begins the sentence, `then` ends it with what to do when the cloud answers again.
    """
    type_ = "cloud_unreachable"
    why = f"{error.title} cannot be reached; check the network of the proxy"
    if isinstance(error, CloudDown) and error.status is not None:
        type_ = "cloud_unavailable"
        why = f"{error.title} is unavailable ({error.status}); try again later"
    return LocalError(
        type_,
        f"{lead}: {why}, then {then}.",
        kind="unavailable",
        retry_after=error.retry_after or _RETRY_AFTER,
    )


def _message_of(body: object) -> str:
    """Return the cloud's message in one short line, from `{"error": {…}}`, `{"code", "message"}` or
    text."""
    if isinstance(body, dict):
        error = body.get("error")
        about = error if isinstance(error, dict) else body
        words = [about.get("type") or about.get("code"), about.get("message") or error]
        body = " ".join(word for word in words if isinstance(word, str))
    text = body if isinstance(body, str) and not body.lstrip().startswith("<") else ""
    return " ".join(text.split())[:200]


def may_pass(error: Exception) -> bool:
    """Return whether the same read may succeed a moment later."""
    if isinstance(error, CloudRefused):
        return error.status in PASSING_STATUSES
    if isinstance(error, CloudDown | CloudOversized):
        return False
    return isinstance(error, CloudUnreachable | CloudGarbage)
