"""Logs: structlog for ours and for those of the libraries, with secrets removed on the way.

A line carries the names that are bound where it is written (`job`, `member`): bind them with
`structlog.contextvars.bound_contextvars`. Lines on behalf of a request carry those of its
`RequestContext` too.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Literal, TextIO
from urllib.parse import quote, quote_plus

import structlog
from msgspec import Struct
from structlog.typing import EventDict, Processor, WrappedLogger

from proxy.runtime import clock, randomness

_log = structlog.get_logger(__name__)

REMOVED = "[removed]"

#: Shorter values are no secrets: removing them would only make lines unreadable.
_SHORTEST_SECRET = 6

#: Libraries whose `info` and `debug` are noise unless everything is asked for.
TALKATIVE = ("aiohttp.access", "asyncio", "PIL")

_KEY_NAMES = (
    r"api[_-]?key(?:_comfy_org)?|auth_token(?:_comfy_org)?|x-api-key|token|access_token|password"
)


def _shapes(user_end: str) -> re.Pattern[str]:
    """Return the pattern of what is a secret by its shape, each with the part that may stay.

    It runs over text that a client has chosen, so its cost is linear: no part that can start
    anywhere scans to an end that may be missing. `user_end` is what follows the user in a URL.
    """
    return re.compile(
        r"(?P<authorization>\bauthorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\",]+"
        r"|(?P<bearer>\bbearer\s+)[^\s'\",]+"
        rf"|(?P<user>://)[^\s/@'\"]++(?={user_end})"
        r"|(?P<signed>\b(?:x-goog-|x-amz-)?(?:signature|credential|security-token)=)[^\s&'\"]+"
        rf"|(?P<field>(?<![\w-])(?:{_KEY_NAMES})['\"]?\s*[:=]\s*['\"]?)[^\s&'\",}})\]]+"
        r"|(?P<member>cc[pi]_[a-z2-7]{8})[a-z2-7]{8,}"
        r"|\bcomfyui-[A-Za-z0-9_-]{6,}"
        r"|\bwhsec_[A-Za-z0-9+/_-]{6,}=*",
        re.IGNORECASE,
    )


_SHAPES = _shapes("@")
#: For the beginning of a text: its last URL may have a user whose `@` is cut off.
_SHAPES_CUT = _shapes(r"@|\Z")

#: Characters behind a limit that are looked at too, as a secret may begin before the limit; more if
#: a registered secret is longer.
_MARGIN = 256

_registered: set[str] = set()
_registered_pattern: re.Pattern[str] | None = None
_margin = _MARGIN


def register_secret(value: str) -> None:
    """Remove `value` from every line from now on, as it is and as URLs and JSON spell it."""
    global _margin, _registered_pattern
    if len(value) < _SHORTEST_SECRET:
        return
    _registered.update((value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]))
    longest_first = sorted(_registered, key=len, reverse=True)
    _registered_pattern = re.compile("|".join(map(re.escape, longest_first)))
    _margin = max(_MARGIN, len(longest_first[0]))


def scrub(text: str, shapes: re.Pattern[str] = _SHAPES) -> str:
    """Return the text without registered secrets and without what has one of the `shapes`."""
    if _registered_pattern is not None:
        text = _registered_pattern.sub(REMOVED, text)
    return shapes.sub(_keep_label, text)


def scrub_start(text: str, limit: int) -> str:
    """Return at most `limit` characters of the scrubbed text, with no part of a secret at the end.

    The cost depends on `limit`, whatever the length of the text.
    """
    if len(text) <= limit + _margin:
        return scrub(text)[:limit]
    # A secret that the cut has made unrecognizable is within the last `_margin` characters.
    return scrub(text[: limit + _margin], _SHAPES_CUT)[:-_margin][:limit]


def _keep_label(match: re.Match[str]) -> str:
    return (match[match.lastgroup] if match.lastgroup else "") + REMOVED


def remove_secrets(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Scrub every field, nested ones and exceptions too, and cut what is long; for structlog."""
    return {scrub(str(name)): _scrub_value(value, str(name)) for name, value in event_dict.items()}


_SECRET_NAME = re.compile(rf"(?:{_KEY_NAMES}|authorization|cookie|set-cookie)\Z", re.IGNORECASE)


#: Fields that have line ends of their own; of the rest one would look like another entry.
_OF_MANY_LINES = frozenset({"exception", "stack"})
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

