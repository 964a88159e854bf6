"""No secret reaches a log line, whoever writes it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import structlog
from cpu_time import least_seconds
from hypothesis import given
from hypothesis import strategies as st
from quiet import logging_restored
from stopped_clock import stopped
from structlog.testing import capture_logs

from proxy import logging as logs

KEY = 'canary/+key "0123456789'


@pytest.fixture(autouse=True)
def _restore_logging(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logs, "_registered", set())
    monkeypatch.setattr(logs, "_registered_pattern", None)
    monkeypatch.setattr(logs, "_margin", logs._MARGIN)
    with logging_restored():
        yield


@pytest.fixture(params=["console", "json"])
def stream(request: pytest.FixtureRequest) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(log_format=request.param, log_level="debug", stream=stream)
    return stream


def test_a_registered_secret_is_removed_from_every_field(stream: io.StringIO) -> None:
    logs.register_secret(KEY)
    structlog.get_logger().info(
        f"key {KEY}", plain=KEY, nested={"a": [KEY, (KEY,)]}, other=ValueError(KEY)
    )
    assert stream.getvalue().count(logs.REMOVED) == 5
    assert "canary" not in stream.getvalue()


def test_a_registered_secret_is_removed_from_an_exception_and_its_cause(
    stream: io.StringIO,
) -> None:
    logs.register_secret(KEY)
    try:
        try:
            raise KeyError(KEY)
        except KeyError as error:
            raise RuntimeError(f"no {KEY}") from error
    except RuntimeError:
        structlog.get_logger().exception("failed")
    assert "RuntimeError" in stream.getvalue()
    assert "canary" not in stream.getvalue()


def test_lines_of_the_standard_library_are_scrubbed_too(stream: io.StringIO) -> None:
    logging.getLogger("aiohttp.server").warning("GET /ws?clientId=a&token=%s HTTP/1.1", "canary")
    try:
        raise RuntimeError("Bearer canary")
    except RuntimeError:
        logging.getLogger("aiohttp.server").exception("Error handling request")
    assert "clientId=a" in stream.getvalue()
    assert "canary" not in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key comfyui-canary12345 used", "key [removed] used"),
        ("Authorization: Bearer canary", "Authorization: Bearer [removed]"),
        ("Authorization: Basic Y2FuYXJ5", "Authorization: Basic [removed]"),
        ("{'X-API-Key': 'canary'}", "{'X-API-Key': '[removed]'}"),
        ('{"api_key_comfy_org": "canary"}', '{"api_key_comfy_org": "[removed]"}'),
        (
            "wss://c.example/ws?token=canary&clientId=1",
            "wss://c.example/ws?token=[removed]&clientId=1",
        ),
        (
            "https://s.example/f.png?X-Goog-Credential=canary&X-Goog-Signature=canary&x=1",
            "https://s.example/f.png?X-Goog-Credential=[removed]&X-Goog-Signature=[removed]&x=1",
        ),
        (
            "https://s.example/f.png?Expires=1&Signature=canary",
            "https://s.example/f.png?Expires=1&Signature=[removed]",
        ),
        ("http://ada:canary@proxy.example:3128/", "http://[removed]@proxy.example:3128/"),
    ],
)
def test_what_has_the_shape_of_a_secret_is_removed(text: str, expected: str) -> None:
    assert logs.scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sampling 12 tokens",
        "job 5a1b of member local",
        "http://127.0.0.1:8188/view?filename=a.png&type=output",
        "ada@example.org",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert logs.scrub(text) == text


def test_a_field_named_like_a_secret_is_removed_whole(stream: io.StringIO) -> None:
    structlog.get_logger().info("request", headers={"X-API-Key": "canary", "Accept": "text/html"})
    assert "text/html" in stream.getvalue()
    assert "canary" not in stream.getvalue()


def test_a_short_value_is_not_taken_for_a_secret() -> None:
    logs.register_secret("a")
    assert logs.scrub("a cat") == "a cat"


def test_json_lines_carry_what_is_bound() -> None:
    stream = io.StringIO()
    logs.configure(log_format="json", stream=stream)
    with structlog.contextvars.bound_contextvars(request_id="r1", job="j1", member="local"):
        structlog.get_logger("proxy.jobs").info("submitted", steps=20)
        logging.getLogger("aiohttp.server").warning("odd")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert ours["event"] == "submitted"
    assert (ours["job"], ours["steps"], ours["level"]) == ("j1", 20, "info")
    assert ours["logger"] == "proxy.jobs"
    assert (theirs["request_id"], theirs["event"]) == ("r1", "odd")


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    logs.configure(log_level="warning", stream=stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("aiohttp.access").info("quiet")
    assert stream.getvalue() == ""


def written_at_terminal(monkeypatch: pytest.MonkeyPatch, write: Callable[[], None]) -> str:
    """What `write` logs at a terminal without colors, in a time zone two hours east of UTC."""
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TZ", "East-2")
    time.tzset()
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
            logs.configure(stream=terminal)
            write()
        written = bytearray()
        with contextlib.suppress(OSError):  # EIO: all was read, and the other end is closed
            while piece := os.read(ours, 65536):
                written += piece
        return written.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        monkeypatch.undo()
        time.tzset()


def test_a_line_at_a_terminal_is_a_sentence_at_the_local_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write() -> None:
        structlog.get_logger("proxy.jobs").info("job_ended", job="j1", label="a b")

    begun = datetime.now(UTC)
    line = written_at_terminal(monkeypatch, write)
    moment, _, rest = line.partition(" ")
    assert rest == "Job ended  job=j1  label='a b'\n"
    hour = int(moment[:2])
    assert hour in {(begun.hour + 2) % 24, (begun.hour + 3) % 24}
    assert re.fullmatch(r"\d\d:\d\d:\d\d", moment)


def test_a_terminal_shows_the_level_of_what_needs_attention_and_the_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write() -> None:
        logging.getLogger("aiohttp.server").warning("The peer is odd.")
        try:
            raise KeyError("gone")
        except KeyError:
            structlog.get_logger().exception("job_lost", job="j1")

    first, second, *below = written_at_terminal(monkeypatch, write).splitlines()
    assert first.endswith(" Warning: The peer is odd.")
    assert second.endswith(" Error: Job lost  job=j1")
    assert below[0] == "Traceback (most recent call last):"
    assert below[-1] == "KeyError: 'gone'"


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_a_terminal_gets_colors_unless_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, no_color: str, colored: bool
) -> None:
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
            logs.configure(stream=terminal)
            structlog.get_logger().info("something_happened")
        assert (b"\x1b[" in os.read(ours, 4096)) is colored
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    "part",
    ["a.a.", "://a", "://", "a", " ", "token=", "token ", "bearer ", "ccp_", "comfyui-", "x-amz-"],
)
def test_the_cost_of_scrubbing_grows_with_the_length_alone(part: str) -> None:
    text = "token" + part * (600_000 // len(part))
    assert least_seconds(lambda: logs.scrub(text)) < 1  # minutes where each start scans to the end


#: Characters that no filler has, so that any of them in the result is a part of a secret.
_SECRET = st.text(st.sampled_from("QXZ789"), min_size=10, max_size=300)
_SPELLED = st.one_of(
    *(
        st.builds(spelling.format, _SECRET)
        for spelling in (
            "comfyui-{}",
            "Bearer {}",
            "token={}",
            "wss://{}@a",
            "wss://a:{}@b",
            "'password': '{}'",
            "&x-goog-signature={}",
        )
    ),
    st.just("Q7X8Z9Q7X8Z9Q7X8Z9" * 20),
)
_FILLER = st.text(st.sampled_from("ab .:/@&=\n"), max_size=60).map(lambda text: f" {text} ")
_TEXTS = st.lists(st.one_of(_FILLER, _SPELLED.map(lambda text: f" {text} ")), max_size=12)


@given(texts=_TEXTS, limit=st.integers(0, 800))
def test_no_part_of_a_secret_stays_wherever_a_text_is_cut(texts: list[str], limit: int) -> None:
    logs.register_secret("Q7X8Z9Q7X8Z9Q7X8Z9" * 20)
    text = "".join(texts)
    cut = logs.scrub_start(text, limit)
    assert len(cut) <= limit
    assert not set(cut) & set("QXZ789")
    assert not set(logs.scrub(text)) & set("QXZ789")


def test_a_long_field_is_cut_and_a_long_list_too() -> None:
    stream = io.StringIO()
    logs.configure(log_format="json", stream=stream)
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    structlog.get_logger().info(
        "odd", text="a.\n" * 100_000, items=["b" * 100_000] * 1000, deep=deep, names={"c" * 9999: 1}
    )
    assert len(stream.getvalue()) < 300_000
    assert json.loads(stream.getvalue())["text"].startswith("a.\\na.\\n")


def test_of_lines_of_a_kind_one_a_second_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = logs.SummedLines()
    clock = stopped(monkeypatch, 1.0)
    assert lines.due("a") == {}
    assert [lines.due("a") for _ in range(3)] == [None] * 3
    assert lines.due("b") == {}
    clock.at += 1.0
    assert lines.due("a") == {"left_out": 3}


def test_a_failure_that_lasts_has_a_line_a_minute_and_one_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = logs.FailureLines()
    clock = stopped(monkeypatch, 1.0)
    due = []
    with capture_logs() as written:
        for _ in range(100):
            due.append(lines.due("jobs_read_failed"))
            clock.at += 1.0
        lines.ended("jobs_read_failed")
        lines.ended("jobs_read_failed")
    assert [more for more in due if more is not None] == [{}, {"left_out": 59}]
    (line,) = written
    assert line["event"] == "failure_ended"
    assert (line["failure"], line["count"], line["seconds"]) == ("jobs_read_failed", 100, 100.0)
    assert lines.due("jobs_read_failed") == {}


def test_of_one_failure_the_end_is_not_written() -> None:
    lines = logs.FailureLines()
    with capture_logs() as written:
        assert lines.due("jobs_read_failed") == {}
        lines.ended("jobs_read_failed")
    assert written == []
