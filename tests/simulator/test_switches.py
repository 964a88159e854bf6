"""Switches, and their way over HTTP."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools

import pytest
from graphs import plain
from simulator.visitor import Visitor

from proxy.simulator import HttpFault, Simulator, Switches, switches


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preview", "colourful"),
        ("pace", -1),
        ("pace", "fast"),
        ("timestamps", 1),
        ("expired_status", 404),
        ("queue_limit", -1),
    ],
)
def test_a_wrong_value_is_refused_at_once(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Switches(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=name):
        setattr(Switches(), name, value)


def test_an_unknown_switch_is_refused() -> None:
    with pytest.raises(AttributeError, match="previews"):
        Switches().previews = "none"  # type: ignore[attr-defined]


def test_an_update_sets_all_or_nothing() -> None:
    chosen = Switches()
    with pytest.raises(ValueError, match="nonsense"):
        chosen.update({"pace": 1.0, "nonsense": 1})
    assert chosen == Switches()
    chosen.update({"pace": 1, "preview": "none"})
    assert (chosen.pace, chosen.preview) == (1.0, "none")


def test_every_switch_says_what_it_is() -> None:
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(switches)).body
        if isinstance(node, ast.ClassDef)
    )
    documented = {
        field.target.id
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    assert documented == {field.name for field in dataclasses.fields(Switches)}


async def test_they_are_read_and_set_over_http(sim: Simulator, visitor: Visitor) -> None:
    assert (await visitor.get("/simulator/switches")).json == Switches().values()
    answer = await visitor.ask("PATCH", "/simulator/switches", json={"preview": "plain"})
    assert answer.json == sim.switches.values()
    assert sim.switches.preview == "plain"
    bad = await visitor.ask("PATCH", "/simulator/switches", json={"preview": "x"})
    assert (bad.status, bad.code) == (400, "BAD_REQUEST")
    assert (await visitor.ask("GET", "/simulator/switches", keyed=False)).status == 401


async def test_faults_are_planned_over_http(sim: Simulator, visitor: Visitor) -> None:
    fault = {"http": {"route": "GET /api/user", "status": 502}, "times": 2}
    assert (await visitor.post("/simulator/faults", fault)).status == 204
    assert sim.faults.planned[0].fault == HttpFault("GET /api/user", status=502)
    assert (await visitor.get("/api/user")).status == 502
    assert (await visitor.ask("DELETE", "/simulator/faults")).status == 204
    assert (await visitor.get("/api/user")).status == 200


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"http": {}},
        {"http": {"route": "*", "state": 1}},
        {"socket": {"kind": "x"}},
        {"x": 1},
    ],
)
async def test_what_is_no_fault_is_400(visitor: Visitor, body: object) -> None:
    assert (await visitor.post("/simulator/faults", body)).status == 400


async def test_the_record_is_read_over_http(visitor: Visitor) -> None:
    await visitor.run(plain())
    record = (await visitor.get("/simulator/record")).json
    assert record["calls"]["POST /api/prompt"] == 1
    assert record["leaks"] == []


async def test_no_trouble_of_the_cloud_locks_the_control_routes(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.switches.update({"refuse_account": "FORBIDDEN", "rate_limit": 1})
    sim.faults.add(HttpFault("*", status=503), times=None)
    assert (await visitor.get("/api/user")).status == 503
    assert (await visitor.ask("DELETE", "/simulator/faults")).status == 204
    assert (await visitor.get("/api/user")).status == 403
    change = {"refuse_account": None, "rate_limit": 0}
    assert (await visitor.ask("PATCH", "/simulator/switches", json=change)).status == 200
    assert (await visitor.get("/api/user")).status == 200
