"""The simulator and the probe keep each other honest: each reports every position of the other."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest
from comfy_cloud_probe import Target, probe
from comfy_cloud_probe.points import POINTS, Findings
from yarl import URL

from proxy.simulator import Simulator, Switches
from proxy.simulator.account import Plan

#: Switches that no probe can see, or should not, with the reason.
UNSEEN = {
    "deployment_pick": "probe/tests/test_v2.py picks one",
    "listed_imports": "the account of the probe has no imports",
    "pace": "only changes how long a node takes",
    "dispatch": "only changes how long a job waits",
    "capacity_wait": "only changes how long a job waits",
    "answer_after_first_event": "the event and the answer are too close to tell their order",
    "executed_null": "no graph of the probe has equal nodes",
    "settle": "lasts too short a time to be the same in two runs",
    "queue_limit": "would take as many jobs as fit into the queue",
    "max_workflow_bytes": "would take a graph of several megabytes",
    "expired_status": "would take the life of a signed URL",
    "signed_url_life": "its seconds are in the note; they change nothing",
}

#: Positions of a visible switch that look like another one, with the reason.
ALIKE = {
    ("preview_format", "png"): "the picture is made as PNG",
}

_REFUSED = {"PAYMENT_REQUIRED": 402, "CLOUD_SUBSCRIPTION_REQUIRED": 402, "FREE_TIER_EXHAUSTED": 402}
_REFUSED |= {"PARTNER_NODE_PAYMENT_REQUIRED": 402, "MODEL_PAYMENT_REQUIRED": 402}
_REFUSED |= {"PARTNER_NODE_DISABLED": 403, "QUEUE_LIMIT": 429, "FREE_TIER_UNAVAILABLE": 429}
_REFUSED |= {"BILLING_UNAVAILABLE": 429, "PLATFORM_REFUSED": 429}

#: Positions of throttling, which are seen together, and the limit of reads a second.
_THROTTLED = {"rate_limit_retry_after", "rate_limit_form", "rate_limit_code"}
_LIMIT = 2

#: What each position of each switch looks like: switch, position, point, observation.
SEEN: list[tuple[str, Any, str, str | None]] = [
    ("late_answer", 0.0, "answer_order", "answer first"),
    ("late_answer", 1.0, "answer_order", "event first"),
    ("late_detail", 0.0, "detail_delay", "complete within 1 s"),
    ("late_detail", 4.0, "detail_delay", "later, in_progress"),
    ("late_detail_form", "in_progress", "detail_delay", "later, in_progress"),
    ("late_detail_form", "no_outputs", "detail_delay", "later, no outputs"),
    ("refuse_prompt", None, "submission", "accepted"),
    *(("refuse_prompt", code, "submission", f"{at} {code}") for code, at in _REFUSED.items()),
    ("refuse_prompt", "INTERNAL", "submission", "500 INTERNAL_SERVER_ERROR"),
    ("refuse_prompt", "UNAVAILABLE", "submission", "503 SERVICE_UNAVAILABLE"),
    ("billing_status", 402, "submission", "402 PAYMENT_REQUIRED"),
    ("billing_status", 429, "submission", "429 PAYMENT_REQUIRED"),
    ("bare_acceptance", False, "submission", "accepted"),
    ("bare_acceptance", True, "submission", "accepted, no prompt_id"),
    ("retry_after", 7, "retry_after", "7 s"),
    ("retry_after", 0, "retry_after", "none"),
    ("invalid_prompt", "400", "invalid_prompt", "400 error and node_errors"),
    ("invalid_prompt", "200", "invalid_prompt", "200 error and node_errors"),
    ("invalid_prompt", "flat", "invalid_prompt", "400 code and message"),
    ("partly_valid", "run", "partly_valid", "runs, node_errors told"),
    ("partly_valid", "ghost", "partly_valid", "no job, node_errors told"),
    ("partly_valid", "silent", "partly_valid", "runs, nothing told"),
    ("node_error_details", True, "node_error_details", "yes"),
    ("node_error_details", False, "node_error_details", "no"),
    ("honour_prompt_id", True, "prompt_id", "honoured"),
    ("honour_prompt_id", False, "prompt_id", "minted"),
    ("repeated_prompt_id", "another", "prompt_id_again", "another job"),
    ("repeated_prompt_id", "same", "prompt_id_again", "the same job"),
    ("repeated_prompt_id", "refused", "prompt_id_again", "refused"),
    ("echo_client_id", True, "client_id", "echoed"),
    ("echo_client_id", False, "client_id", "absent"),
    ("node_packs", True, "krita_nodes", "all"),
    ("node_packs", False, "krita_nodes", "none"),
    ("v2", True, "v2_repeat", "422"),
    ("v2", False, "v2_repeat", "none"),
    ("cache_nodes", True, "cache", "reused"),
    ("cache_nodes", False, "cache", "run again"),
    ("preview", "metadata", "preview", "type 4"),
    ("preview", "metadata_with_type", "preview", "type 4 with image_type"),
    ("preview", "plain", "preview", "type 1"),
    ("preview", "none", "preview", "none"),
    ("preview_follows_flags", True, "preview_flags", "type 1"),
    ("preview_follows_flags", False, "preview_flags", "the same"),
    ("preview_format", "as_made", "preview_format", "png"),
    ("preview_format", "jpeg", "preview_format", "jpeg"),
    ("preview_format", "webp", "preview_format", "webp"),
    ("feature_flags", "pushed", "feature_flags", "pushed"),
    ("feature_flags", "asked", "feature_flags", "asked"),
    ("feature_flags", "never", "feature_flags", "never"),
    ("text_frames", "short", "text_frames", "without job id"),
    ("text_frames", "long", "text_frames", "with job id"),
    ("text_frames", "long_if_announced", "text_frames", "with job id if announced"),
    ("cached_when_empty", True, "cached_when_empty", "sent"),
    ("cached_when_empty", False, "cached_when_empty", "not sent"),
    ("executing_null", "before", "executing_null", "before"),
    ("executing_null", "after", "executing_null", "after"),
    ("executing_null", "never", "executing_null", "not sent"),
    ("final_status", "before", "final_status", "before"),
    ("final_status", "after", "final_status", "after"),
    ("final_status", "never", "final_status", "not sent"),
    ("timestamps", True, "timestamps", "milliseconds"),
    ("timestamps", False, "timestamps", "absent"),
    ("progress_state", "documented", "progress_state", "documented"),
    ("progress_state", "full", "progress_state", "full"),
    ("progress_state", "none", "progress_state", "not sent"),
    ("notifications", True, "notifications", "sent"),
    ("notifications", False, "notifications", "not sent"),
    ("foreign_messages", True, "foreign_messages", "sent"),
    ("foreign_messages", False, "foreign_messages", "not sent"),
    ("interrupted_pending", True, "cancel_pending", "execution_interrupted"),
    ("interrupted_pending", False, "cancel_pending", "none"),
    ("interrupted_running", True, "cancel_running", "execution_interrupted"),
    ("interrupted_running", False, "cancel_running", "none"),
    ("error_node", True, "error_node", "named"),
    ("error_node", False, "error_node", "not named"),
    ("exception_types", "python", "exception_type", "python"),
    ("exception_types", "cloud", "exception_type", "cloud"),
    ("handshake_headers", True, "socket_header", "open"),
    ("handshake_headers", False, "socket_header", "refused 401"),
    ("socket_cap", 0, "socket_cap", "3 open"),
    ("socket_cap", 2, "socket_cap", "2 open"),
    ("socket_idle", 0, "socket_idle", "open"),
    ("socket_idle", 1, "socket_idle", "closed"),
    ("interrupt_scope", "one", "interrupt_scope", "the named job"),
    ("interrupt_scope", "first_running", "interrupt_scope", "the oldest running job"),
    ("interrupt_scope", "all_running", "interrupt_scope", "all running jobs"),
    ("rate_limit", 0, "burst", "answered"),
    ("rate_limit", _LIMIT, "burst", "throttled"),
    ("rate_limit_retry_after", False, "throttle_retry_after", "none"),
    ("rate_limit_retry_after", True, "throttle_retry_after", "1 s"),
    ("rate_limit_form", "text", "throttle_form", "text"),
    ("rate_limit_form", "empty", "throttle_form", "empty"),
    ("rate_limit_form", "flat", "throttle_form", "message"),
    ("rate_limit_form", "nested", "throttle_form", "error"),
    ("rate_limit_code", "", "throttle_code", "none"),
    ("rate_limit_code", "SLOW_DOWN", "throttle_code", "SLOW_DOWN"),
    ("display_name", True, "display_name", "present"),
    ("display_name", False, "display_name", "absent"),
    ("executed_display_name", True, "executed_display_name", "present"),
    ("executed_display_name", False, "executed_display_name", "absent"),
    ("output_ids", True, "output_ids", "present"),
    ("output_ids", False, "output_ids", "absent"),
    ("executed_names", "hash", "executed_names", "hash"),
    ("executed_names", "display", "executed_names", "display"),
    ("output_subfolder", "item", "output_subfolder", "subfolder"),
    ("output_subfolder", "display_name", "output_subfolder", "display_name"),
    ("output_subfolder", "nowhere", "output_subfolder", "nowhere"),
    ("video_keys", "video", "video_keys", "video"),
    ("video_keys", "both", "video_keys", "video, videos"),
    ("video_keys", "images", "video_keys", "animated, images"),
    ("create_time", "ms", "create_time", "milliseconds"),
    ("create_time", "s", "create_time", "seconds"),
    ("error_detail", "object", "error_detail", "object"),
    ("error_detail", "string", "error_detail", "text"),
    ("raw_statuses", True, "raw_status", "success"),
    ("raw_statuses", False, "raw_status", "completed"),
    ("queue_prompt", "graph", "queue_prompt", "graph"),
    ("queue_prompt", "wrapper", "queue_prompt", "wrapper"),
    ("queue_delete_running", True, "queue_delete", "cancels it"),
    ("queue_delete_running", False, "queue_delete", "leaves it"),
    ("bare_answers", "empty", "history_delete", "empty"),
    ("bare_answers", "object", "history_delete", "object"),
    ("upload_kinds", "images", "upload_kinds", "images"),
    ("upload_kinds", "media", "upload_kinds", "images and audio"),
    ("upload_kinds", "any", "upload_kinds", "any"),
    ("listed_uploads", "images", "listed_uploads", "refused"),
    ("listed_uploads", "any", "listed_uploads", "accepted"),
    ("asset_uploads", True, "asset_upload", "loader_path"),
    ("asset_uploads", False, "asset_upload", "refused"),
    ("upload_names", "extension", "upload_name", "<64 hex>.<ext>"),
    ("upload_names", "bare", "upload_name", "<64 hex>"),
    ("upload_names", "prefixed", "upload_name", "blake3:<64 hex>.<ext>"),
    ("upload_names", "upper", "upload_name", "<64 HEX>.<EXT>"),
    ("annotated_names", True, "annotated_name", "accepted"),
    ("annotated_names", False, "annotated_name", "refused"),
    ("storage_range", True, "storage_range", "206"),
    ("storage_range", False, "storage_range", "200"),
    ("storage_content_type", True, "storage_content_type", "of the file"),
    ("storage_content_type", False, "storage_content_type", "octet-stream"),
    ("model_previews", True, "model_preview", "picture"),
    ("model_previews", False, "model_preview", "404"),
    ("template_pictures", True, "template_picture", "picture"),
    ("template_pictures", False, "template_picture", "404"),
    ("refuse_account", None, "user", "200"),
    ("refuse_account", "FORBIDDEN", "user", "403 FORBIDDEN"),
    ("refuse_account", "workspace_access_denied", "user", "403 workspace_access_denied"),
    ("refuse_account", "no_workspace_access", "user", "403 no_workspace_access"),
    ("refuse_account", "origin_not_allowed", "user", "403 origin_not_allowed"),
    ("refuse_account", "sso_required", "user", "403 sso_required"),
    ("refuse_account", "auth_type_not_allowed", "user", "403 auth_type_not_allowed"),
    ("announced_slots", False, "max_concurrent_jobs", "absent"),
    ("announced_slots", True, "max_concurrent_jobs", "1"),
    ("billing_for_keys", False, "billing_status", "401 UNAUTHORIZED"),
    ("billing_for_keys", True, "billing_status", "200"),
    ("executors", False, "job_executor", "absent"),
    ("executors", True, "job_executor", "executor and deployment"),
    ("healthy", True, "health", "200"),
    ("healthy", False, "health", "503"),
]

#: What must be set too for a switch to show.
_TOGETHER: dict[str, dict[str, Any]] = {
    "billing_status": {"refuse_prompt": "PAYMENT_REQUIRED"},
    "late_detail_form": {"late_detail": 4.0},
    "retry_after": {"refuse_prompt": "BILLING_UNAVAILABLE"},
    "repeated_prompt_id": {"honour_prompt_id": True},
}

#: Switches that end a probe early or hide other points: each position but the usual one has a probe
#: of its own.
_ALONE = {
    "bare_acceptance",
    "billing_status",
    "refuse_prompt",
    "repeated_prompt_id",
    "refuse_account",
    "retry_after",
    "late_detail",
    "late_detail_form",
    "late_answer",
    "socket_idle",
    "interrupt_scope",
}

#: Seconds for which a socket without traffic is watched.
_IDLE = 2.0

_DEFAULTS = Switches().values()


def test_every_switch_is_seen_or_has_a_reason_not_to_be() -> None:
    assert {name for name, *_ in SEEN} & UNSEEN.keys() == set()
    assert {name for name, *_ in SEEN} | UNSEEN.keys() == _DEFAULTS.keys()


def test_every_position_of_a_seen_switch_is_in_the_table() -> None:
    positions: defaultdict[str, set[Any]] = defaultdict(set)
    for name, position, *_ in SEEN:
        positions[name].add(position)
    for name, position in ALIKE:
        positions[name].add(position)
    hints = get_type_hints(Switches)
    for name, seen in positions.items():
        assert len(seen) > 1, name
        if (choices := _choices(hints[name])) is not None:
            assert seen == choices, name


def _choices(hint: Any) -> set[Any] | None:
    if hint is bool:
        return {True, False}
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    parts = [_choices(value) for value in get_args(hint) if value is not type(None)]
    if parts and all(part is not None for part in parts):
        return {None}.union(*(part for part in parts if part is not None))
    return None


def _rounds() -> list[tuple[dict[str, Any], dict[str, str | None]]]:
    """Switches to set together, and what is to be observed then."""
    together: list[tuple[dict[str, Any], dict[str, str | None]]] = []
    throttled: list[tuple[dict[str, Any], dict[str, str | None]]] = []
    alone = []
    for name, position, point, observed in SEEN:
        setting = {name: position, **_TOGETHER.get(name, {})}
        if name in _ALONE and (position != _DEFAULTS[name] or name in _TOGETHER):
            alone.append((setting, {point: observed}))
            continue
        is_throttled = name in _THROTTLED or (position == _LIMIT and name == "rate_limit")
        rounds = throttled if is_throttled else together
        for switches, expected in rounds:
            if name not in switches and point not in expected and _fits(name, position, switches):
                switches[name] = position
                expected[point] = observed
                break
        else:
            setting |= {"rate_limit": _LIMIT} if is_throttled else {}
            rounds.append((setting, {point: observed}))
    return together + throttled + alone


def _fits(name: str, position: Any, switches: dict[str, Any]) -> bool:
    """Whether a position can be seen beside the others."""
    merged = {**switches, name: position}
    no_previews = merged.get("preview") in ("none", "plain")
    hidden_names = merged.get("display_name") is False or merged.get("upload_names") == "bare"
    return not (
        (no_previews and merged.keys() & {"preview_format", "preview_follows_flags"})
        or (merged.get("preview_follows_flags") and merged.get("preview") not in (None, "metadata"))
        or (hidden_names and merged.get("output_subfolder") == "display_name")
        or (merged.get("executed_names") == "display" and merged.get("output_subfolder"))
        or (merged.get("invalid_prompt") == "flat" and merged.get("partly_valid") == "silent")
        or (merged.get("rate_limit_code") and merged["rate_limit_form"] not in ("flat", "nested"))
        or (merged.get("node_error_details") is False and merged.get("partly_valid") == "silent")
    )


async def _probed(switches: dict[str, Any]) -> Findings:
    plan: Plan = "creator" if switches.get("interrupt_scope", "one") != "one" else "standard"
    idle = _IDLE if switches.get("socket_idle") else 0.0
    limit = switches.get("rate_limit", 0)
    async with (
        Simulator(switches=Switches(**switches | {"rate_limit": 0}), plan=plan) as simulator,
        asyncio.TaskGroup() as group,
    ):
        if limit:
            group.create_task(_throttled(simulator, limit))
        return await probe(Target(simulator.base_url, simulator.key), "run", idle=idle)


async def _throttled(simulator: Simulator, limit: int) -> None:
    """Throttle once the many reads of the probe have begun, behind two of its first ones."""
    await simulator.wait_for_calls("GET /api/user", 3, 120.0)
    simulator.switches.rate_limit = limit


async def _assert_reported(switches: dict[str, Any], expected: dict[str, str | None]) -> None:
    findings = await _probed(switches)
    observed = {point: findings.value(point) for point in expected}
    assert observed == expected, (switches, findings.notes)
    verdicts = {row["id"]: row["verdict"] for row in findings.rows()}
    known = {point for point in expected if point not in ("submission", "user")}
    assert {verdicts[point] for point in known} <= {"as_assumed", "tolerated"}


#: Switches that answer late by a second or so. That something was not late can only be seen while
#: nothing else is busy in this process.
_LATE = {"late_answer", "late_detail", "late_detail_form"}
_SIDE_BY_SIDE = 8


def _batches() -> list[list[tuple[dict[str, Any], dict[str, str | None]]]]:
    """Probes mostly wait, so that some of them, each of its own simulator, run side by side."""
    alone, late, others = [], [], []
    for switches, expected in _rounds():
        if not _LATE & switches.keys():
            others.append((switches, expected))
        elif any(switches.get(name) for name in ("late_answer", "late_detail")):
            late.append((switches, expected))
        else:
            alone.append([(switches, expected)])
    count = -(-len(others) // _SIDE_BY_SIDE)
    return [*alone, late, *(others[index::count] for index in range(count))]


@pytest.mark.parametrize("index", range(len(_batches())))
async def test_the_probe_reports_the_position_of_each_switch(index: int) -> None:
    async with asyncio.TaskGroup() as group:
        for switches, expected in _batches()[index]:
            group.create_task(_assert_reported(switches, expected))


class Left(NamedTuple):
    """Two probes, one after the other, of one cloud, and what they left there."""

    probes: list[Findings]
    jobs: int
    leaks: int
    secrets: list[str]


@pytest.fixture(scope="module")
def two_probes() -> Left:
    async def run() -> Left:
        async with Simulator() as simulator:
            found = [
                await probe(Target(simulator.base_url, simulator.key), "run", idle=0.0)
                for _ in range(2)
            ]
            await simulator.wait_for_sockets(0)
            secrets = [simulator.key, str(simulator.storage.url.port)]
            return Left(found, len(simulator.jobs), len(simulator.leaks), secrets)

    return asyncio.run(run())


def test_two_probes_of_one_cloud_observe_the_same(two_probes: Left) -> None:
    first, second = two_probes.probes
    seen = [
        {row["id"]: row["observed"] for row in switch_probe.rows()}
        for switch_probe in (first, second)
    ]
    assert seen[0] == seen[1]
    assert first.conclusion() == ("works", "The proxy works with this account.")
    unseen = [point.id for point in POINTS if first.value(point.id) is None]
    assert [id_ for id_ in unseen if not id_.startswith("v2_")] == [
        "retry_after",
        "throttle_form",
        "throttle_code",
        "throttle_retry_after",
    ]
    # The simulated cloud refuses what it can tell beforehand, and has no uploads of API v2.
    assert {id_.removeprefix("v2_") for id_ in unseen if id_.startswith("v2_")} == {
        *(
            "failure",
            "failure_charged",
            "content",
            "output_as_input",
            "delete",
            "any_input",
            "expires_in",
        ),
        *("upload_retention", "same_bytes", "from_hash", "upload_folder", "upload_spaces"),
        *("upload_letters", "signed_url_life", "storage_headers"),
    }


def test_probes_remove_their_jobs_and_show_no_secret(two_probes: Left) -> None:
    assert (two_probes.jobs, two_probes.leaks) == (0, 0)
    for findings in two_probes.probes:
        assert not any(secret in str(findings.report()) for secret in two_probes.secrets)


async def test_reading_submits_nothing() -> None:
    async with Simulator() as simulator:
        findings = await probe(Target(simulator.base_url, simulator.key), "read", idle=0.0)
        assert {name.partition(" ")[0] for name in simulator.calls} == {"GET"}
    assert {row["verdict"] for row in findings.rows()} <= {"as_assumed", "tolerated"}


async def test_probes_of_an_account_that_is_refused_fail() -> None:
    async with Simulator() as simulator:
        findings = await probe(Target(simulator.base_url, "comfyui-wrong"), "run", idle=0.0)
    assert findings.conclusion()[0] == "fails"
    assert "user is 401 UNAUTHORIZED" in findings.conclusion()[1]


async def test_the_answers_of_another_server_end_no_probe() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1, null]")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        findings = await probe(Target(URL(f"http://{host}:{port}"), "comfyui-key"), "run", idle=0.0)
    assert findings.conclusion()[0] == "fails"
