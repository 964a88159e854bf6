"""Errors in ComfyUI's own form, and the conversion of the cloud's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, TypeVar

from proxy.translate.reading import field_of, list_of

#: Categories of errors, by what must be done: the caller's request (the first eight), the pace of
#: the caller, or the proxy, or what it depends on.
Kind = Literal[
    "invalid",
    "unauthenticated",
    "forbidden",
    "not_found",
    "timed_out",
    "conflict",
    "too_large",
    "unsupported",
    "dependency_failed",
    "rate_limited",
    "internal",
    "not_implemented",
    "bad_answer",
    "unavailable",
    "unconfirmed",
]


class Error(TypedDict):
    """What is wrong: a `type` of docs/troubleshooting.md and a sentence that says what to do."""

    type: str
    message: str
    details: str
    extra_info: dict[str, Any]


class RefusalBody(TypedDict):
    """A refusal, in the form of ComfyUI's."""

    error: Error
    node_errors: Any


E = TypeVar("E", bound=BaseException)


def kept(error: E) -> E:
    """Return an error of the same words that may be kept.

    One that was raised has a traceback and a cause, and these the frames with all that they saw.
    """
    copy = type(error).__new__(type(error), *error.args)
    vars(copy).update(vars(error))
    return copy


class LocalError(Exception):
    """Raised for a refusal in the form of ComfyUI's prompt errors.

    `kind` decides the HTTP status (`proxy.api.bodies`), `retry_after` is in how many seconds it
    is worth asking again, `None` if nobody knows.
    """

    def __init__(
        self,
        type: str,  # noqa: A002 (ComfyUI's name of the field)
        message: str,
        *,
        kind: Kind = "invalid",
        details: str = "",
        extra_info: Mapping[str, Any] | None = None,
        node_errors: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.kind = kind
        self.details = details
        self.extra_info = dict(extra_info or {})
        self.node_errors = dict(node_errors or {})
        self.retry_after = retry_after

    @property
    def is_passing(self) -> bool:
        """Whether the fault is not in the request, so that the same one may succeed later."""
        return self.kind in _PASSING

    def fields(self) -> dict[str, Any]:
        """Return the arguments that make an equal error, all of them JSON."""
        return dict(vars(self))

    def body(self) -> dict[str, Any]:
        """Return a `RefusalBody`."""
        refusal: RefusalBody = {
            "error": {
                "type": self.type,
                "message": self.message,
                "details": self.details,
                "extra_info": self.extra_info,
            },
            "node_errors": self.node_errors,
        }
        return {**refusal}


def invalid_outputs(node_errors: Mapping[str, Any]) -> LocalError:
    """Return ComfyUI's refusal of a graph for what is wrong with its nodes."""
    return LocalError(
        "prompt_outputs_failed_validation",
        "Prompt outputs failed validation",
        node_errors=node_errors,
    )


def unconfirmed_refusal(refusal: LocalError) -> LocalError:
    """Return the refusal of a job that is still stored: the next leader may find and run it."""
    message = (
        f"{refusal.message} The proxy cannot delete the job from its database now, so the job may "
        "run later. Check the queue before you submit it again."
    )
    return LocalError(**{**refusal.fields(), "message": message, "kind": "unconfirmed"})


class PlainError(LocalError):
    """Raised for a refusal of routes that answer `{"error": message}`, with `more` beside it."""

    def __init__(self, message: str, *, kind: Kind = "invalid", **more: object) -> None:
        super().__init__(kind, message, kind=kind, extra_info=more)

    @classmethod
    def of(cls, error: LocalError) -> PlainError:
        """Return a `LocalError` in this form."""
        if isinstance(error, cls):
            return error
        made = cls(error.message, kind=error.kind)
        made.type = error.type
        made.retry_after = error.retry_after
        return made

    def body(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"error": self.message, **self.extra_info}


#: The refusal of a deployment that cannot be used, because its list of nodes cannot be read.
WITHOUT_NODES = "DEPLOYMENT_WITHOUT_NODES"

_PASSING = frozenset({"rate_limited", "internal", "bad_answer", "unavailable", "unconfirmed"})


_NEW_KEY = "an admin of this proxy must put a key of its workspace into the account's key_file"

#: What a refusal of `POST /api/prompt` means for the person, by the cloud's `error.type`, and one
#: of a download.
_WAYS_OUT = {
    "PAYMENT_REQUIRED": "add credits to the Comfy Cloud account",
    "CLOUD_SUBSCRIPTION_REQUIRED": "subscribe to a Comfy Cloud plan with API access",
    "FREE_TIER_EXHAUSTED": "wait for the free allowance to renew, or subscribe to a plan",
    "PARTNER_NODE_PAYMENT_REQUIRED": "add credits for partner nodes to the Comfy Cloud account",
    "MODEL_PAYMENT_REQUIRED": "choose a model that the plan includes, or add credits",
    "PARTNER_NODE_DISABLED": "remove the node, or let the workspace's owner allow its provider",
    "QUEUE_LIMIT": "wait until some of the account's jobs have ended",
    "FREE_TIER_UNAVAILABLE": "try again later, or subscribe to a plan",
    "BILLING_UNAVAILABLE": "try again in a moment",
    "PLATFORM_REFUSED": "try again in a moment",
    "STORAGE_REFUSED": "try again in a moment",
    "DEPLOYMENT_KEY_REFUSED": _NEW_KEY,
    "DEPLOYMENT_ACCESS_REFUSED": _NEW_KEY,
    "DEPLOYMENT_CREDITS": "buy credits for the workspace, and start the deployment again",
    "DEPLOYMENT_STOPPED": "start it on platform.comfy.org; the proxy never starts a deployment",
    "DEPLOYMENT_STARTING": "the job is sent when it is ready",
    "DEPLOYMENT_BUSY": "the job is sent when there is room",
    "WORKFLOW_TOO_LARGE": "upload large values, such as pictures in base64, as files",
    "REDIRECT_REFUSED": "check the setting base_url",
}

_BY_STATUS = {
    402: "check the plan and the credits of the Comfy Cloud account",
    403: "check the limits of the plan of the Comfy Cloud account",
    413: "make the workflow or the file smaller",
    **dict.fromkeys((429, 500, 502, 503, 504), "try again in a moment"),
}

#: Refusals of a job that no wait mends, whatever their status: the documents have them under 402,
#: older ones under 429.
_BILLING = frozenset(
    {
        "PAYMENT_REQUIRED",
        "CLOUD_SUBSCRIPTION_REQUIRED",
        "FREE_TIER_EXHAUSTED",
        "PARTNER_NODE_PAYMENT_REQUIRED",
        "MODEL_PAYMENT_REQUIRED",
        "INSUFFICIENTFUNDSERROR",
        "INACTIVESUBSCRIPTIONERROR",
        "DEPLOYMENT_CREDITS",
    }
)

#: Refusals with 429 that are about the job and not about the number of requests.
_NOT_NOW = frozenset(
    {"QUEUE_LIMIT", "FREE_TIER_UNAVAILABLE", "BILLING_UNAVAILABLE", "PLATFORM_REFUSED"}
    | {"DEPLOYMENT_NOT_READY", "QUEUE_FULL", "TOO_MANY_STREAMS"}
    | {"DEPLOYMENT_STARTING", "DEPLOYMENT_BUSY"}
)

#: Codes of refusals that the cloud's documents list, beside those above; those of graphs that
#: cannot run are ComfyUI's own.
_LISTED = frozenset(
    {
        *_WAYS_OUT,
        *_BILLING,
        *("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "BAD_REQUEST", "PAYLOAD_TOO_LARGE"),
        *("INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", "FORMAT_NOT_ALLOWED"),
        *("INVALID_TAG_FILTER", "INVALID_PREVIEW_ID", "ASSET_ID_UNAVAILABLE", "ASSET_IN_USE"),
        *("WORKSPACE_ID_INVALID", "WORKSPACE_ACCESS_DENIED", "NO_WORKSPACE_ACCESS"),
        *("ORIGIN_NOT_ALLOWED", "CROSS_SITE_REQUEST", "CSRF_INVALID"),
        *("SSO_REQUIRED", "AUTH_TYPE_NOT_ALLOWED"),
        *("INVALID_PROMPT", "NO_PROMPT", "MISSING_NODE_TYPE"),
        *("PROMPT_NO_OUTPUTS", "PROMPT_OUTPUTS_FAILED_VALIDATION"),
        # API v2
        *("INVALID_REQUEST", "INVALID_METADATA_FILTER", "INVALID_CURSOR", "INSUFFICIENT_CREDITS"),
        *("PUBLIC_DEPLOYMENT_NO_LIST", "JOB_NOT_FOUND", "ASSET_NOT_FOUND", "BLOB_NOT_FOUND"),
        *("OUTPUT_UNAVAILABLE", "HASH_MISMATCH", "INVALID_WORKFLOW", "WORKFLOW_FORMAT_UI"),
        *("MISSING_ASSET", "IDEMPOTENCY_KEY_REUSE", "DEPLOYMENT_STOPPED", "METADATA_INVALID"),
        *("METADATA_NOT_SUPPORTED", "VALIDATION_ERROR", "INVALID_BODY", "DEPLOYMENT_NOT_READY"),
        *("QUEUE_FULL", "RATE_LIMITED", "TOO_MANY_STREAMS", "UPSTREAM_ERROR", "NOT_IMPLEMENTED"),
        *("UPSTREAM_UNREACHABLE",),
    }
)

_LISTED_STATUSES = frozenset(
    {400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 416, 422, 425, 429}
    | {500, 502, 503, 504, 520, 521, 522, 523, 524}
)

_KEY_REFUSED = (
    "Comfy Cloud does not accept the API key of this proxy; its admin must set a valid one, as in "
    "COMFY_CLOUD_API_KEY"
)

#: Seconds after which it is worth asking a busy cloud again, where it does not say.
_BUSY_WAIT = 10.0


def from_cloud(status: int, body: object, retry_after: float | None = None) -> LocalError:
    """Return a refusal of the cloud in ComfyUI's form.

    Reads `{"error": {…}, "node_errors": {…}}`, `{"code", "message"}` and plain text; fills what
    node errors lack. A 4xx is the request's fault, but a 401 the proxy's, since the client has no
    credential to correct; every 5xx makes the cloud unavailable. So does a 429 that passes by
    itself: a local ComfyUI never says 429, and it is the account that has asked too often, not this
    client. `retry_after` is in seconds.
    """
    error, node_errors = _read(body)
    type_ = str(error.get("type") or error.get("code") or f"cloud_{status}")
    message = str(error.get("message") or "Comfy Cloud refused the request")
    way_out = _WAYS_OUT.get(type_) or (None if node_errors else _BY_STATUS.get(status))
    if status == 401 and type_ not in _WAYS_OUT:  # the client has no key that it could correct
        message = f"{_KEY_REFUSED} ({message.rstrip('. ')})."
    elif way_out is not None:
        message = f"{message.rstrip('. ')}: {way_out}."
    extra_info = error.get("extra_info")
    busy = is_retryable(status, body)
    if busy and retry_after is None:
        retry_after = _BUSY_WAIT
    kind: Kind = "invalid"
    if busy or status == 401 or status >= 500:
        kind = "unavailable"
    elif status == 413:
        kind = "too_large"
    return LocalError(
        type_,
        message,
        kind=kind,
        details=str(error.get("details") or ""),
        extra_info=extra_info if isinstance(extra_info, dict) else _more(error),
        node_errors=node_errors,
        retry_after=retry_after,
    )


def is_retryable(status: int, body: object) -> bool:
    """Return whether the same submission may be accepted later.

    The meaning of 402 and 429 has changed between the cloud's documents, so a 429 is judged by
    its type. No document names the type of an ordinary rate limit: every one that is not about
    billing may pass.
    """
    return status == 503 or (status == 429 and not is_billing(body))


def is_billing(body: object) -> bool:
    """Return whether a refusal says that the account's plan or credits do not cover the job."""
    return type_of(body) in _BILLING


def is_throttling(body: object) -> bool:
    """Return whether the body of a 429 is about the number of requests and not about the job."""
    return type_of(body) not in _BILLING | _NOT_NOW


def type_of(body: object) -> str | None:
    """Return `error.type` or `code` in capital letters, `None` where there is none."""
    error, _ = _read(body)
    type_ = error.get("type") or error.get("code")
    return None if type_ is None else str(type_).upper()


def unlisted(status: int, body: object) -> str | None:
    """Return what part of a refusal no document lists: `status`, `code` or `body`, else `None`.

    Text is listed with any status: gateways and the routes of user data answer so.
    """
    if status not in _LISTED_STATUSES:
        return "status"
    type_ = type_of(body)
    if type_ is not None:
        return None if type_ in _LISTED else "code"
    known = isinstance(body, str) or (isinstance(body, dict) and {"error", "message"} & body.keys())
    return None if known else "body"


def fill_node_errors(node_errors: object) -> dict[str, Any]:
    """Return the cloud's node errors with the fields that local clients read unconditionally."""
    if not isinstance(node_errors, dict):
        return {}
    return {
        str(node): {
            "dependent_outputs": [],
            "class_type": "",
            **about,
            "errors": [
                {"type": "", "message": "", "details": "", "extra_info": {}, **error}
                for error in list_of(about.get("errors"))
                if isinstance(error, dict)
            ],
        }
        for node, about in node_errors.items()
        if isinstance(about, dict)
    }


def _read(body: object) -> tuple[dict[str, Any], dict[str, Any]]:
    if not isinstance(body, dict):
        text = body.strip() if isinstance(body, str) else ""
        return ({"message": text[:500]} if text and "<" not in text else {}), {}
    error = body.get("error")
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        error = {key: body[key] for key in ("code", "message", "details") if key in body}
    return error, fill_node_errors(body.get("node_errors"))


def _more(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the cloud says beyond ComfyUI's four fields, such as `class_types` and
    `reason`."""
    known = ("type", "code", "message", "details", "extra_info")
    return {key: value for key, value in error.items() if key not in known}


def failure_of(refusal: LocalError) -> dict[str, Any]:
    """Return a refusal of the cloud as the failure of a run, with the first node that it names."""
    node_id = next(iter(refusal.node_errors), None)
    about = refusal.node_errors.get(node_id, {}) if node_id is not None else {}
    errors = field_of(about, "errors") or []
    causes = [
        f"{error.get('message', '')}: {error.get('details', '')}".strip(": ") for error in errors
    ]
    lines = [refusal.message, refusal.details, *causes]
    return {
        "node_id": node_id,
        "node_type": field_of(about, "class_type"),
        "exception_type": refusal.type,
        "exception_message": "\n".join(line for line in dict.fromkeys(lines) if line),
        "traceback": [],
    }