#: Characters of a field that are written; of exceptions and stacks.
_MAX_FIELD, _MAX_EXCEPTION = 4_000, 50_000
#: Items of a collection that are written, and levels of nested ones.
_MAX_ITEMS, _MAX_DEPTH = 50, 5


def _one_line(text: str) -> str:
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _scrub_value(value: object, name: str = "", depth: int = 0) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if name and _SECRET_NAME.match(name):
        return REMOVED
    if isinstance(value, str):
        return _scrub_text(value, name)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth >= _MAX_DEPTH:
            return f"<{type(value).__name__}>"
        items = islice(value.items() if isinstance(value, Mapping) else value, _MAX_ITEMS)
        if isinstance(value, Mapping):
            return {
                _scrub_text(str(key)): _scrub_value(item, str(key), depth + 1)
                for key, item in items
            }
        return [_scrub_value(item, depth=depth + 1) for item in items]
    return _scrub_text(str(value))


def _scrub_text(text: str, name: str = "") -> str:
    """Return a text as it is written in the field `name`."""
    if name in _OF_MANY_LINES:
        return scrub_start(text, _MAX_EXCEPTION)
    if len(text) > _MAX_FIELD:
        text = text[: _MAX_FIELD + _margin + 1]
    return scrub_start(_one_line(text), _MAX_FIELD)


#: Text that may be shown: a word of an interface, and no sentence, address, id or hash.
_WORD = re.compile(r"[A-Za-z][A-Za-z_.-]*(?:\d{1,4}[A-Za-z_.-]*){0,3}")
_LONGEST_WORD = 48
_DEEPEST, _ITEMS, _KEYS = 5, 2, 24


