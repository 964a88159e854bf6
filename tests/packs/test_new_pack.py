"""The pack that CONTRIBUTING.md shows: it works as it is written there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from stack import Client, Proxy

from proxy.packs import nodes
from proxy.packs.pack import Pack
from proxy.packs.table import PACK_NODES
from proxy.translate.events import NodeMessages

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def shown_pack() -> Pack:
    """The pack in the section about packs."""
    section = GUIDE.read_text(encoding="utf-8").partition("## Add a node pack\n")[2]
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {**vars(nodes), "Pack": Pack, "NodeMessages": NodeMessages}
    exec(textwrap.dedent(block[1]), names)
    pack = names["PACK"]
    assert isinstance(pack, Pack)
    return pack


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Pack:
    """The pack, in the table before the proxy starts."""
    shown = shown_pack()
    for node in shown.nodes:
        monkeypatch.setitem(PACK_NODES, node.name, node)  # type: ignore[arg-type]
    return shown


async def test_a_client_gets_the_messages_of_a_new_pack(
    pack: Pack, proxy: Proxy, client: Client
) -> None:
    (node,) = pack.nodes
    assert (await client.get(f"object_info/{node.name}"))[1][node.name]["name"] == node.name
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": node.name, "inputs": {"images": ["1", 0]}},
    }
    async with client.listening() as listener:
        prompt_id = await client.submit(graph)
        await listener.until_end(prompt_id)
    (frame,) = listener.of("binary")
    assert frame.startswith(bytes((0, 0, 0, 1, 0, 0, 0, 2)))
    assert (await client.history(prompt_id))["prompt"][2] == graph
