"""What can go wrong between here and Comfy Cloud.

* `CloudError`

  * `CloudUnreachable`: no answer, and nothing is lost by asking again

    * `CloudDown`: not even tried, since the cloud has been silent or unavailable for a while

  * `CloudAmbiguous`: a submission without a clear answer; the job may exist
  * `CloudRefused`: an answer with an HTTP status of 400 or more

    * `CloudUnauthorized`: 401, the key does not work

  * `CloudGarbage`: an answer that the cloud's API does not have

No message, body or cause of these holds a key, a token or a signed URL.
"""

# ruff: noqa: N818 (they are read as what happened: "except CloudRefused")

from __future__ import annotations

from proxy.translate.errors import LocalError

#: Seconds after which a client may ask again, where nobody knows better.
_WAIT = 10.0


class CloudError(Exception):
    """Any failure of a call to Comfy Cloud.

    `retry_after` is in how many seconds it is worth asking again, `None` if nobody knows.
    """

    retry_after: float | None = None


class CloudUnreachable(CloudError):
    """There was no whole answer: refused, no such host, reset, timed out, cut off.

    `sent` says whether the request may have reached the cloud; a submission raises this only if
    it has not.
    """

    def __init__(
        self, message: str, *, sent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.sent = sent
        self.retry_after = retry_after


class CloudDown(CloudUnreachable):
    """The circuit is open: nothing was sent, nothing will be for `retry_after` seconds.

    `status` is what the cloud answered last (503, or a gateway's), `None` if it did not answer.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status


class CloudAmbiguous(CloudError):
    """`POST /api/prompt` went out and no clear answer came back: the job may exist.

    `taken` says that the cloud answered as if it had taken the job, without naming it. `refused`
    is what the answer means if the job turns out not to exist.
    """

    def __init__(
        self, message: str, *, taken: bool = False, refused: CloudRefused | None = None
    ) -> None:
        super().__init__(message)
        self.taken = taken
        self.refused = refused


class CloudRefused(CloudError):
    """The cloud answered with a status of 400 or more, or would do so again.

    `body` is the parsed JSON, or the text if it is none. A 401 and a 429 are also raised for calls
    that follow such an answer too soon to be made.
    """

    def __init__(
        self, message: str, status: int, body: object = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class CloudUnauthorized(CloudRefused):
    """The cloud answered 401: no key, or one that it does not take."""


class CloudGarbage(CloudError):
    """The answer is not what the cloud's OpenAPI says: not JSON, a field missing, a redirect."""


#: Answers of a gateway that could not get one from the service behind it (502, 504 in RFC 9110;
#: the others are those of Cloudflare).
GATEWAY_STATUSES = frozenset({502, 504, 520, 521, 522, 523, 524})

#: Refusals of a read that may pass by themselves.
PASSING_STATUSES = GATEWAY_STATUSES | {408, 425, 429, 500, 503}


def refusal(call: str, status: int, body: object, retry_after: float | None) -> CloudRefused:
    """The error of an answer; `call` names the method and the route."""
    kind = CloudUnauthorized if status == 401 else CloudRefused
    said = _said(body)
    return kind(f"{call}: {status}{': ' if said else ''}{said}", status, body, retry_after)


def unanswered(error: CloudError, lead: str, then: str) -> LocalError:
    """The messages to a client about a call that got no answer.

    `lead` begins the sentence, `then` ends it with what to do once the cloud answers again.
    """
    type_ = "cloud_unreachable"
    why = "Comfy Cloud cannot be reached; check the network of the proxy"
    if isinstance(error, CloudDown) and error.status is not None:
        type_ = "cloud_unavailable"
        why = f"Comfy Cloud is unavailable ({error.status}); try again later"
    return LocalError(
        type_,
        f"{lead}: {why}, then {then}.",
        kind="unavailable",
        retry_after=error.retry_after or _WAIT,
    )


def _said(body: object) -> str:
    """The cloud's own words in one short line: `{"error": {…}}`, `{"code", "message"}` or text."""
    if isinstance(body, dict):
        error = body.get("error")
        about = error if isinstance(error, dict) else body
        words = [about.get("type") or about.get("code"), about.get("message") or error]
        body = " ".join(word for word in words if isinstance(word, str))
    text = body if isinstance(body, str) and not body.lstrip().startswith("<") else ""
    return " ".join(text.split())[:200]
