"""A node pack for tests: previews, texts, waits, errors and odd outputs on demand.

The classes have the names and inputs of the pack with which a real ComfyUI was recorded.
"""

from __future__ import annotations

import asyncio
import builtins
import json
import math
from typing import Any

from PIL import Image, ImageOps

from proxy.simulator.nodes import Blocker, Context, Files, NodeClass, Output
from proxy.simulator.nodes.encoding import jpeg, png
from proxy.simulator.nodes.painting import paint
from proxy.simulator.nodes.values import Images

SEED = ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}]
SECONDS = ["FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0, "step": 0.1}]
GREY = Images((Image.new("RGB", (8, 8), (128, 128, 128)),))


async def slow_preview(inputs: dict[str, Any], context: Context) -> Output:
    size = (inputs["width"], inputs["height"])
    picture = paint("", inputs["seed"], size)
    steps = inputs["steps"]
    for step in range(1, steps + 1):
        await asyncio.sleep(inputs["step_ms"] / 1000)
        if inputs["preview"] != "none":
            shown = paint("", f"{inputs['seed']} {step}", size)
            if inputs["max_size"]:
                shown = ImageOps.contain(shown, (inputs["max_size"],) * 2)
            if inputs["preview"] == "PNG":
                context.picture(png(shown), "image/png")
            else:
                context.picture(jpeg(shown), "image/jpeg")
        context.progress(step, steps)
    return Output((Images((picture,)),))


async def sleep(inputs: dict[str, Any], _context: Context) -> Output:
    await asyncio.sleep(inputs["seconds"])
    return Output((GREY,))


async def rude_sleep(inputs: dict[str, Any], _context: Context) -> Output:
    """Sleeps on when it is interrupted, which may be late on a busy machine."""
    try:
        await asyncio.sleep(60 * inputs["seconds"])
    except asyncio.CancelledError:
        await asyncio.sleep(inputs["seconds"])
        raise
    return Output((GREY,))


async def linger(_inputs: dict[str, Any], _context: Context) -> Output:
    """The pack's node held its server up behind the run, which no node of a cloud can."""
    return Output((GREY,))


async def fail(inputs: dict[str, Any], _context: Context) -> Output:
    raise getattr(builtins, inputs["kind"])(inputs["message"])


async def show(inputs: dict[str, Any], _context: Context) -> Output:
    if inputs["kind"] == "unserialisable":
        raise TypeError("Object of type object is not JSON serializable")
    uis: dict[str, dict[str, Any] | None] = {
        "text": {"text": [f"seed {inputs['seed']}", "two"]},
        "nan": {"values": [math.nan, math.inf, -math.inf, 1.5]},
        "bigint": {"values": [2**53 + 1, 2**64 - 1, -(2**63)]},
        "unicode": {"text": ["héllo 世界 😀 \u2028 \u007f </script>"]},
        "long": {"text": ["x" * 100_000]},
        "empty": {},
        "nested": {"data": [{"a": {"b": [1, None, True, {"c": "d"}]}}]},
        "no_ui": None,
    }
    return Output((inputs["kind"],), ui=uis[inputs["kind"]])


async def progress_text(inputs: dict[str, Any], context: Context) -> Output:
    context.text(inputs["text"])
    return Output((inputs["text"],))


async def block(inputs: dict[str, Any], _context: Context) -> Output:
    return Output((Blocker(inputs["message"] or None),))


async def custom_event(inputs: dict[str, Any], _context: Context) -> Output:
    """The pack sent events of its own, which a cloud has no way for."""
    return Output((inputs["text"],))


async def look_at_inputs(inputs: dict[str, Any], _context: Context) -> Output:
    hidden = ("auth", "extra_pnginfo", "key", "prompt", "unique_id")
    values = {name: inputs[name] for name in inputs if name not in (*hidden, "dynprompt")}
    seen = {
        **{name: inputs[name] for name in hidden},
        "types": {name: type(value).__name__ for name, value in values.items()},
        "values": {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in values.items()
        },
    }
    text = json.dumps(seen, sort_keys=True)
    return Output((text,), ui={"text": [text]})


async def echo_kind(inputs: dict[str, Any], _context: Context) -> Output:
    return Output((inputs["kind"],))


def check_kind(inputs: dict[str, Any], _files: Files) -> bool | str:
    match inputs["kind"]:
        case "false":
            return False
        case "string":
            return "the reason given"
        case "raise":
            raise RuntimeError("validator boom")
    return True


def oracle(name: str, run: Any, required: dict[str, Any], output: str, **fields: Any) -> NodeClass:
    return NodeClass(
        name,
        run,
        required=required,
        outputs=(output,),
        category="oracle",
        python_module="custom_nodes.oracle_nodes",
        **fields,
    )


ORACLE_NODES = [
    oracle(
        "OracleSlowPreview",
        slow_preview,
        {
            "steps": ["INT", {"default": 4, "min": 0, "max": 10000}],
            "step_ms": ["INT", {"default": 50, "min": 0, "max": 60000}],
            "seed": SEED,
            "width": ["INT", {"default": 64, "min": 1, "max": 4096}],
            "height": ["INT", {"default": 48, "min": 1, "max": 4096}],
            "preview": [["JPEG", "PNG", "none"], {}],
            "max_size": ["INT", {"default": 512, "min": 0, "max": 8192, "tooltip": ""}],
        },
        "IMAGE",
        display_name="Oracle slow preview \u2603",
        info={"output_tooltips": []},
    ),
    oracle("OracleSleep", sleep, {"seconds": SECONDS, "seed": SEED}, "IMAGE"),
    oracle("OracleRudeSleep", rude_sleep, {"seconds": SECONDS, "seed": SEED}, "IMAGE"),
    oracle(
        "OracleRaise",
        fail,
        {
            "kind": [["ValueError", "RuntimeError", "KeyError", "MemoryError", "OSError"]],
            "message": ["STRING", {"default": "boom"}],
        },
        "IMAGE",
        optional={"image": ["IMAGE"]},
    ),
    oracle(
        "OracleUI",
        show,
        {
            "kind": [
                [
                    "text",
                    "nan",
                    "bigint",
                    "unicode",
                    "long",
                    "empty",
                    "nested",
                    "no_ui",
                    "unserialisable",
                ]
            ],
            "seed": SEED,
        },
        "STRING",
        optional={"any_input": ["*"]},
        output_node=True,
    ),
    oracle(
        "OracleProgressText",
        progress_text,
        {
            "text": ["STRING", {"default": ""}],
            "only_submitter": ["BOOLEAN", {"default": False}],
            "seed": SEED,
        },
        "STRING",
    ),
    oracle(
        "OracleBlock",
        block,
        {"message": ["STRING", {"default": ""}], "seed": SEED},
        "IMAGE",
    ),
    oracle(
        "OracleCustomEvent",
        custom_event,
        {"text": ["STRING", {"default": ""}], "seed": SEED},
        "STRING",
    ),
    oracle("OracleLinger", linger, {"seconds": SECONDS, "seed": SEED}, "IMAGE"),
    oracle(
        "OracleInputs",
        look_at_inputs,
        {
            "int": ["INT", {"default": 1, "min": 0, "max": 10}],
            "float": [
                "FLOAT",
                {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.1, "round": 0.01},
            ],
            "string": ["STRING", {"default": "s", "multiline": True}],
            "boolean": ["BOOLEAN", {"default": True, "label_on": "yes", "label_off": "no"}],
            "combo": [["a", "b", "c"], {"default": "b"}],
            "numbers": [[1, 2, 3]],
            "long_combo": [[f"option {i}" for i in range(30)]],
            "empty_combo_ok": [["only"]],
        },
        "STRING",
        optional={
            "image": ["IMAGE", {"tooltip": ""}],
            "model": ["MODEL"],
            "either": ["IMAGE,MASK"],
            "forced": ["INT", {"forceInput": True}],
        },
        hidden={
            "prompt": "PROMPT",
            "extra_pnginfo": "EXTRA_PNGINFO",
            "unique_id": "UNIQUE_ID",
            "dynprompt": "DYNPROMPT",
            "auth": "AUTH_TOKEN_COMFY_ORG",
            "key": "API_KEY_COMFY_ORG",
        },
        output_node=True,
        info={"experimental": True},
    ),
    oracle(
        "OracleValidate",
        echo_kind,
        {
            "kind": [["ok", "false", "string", "raise", "block"]],
            "number": ["INT", {"default": 1, "min": 0, "max": 2}],
        },
        "STRING",
        optional={"image": ["IMAGE"]},
        output_node=True,
        check=check_kind,
        checks=("kind",),
        info={"deprecated": True},
    ),
]
