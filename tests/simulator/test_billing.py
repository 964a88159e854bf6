"""The routes of billing, as their specification describes them."""

from __future__ import annotations

import graphs
from simulator.visitor import Visitor

from proxy.simulator import Simulator
from proxy.simulator.nodes.special import PARTNER

KEYS = {"event_id", "event_type", "createdAt", "params", "api_key_name", "api_key_prefix"}


async def test_a_key_is_let_in_by_switch(sim: Simulator, visitor: Visitor) -> None:
    assert (await visitor.get("/api/billing/events")).code == "UNAUTHORIZED"
    sim.switches.billing_for_keys = True
    body = (await visitor.get("/api/billing/events")).json
    assert body == {"events": [], "page": 1, "limit": 20, "total": 0, "totalPages": 0}


async def test_a_job_and_its_partner_nodes_are_booked(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.billing_for_keys = True
    graph = graphs.plain()
    graph["9"] = {
        "class_type": PARTNER,
        "inputs": {
            "prompt": "a cat",
            "prompt_upsampling": False,
            "seed": 1,
            "aspect_ratio": "1:1",
            "raw": False,
        },
    }
    graph["10"] = {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}}
    job = await visitor.run(graph, extra_data={"api_key_comfy_org": sim.key})
    events = (await visitor.get("/api/billing/events")).json["events"]
    by_type = {event["event_type"]: event for event in events}
    assert set(by_type) == {"gpu_usage", "api_node_usage"}
    assert all(
        set(event) == KEYS and sim.key.startswith(event["api_key_prefix"]) for event in events
    )
    assert by_type["api_node_usage"]["params"] == {"amount": 5.0, "charge_micro_usd": 50_000}
    assert by_type["gpu_usage"]["event_id"].startswith(job["id"])


async def test_events_are_paged_newest_first_between_two_times(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.switches.billing_for_keys = True
    sim.account.events_elsewhere = [
        {"event_id": str(hour), "event_type": "x", "createdAt": f"2026-11-28T{hour:02}:00:00.000Z"}
        for hour in range(10)
    ]
    body = (await visitor.get("/api/billing/events?limit=4&page=3")).json
    assert [event["event_id"] for event in body["events"]] == ["1", "0"]
    assert (body["total"], body["totalPages"]) == (10, 3)
    dates = "start_date=2026-11-28T03:00:00Z&end_date=2026-11-28T07:00:00.000Z"
    body = (await visitor.get(f"/api/billing/events?{dates}")).json
    assert [event["event_id"] for event in body["events"]] == ["7", "6", "5", "4", "3"]
    for wrong in ("limit=101", "page=0", "start_date=today", "scope=all"):
        assert (await visitor.get(f"/api/billing/events?{wrong}")).status == 400
