"""Nodes for trying things out, and one of the partner nodes that cost credits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from proxy.simulator.nodes.node_class import Context, NodeClass, Output
from proxy.simulator.nodes.painting import paint
from proxy.simulator.nodes.specs import NEW_STYLE, boolean, combo, number, seed, string
from proxy.simulator.nodes.values import Images

_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (RuntimeError, ValueError, TypeError, KeyError, MemoryError, TimeoutError)
}

#: The class of the partner node, and what it costs in US dollars.
PARTNER, PRICE = "FluxProUltraImageNode", 0.05

#: Parts of a second between two signs of life of a waiting node.
TICK = 0.1


async def _raise(inputs: dict[str, Any], _context: Context) -> Output:
    raise _ERRORS[inputs["kind"]](inputs["message"])


async def _wait(inputs: dict[str, Any], context: Context) -> Output:
    seconds = inputs["seconds"]
    begun = time.monotonic()
    while (left := seconds - (time.monotonic() - begun)) > 0:
        await asyncio.sleep(min(TICK, left))
        context.progress(min(seconds, time.monotonic() - begun), seconds)
    return Output((inputs.get("value"),))


async def _flux_pro(inputs: dict[str, Any], context: Context) -> Output:
    if not inputs["api_key_comfy_org"] and not inputs["auth_token_comfy_org"]:
        raise Exception("Unauthorized: Please login first to use this node.")
    across, _, down = inputs["aspect_ratio"].partition(":")
    share = _ratio(across, down)
    size = (round(768 * share**0.5), round(768 / share**0.5))
    picture = await asyncio.to_thread(paint, inputs["prompt"], inputs["seed"], size)
    for step in range(1, 4):
        context.text("Status: Pending" if step < 3 else f"Status: Ready\nPrice: ${PRICE:.4f}")
        await context.step()
        context.progress(step, 3)
    return Output((Images((picture,)),))


def _ratio(across: str, down: str) -> float:
    try:
        share = float(across) / float(down)
    except (ValueError, ZeroDivisionError):
        share = 0.0
    if not 0.25 <= share <= 4.0:
        raise ValueError(f"The aspect ratio {across}:{down} is not between 1:4 and 4:1.")
    return share


NODES = [
    NodeClass(
        "SimulatorRaise",
        _raise,
        required={
            "kind": combo(list(_ERRORS)),
            "message": string("The node failed, as it was asked to."),
        },
        optional={"value": ["*"]},
        outputs=("*",),
        output_node=True,
        display_name="Raise (simulator)",
        description="Fails with an exception of the given kind.",
    ),
    NodeClass(
        "SimulatorWait",
        _wait,
        required={"seconds": number(1.0, 0.0, 3600.0, 0.1)},
        optional={"value": ["*"]},
        outputs=("*",),
        output_node=True,
        display_name="Wait (simulator)",
        description="Waits, tells how far it is, and hands on its value. A cancel ends it.",
        volatile=True,
    ),
    NodeClass(
        PARTNER,
        _flux_pro,
        required={
            "prompt": string("", multiline=True),
            "prompt_upsampling": boolean(False),
            "seed": seed(),
            "aspect_ratio": string("16:9"),
            "raw": boolean(False),
        },
        optional={
            "image_prompt": ["IMAGE"],
            "image_prompt_strength": number(0.1, 0.0, 1.0, 0.01),
        },
        hidden={
            "auth_token_comfy_org": "AUTH_TOKEN_COMFY_ORG",
            "api_key_comfy_org": "API_KEY_COMFY_ORG",
            "unique_id": "UNIQUE_ID",
        },
        outputs=("IMAGE",),
        display_name="Flux 1.1 [pro] Ultra Image",
        category="api node/image/BFL",
        description="A partner node: the cloud asks for the account's API key in extra_data.",
        python_module="comfy_api_nodes.nodes_bfl",
        info={
            **NEW_STYLE,
            "api_node": True,
            "price_badge": {
                "engine": "jsonata",
                "depends_on": {"widgets": [], "inputs": [], "input_groups": []},
                "expr": f'{{"type":"usd","usd":{PRICE}}}',
            },
        },
    ),
]
