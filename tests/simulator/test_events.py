"""The event socket: forms, order, and each of its switches."""

from __future__ import annotations

import json
import struct
from typing import Any

import aiohttp
import pytest
from graphs import plain, raising, sampled, waiting
from simulator.visitor import Visitor

from proxy.simulator import NodeClass, Simulator


def metadata(frame: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(frame[4:8], "big")
    return json.loads(frame[8 : 8 + length]), frame[8 + length :]


async def test_flags_may_come_only_when_asked_for(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.feature_flags = "asked"
    ears = await visitor.listen()
    await ears.socket.send_json({"type": "feature_flags", "data": {}})
    await ears.until("feature_flags")
    assert ears.names() == ["status", "feature_flags"]


@pytest.mark.parametrize("query", [{}, {"token": "wrong"}])
async def test_a_handshake_without_a_good_token_is_401(
    sim: Simulator, visitor: Visitor, query: dict[str, str]
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await visitor.session.ws_connect(sim.base_url / "ws" % query)
    assert refused.value.status == 401


async def test_another_account_hears_nothing(sim: Simulator, visitor: Visitor) -> None:
    other = sim.add_account("another-key")
    ears = await visitor.listen(token=other.key)
    await visitor.run(plain())
    assert len(sim.tenants[1].event_sockets.sockets) == 1
    assert sim.tenants[1].event_sockets.sockets[0].sent == 2
    await ears.socket.close()


async def test_events_have_no_more_than_is_documented(visitor: Visitor) -> None:
    ears = await visitor.listen()
    job_id = await visitor.submit(plain())
    await ears.end()
    assert ears.all("execution_start") == [{"prompt_id": job_id}]
    assert ears.all("execution_success") == [{"prompt_id": job_id}]
    assert ears.all("executing")[0] == {"prompt_id": job_id, "node": "1", "display_node": "1"}
    assert ears.all("executing")[-1] == {"prompt_id": job_id, "node": None}
    (state,) = ears.all("progress_state")[0]["nodes"].values()
    assert state == {
        "node_id": "1",
        "display_node_id": "1",
        "real_node_id": "1",
        "prompt_id": job_id,
        "class_type": "EmptyImage",
    }
    (executed,) = ears.all("executed")
    assert set(executed["output"]["images"][0]) == {"filename", "subfolder", "type"}


async def test_progress_state_may_be_full_or_absent(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.progress_state = "full"
    ears = await visitor.listen()
    await visitor.run(plain())
    await ears.end()
    node = ears.all("progress_state")[-1]["nodes"]["2"]
    assert (node["value"], node["max"], node["state"]) == (1.0, 1.0, "finished")
    assert node["parent_node_id"] is None
    sim.switches.progress_state = "none"
    await visitor.run(plain(7))
    assert "progress_state" not in await ears.end()


async def test_cached_nodes_are_sent_and_by_switch_also_that_there_are_none(
    sim: Simulator, visitor: Visitor
) -> None:
    ears = await visitor.listen()
    await visitor.run(plain())
    assert "execution_cached" not in await ears.end()
    await visitor.run(plain())
    await ears.end()
    assert set(ears.all("execution_cached")[0]["nodes"]) == {"1", "2"}
    assert len(ears.all("executed")) == 2
    sim.switches.update({"cached_when_empty": True, "cache_nodes": False})
    await visitor.run(plain())
    await ears.end()
    assert ears.all("execution_cached")[1]["nodes"] == []


@pytest.mark.parametrize(
    ("null", "status", "expected"),
    [
        ("before", "before", ["status", "executing", "execution_success"]),
        ("before", "after", ["executing", "execution_success", "status"]),
        ("after", "before", ["status", "execution_success", "executing"]),
        ("never", "never", ["executed", "progress_state", "execution_success"]),
    ],
)
async def test_the_end_may_be_ordered_otherwise(
    sim: Simulator, visitor: Visitor, null: str, status: str, expected: list[str]
) -> None:
    sim.switches.update({"executing_null": null, "final_status": status})
    ears = await visitor.listen()
    await visitor.run(plain())
    await visitor.submit(waiting())
    await ears.until("execution_success")
    await ears.until("execution_start")
    names = ears.names()
    end = names.index("notification", names.index("execution_success"))
    assert names[end - 4 : end - 1] == expected
    assert names[end - 1] == "status"


async def test_events_may_carry_their_time(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.timestamps = True
    ears = await visitor.listen()
    await visitor.run(plain())
    await ears.end()
    assert ears.all("execution_success")[0]["timestamp"] > 1e12


@pytest.mark.parametrize("preview", ["metadata", "metadata_with_type", "plain", "none"])
async def test_previews_have_four_forms(sim: Simulator, visitor: Visitor, preview: str) -> None:
    sim.switches.update({"preview": preview})
    ears = await visitor.listen()
    detail = await visitor.run(sampled(steps=2))
    await ears.end()
    if preview == "none":
        assert not ears.frames()
        return
    for frame in ears.frames():
        if preview == "plain":
            assert frame[:8] == struct.pack(">II", 1, 1)
            assert frame[8:10] == b"\xff\xd8"
            continue
        data, image = metadata(frame)
        assert data["prompt_id"] == detail["id"]
        assert data["parent_node_id"] is None
        assert data.get("image_type") == ("image/jpeg" if preview == "metadata_with_type" else None)
        assert image[:2] == b"\xff\xd8"


async def test_previews_may_follow_the_flags_of_the_socket(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.switches.preview_follows_flags = True
    without, with_flag = await visitor.listen(), await visitor.listen()
    sim.switches.feature_flags = "asked"
    flags = {"supports_preview_metadata": True}
    await with_flag.socket.send_json({"type": "feature_flags", "data": flags})
    await with_flag.until("feature_flags")
    await with_flag.until("feature_flags")
    await visitor.submit(sampled(steps=1))
    assert "binary 1" in await without.end()
    assert "binary 4" in await with_flag.end()


@pytest.fixture
async def talking(visitor: Visitor) -> dict[str, Any]:
    async def talk(_inputs: dict[str, Any], context: Any) -> None:
        context.text("hello")

    visitor.sim.nodes["Talk"] = NodeClass("Talk", talk, output_node=True)
    return {"7": {"class_type": "Talk", "inputs": {}}}


async def test_texts_are_short_and_by_switch_long(
    sim: Simulator, visitor: Visitor, talking: dict[str, Any]
) -> None:
    sim.switches.cache_nodes = False
    ears = await visitor.listen()
    await visitor.submit(talking)
    await ears.end()
    assert ears.frames() == [b"\x00\x00\x00\x03\x00\x00\x00\x017hello"]
    sim.switches.text_frames = "long"
    job_id = await visitor.submit(talking)
    await ears.end()
    expected = struct.pack(">II", 3, 36) + job_id.encode() + b"\x00\x00\x00\x017hello"
    assert ears.frames()[1] == expected
    features = (await visitor.get("/api/features")).json
    assert features["supports_progress_text_metadata"] is True


async def test_long_texts_may_go_only_to_those_who_announced_them(
    sim: Simulator, visitor: Visitor, talking: dict[str, Any]
) -> None:
    sim.switches.text_frames = "long_if_announced"
    ears = await visitor.listen()
    assert (await ears.until("feature_flags"))["supports_progress_text_metadata"] is True
    await visitor.submit(talking)
    await ears.end()
    assert ears.frames() == [b"\x00\x00\x00\x03\x00\x00\x00\x017hello"]


async def test_a_failure_has_outputs_as_an_object(visitor: Visitor) -> None:
    ears = await visitor.listen()
    job_id = await visitor.submit(raising())
    names = await ears.end()
    assert names[-3:] == ["execution_error", "status", "executing"]
    (error,) = ears.all("execution_error")
    assert error["prompt_id"] == job_id
    assert error["node_type"] == "SimulatorRaise"
    assert error["exception_type"] == "ValueError"
    assert isinstance(error["executed"], list)
    assert isinstance(error["current_outputs"], dict)


async def test_it_may_lack_the_node_and_have_a_class_of_the_clouds_own(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.switches.update({"error_node": False, "exception_types": "cloud"})
    ears = await visitor.listen()
    await visitor.submit(raising())
    await ears.end()
    (error,) = ears.all("execution_error")
    assert not {"node_id", "node_type"} & set(error)
    assert error["exception_type"] == "ServiceError"


@pytest.mark.parametrize("outputs", [False, True])
async def test_a_job_cancelled_while_it_waits(
    sim: Simulator, visitor: Visitor, outputs: bool
) -> None:
    sim.switches.interrupted_pending = outputs
    await visitor.submit(waiting())
    job_id = await visitor.submit(plain())
    ears = await visitor.listen()
    await ears.until("feature_flags")
    await visitor.post(f"/api/jobs/{job_id}/cancel")
    await ears.until("status")
    assert len(ears.all("execution_interrupted")) == outputs


async def test_messages_of_other_kinds_mix_in(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.update({"foreign_messages": True, "notifications": False})
    ears = await visitor.listen()
    await visitor.submit(plain())
    names = await ears.end()
    assert {"asset_download", "agent_message"} <= set(names)
    assert "notification" not in names


async def test_events_of_jobs_at_once_interleave(sim: Simulator, visitor: Visitor) -> None:
    sim.set_plan("pro")
    sim.switches.pace = 0.1
    ears = await visitor.listen()
    ids = [await visitor.submit(sampled(seed, steps=10)) for seed in range(3)]
    for _ in ids:
        await ears.end()
    order = [data["prompt_id"] for data in ears.all("progress")]
    assert set(order) == set(ids)
    assert order != sorted(order, key=ids.index)


async def test_executed_may_carry_human_names(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.executed_display_name = True
    ears = await visitor.listen()
    await visitor.run(plain())
    await ears.end()
    item = ears.all("executed")[0]["output"]["images"][0]
    assert item["display_name"] == "ComfyUI_00001_.png"
    sim.switches.executed_names = "display"
    await visitor.run(plain(7))
    await ears.end()
    item = ears.all("executed")[1]["output"]["images"][0]
    assert item["filename"] == "ComfyUI_00002_.png"


async def test_an_account_may_have_only_so_many_sockets(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.socket_cap = 1
    first = await visitor.listen()
    await first.until("feature_flags")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await visitor.listen()
    assert refused.value.status == 429


async def test_an_idle_socket_may_be_closed(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.socket_idle = 0.1
    ears = await visitor.listen()
    while await ears.next() is not None:
        pass
    assert ears.socket.close_code == 1001
    await sim.wait_for_sockets(0)
