"""Core's `SaveImageWebsocket`, which the cloud may lack."""

from __future__ import annotations

from proxy.packs.nodes import PackNode, Result, ResultMessages, info, preview
from proxy.packs.pack import Pack
from proxy.translate.events import Event, Message, NodeMessages, Preview


def _over_websocket(result: Result) -> NodeMessages:
    messages: list[Message] = []
    for number, item in enumerate(result.items):
        step = {"value": number, "max": len(result.items)}
        ids = {"prompt_id": result.prompt_id, "node": result.node_id}
        messages += (
            Event("progress", {**step, **ids}),
            Preview(
                prompt_id=result.prompt_id,
                node_id=result.node_id,
                display_node_id=result.node_id,
                parent_node_id=None,
                real_node_id=result.node_id,
                image=item.data,
                image_type="image/png",
                result=True,
            ),
        )
    return NodeMessages(tuple(messages), again=True)


_NODES = (
    PackNode(
        info(
            "SaveImageWebsocket",
            {"images": ["IMAGE"]},
            pack="websocket_image_save",
            category="api/image",
        ),
        preview,
        {"PreviewImage"},
        messages=ResultMessages(_over_websocket, lambda _: "PNG", again=True),
    ),
)

PACK = Pack("websocket_image_save", _NODES)