def without_secrets(value: object, depth: int = 0) -> Any:
    """Return the form of a value: its keys, numbers and words; of other text only the length.

    So no key, signed URL, id or prompt is in it, and its size is bounded.
    """
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 2**63 else "<number>"
    if isinstance(value, str):
        return public_word(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes, {value[:8].hex()}>"
    if depth >= _DEEPEST:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        items = list(value.items())[:_KEYS]
        return {public_word(str(key)): without_secrets(item, depth + 1) for key, item in items}
    if isinstance(value, list):
        return [without_secrets(item, depth + 1) for item in value[:_ITEMS]]
    return f"<{type(value).__name__}>"


def public_word(text: str) -> str:
    """Return a word that the cloud has chosen, as it may be shown; of other text the length."""
    plain = len(text) <= _LONGEST_WORD and _WORD.fullmatch(text) and scrub(text) == text
    return text if plain else f"<text of {len(text)}>"


@dataclass(slots=True, eq=False)
class RequestContext:
    """What lines about one request carry: its id, its member and how logs name its token.

    Made for each request, so that nothing is written down before a line asks for it.
    """

    member: str | None = None
    token_id: str | None = None
    _id: str | None = field(init=False, default=None)

    @property
    def id(self) -> str:
        """Twelve random letters."""
        if self._id is None:
            self._id = randomness.token_hex(6)
        return self._id


_request: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def begin_request() -> RequestContext:
    """Return a context for the lines of this task and of those that it starts."""
    context = RequestContext()
    _request.set(context)
    return context


def _bound() -> dict[str, object]:
    """Return the names that are bound where a line is written."""
    context = _request.get()
    if context is None:
        return structlog.contextvars.get_contextvars()
    about = {"member": context.member, "token_id": context.token_id, "request_id": context.id}
    names = {name: value for name, value in about.items() if value is not None}
    return {**names, **structlog.contextvars.get_contextvars()}


def _merge_bound(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    return {**_bound(), **event_dict}


#: What every line goes through once, however many handlers write it.
_COMMON: tuple[Processor, ...] = (
    _merge_bound,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
    remove_secrets,
)


def _formatter(*rendering: Processor) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_COMMON,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
    )


_LEVEL_COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if not text or " " in text else text


class TerminalRenderer:
    """Renders a line for a person: the local time to the second, a sentence, then the fields.

    The name of the module is left out; the level is named from `warning` on.
    """

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
        """Return the line, with the traceback below it if there is one."""
        fields = dict(event_dict)
        level = str(fields.pop("level", "info"))
        moment = datetime.fromisoformat(str(fields.pop("timestamp"))).astimezone()
        fields.pop("logger", None)
        below = [str(fields.pop(name)) for name in ("stack", "exception") if name in fields]
        event = str(fields.pop("event", ""))
        # The name of an event is `noun_verb`; lines of other libraries are sentences already.
        sentence = event.replace("_", " ").capitalize() if event.isidentifier() else event
        if level in _LEVEL_COLORS:
            word = f"{level.capitalize()}:"
            sentence = f"{self._styled(word, _LEVEL_COLORS[level])} {sentence}"
        about = "  ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
        line = f"{self._styled(f'{moment:%H:%M:%S}', _DIM)} {sentence}"
        return "\n".join([f"{line}  {self._styled(about, _DIM)}" if about else line, *below])

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colors else text


def configure(
    *,
    log_format: Literal["console", "json"] = "console",
    log_level: Literal["debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
) -> logging.Handler:
    """Send all logs to `stream` (standard error), ours and the standard library's alike.

    Returns what writes them.

    A terminal gets colors unless the variable `NO_COLOR` is set (https://no-color.org).
    """
    stream = stream or sys.stderr
    least = logging.getLevelNamesMapping()[log_level.upper()]
    renderer: Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    elif stream.isatty():
        renderer = TerminalRenderer(colors=not os.environ.get("NO_COLOR"))
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(renderer))
    structlog.configure(
        processors=[*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(least)
    logging.captureWarnings(True)
    quiet = logging.DEBUG if least == logging.DEBUG else logging.WARNING
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(quiet, logging.INFO))
    return handler


#: Kinds of lines that are remembered.
_MAX_KINDS = 1000


class _SummedKind(Struct):
    """The lines of one kind: when one was written last, and how many were not since; when the first
    came, and how many have come in all."""

    written_at: float
    left_out: int
    began: float
    count: int


class SummedLines:
    """Lines that anybody may cause: one a second of each kind, which tells how many were left out
    before it."""

    interval = 1.0

    def __init__(self) -> None:
        self._kinds: dict[str, _SummedKind] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def due(self, kind: str) -> dict[str, int] | None:
        """Count a line of a kind. Return the fields that it has more, `None` if it is left out."""
        now = clock.source.monotonic()
        summed = self._kinds.get(kind)
        if summed is None:
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            self._kinds[kind] = _SummedKind(now, 0, now, 1)
            return {}
        summed.count += 1
        if now - summed.written_at < self.interval:
            summed.left_out += 1
            return None
        left_out, summed.left_out, summed.written_at = summed.left_out, 0, now
        return {"left_out": left_out} if left_out else {}


class FailureLines(SummedLines):
    """Lines about what fails again and again: one when that begins, one a minute, and one when it
    has ended."""

    interval = 60.0

    def ended(self, kind: str) -> None:
        """Note that a failure is over, and write how often it came and for how long, if it came
        more than once."""
        summed = self._kinds.pop(kind, None)
        if summed is not None and summed.count > 1:
            seconds = round(clock.source.monotonic() - summed.began, 1)
            _log.info("failure_ended", failure=kind, count=summed.count, seconds=seconds)


class _MembersLines(logging.Handler):
    """Passes on the lines that concern a member, and those alone."""

    def __init__(self, tell: Callable[[str, float, str], None]) -> None:
        super().__init__()
        self._tell = tell
        renderer = structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
        self.setFormatter(_formatter(_for_members, renderer))

    def emit(self, record: logging.LogRecord) -> None:
        """Tell whom the line concerns, when it was written and what it says."""
        bound = record.msg if isinstance(record.msg, dict) else _bound()
        member = bound.get("member")
        if isinstance(member, str):
            self._tell(member, record.created, self.format(record))


def _for_members(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Remove fields that the line does not show, and internals of the server."""
    hidden = ("timestamp", "member", "exception", "stack", "account", "cloud_job", "token_id")
    return {name: value for name, value in event_dict.items() if name not in hidden}


@contextmanager
def forwarded_lines(tell: Callable[[str, float, str], None]) -> Iterator[None]:
    """Call `tell` with each line that concerns a member, for as long as the block runs.

    It gets the member, the time (seconds since 1970) and the text without secrets, in whatever
    thread the line is written.
    """
    handler = _MembersLines(tell)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def log_crashes() -> None:
    """Log an error that ends the process, scrubbed, instead of a bare traceback."""

    def log_crash(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        logging.getLogger("proxy").critical(
            "stopped by an error that nothing expected", exc_info=(kind, error, traceback)
        )

    sys.excepthook = log_crash
