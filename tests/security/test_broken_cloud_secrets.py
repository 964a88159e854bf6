"""A cloud that shows the account's key: it reaches no member, however it is written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from broken_cloud import BrokenCloud, broken_cloud
from stack import Client, running_proxy

from proxy.simulator import Simulator
from proxy.translate.codec import REDACTED
from proxy.translate.frames import without_secret

JPEG = b"\xff\xd8\xff a picture"


@pytest.fixture
async def cloud(simulator: Simulator) -> AsyncIterator[BrokenCloud]:
    async with broken_cloud(simulator) as running:
        yield running


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def text_frame(text: str, node: bytes = b"1") -> bytes:
    return b"\0\0\0\3" + len(node).to_bytes(4, "big") + node + text.encode()


def preview_frame(about: str, image: bytes = JPEG) -> bytes:
    data = about.encode()
    return b"\0\0\0\4" + len(data).to_bytes(4, "big") + data + image


async def heard_of(cloud: Any, folder: Path, shown: str) -> tuple[str, list[bytes]]:
    """All that a client hears of a job whose cloud shows a text wherever it can: the JSON of the
    texts and the history, and the frames."""

    def tells(message: str | bytes) -> list[str | bytes]:
        if isinstance(message, bytes) or '"type": "executing"' not in message:
            return [message]
        job, node = json.loads(message)["data"].get("prompt_id"), f"node {shown}"
        if json.loads(message)["data"].get("node") is None:
            return [message]
        about = f'{{"prompt_id": "{job}", "node_id": "{node}", "image_type": "image/jpeg"}}'
        error = f'{{"prompt_id": "{job}", "node_id": "2", "exception_message": "{shown}"}}'
        plain = json.loads(f'"{shown}"')
        return [
            message,
            text_frame(f"the key is {plain}"),
            preview_frame(about),
            preview_frame(f'{{"prompt_id": "{job}", "node_id": "1"}}', JPEG + plain.encode()),
            f'{{"type": "progress", "data": {{"prompt_id": "{job}", "node": "{node}", "value": 1, '
            '"max": 2}}',
            f'{{"type": "execution_error", "data": {error}}}',
        ]

    cloud.tells = tells
    async with (
        aiohttp.ClientSession() as session,
        running_proxy(cloud, folder) as proxy,
    ):
        client = Client(session, proxy.url)
        async with client.listening({"supports_preview_metadata": True}) as listener:
            prompt_id = await client.submit(graphs.plain())
            await listener.until_end(prompt_id)
        _, history = await client.get(f"history/{prompt_id}")
        _, job = await client.get(f"api/jobs/{prompt_id}")
    texts = [message for kind, message in listener.received if kind != "binary"]
    return json.dumps([texts, history, job]), listener.of("binary")


@pytest.mark.parametrize("write", [str, escaped])
async def test_the_key_reaches_nobody(cloud: Any, tmp_path: Path, write: Any) -> None:
    texts, frames = await heard_of(cloud, tmp_path, write(cloud.key))
    assert cloud.key not in texts
    assert not [frame for frame in frames if cloud.key.encode() in frame]
    assert REDACTED in texts
    assert [frame for frame in frames if REDACTED.encode() in frame]


KEY = "comfyui-0123456789"


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        (text_frame(f"a {KEY} b"), text_frame(f"a {REDACTED} b")),
        (text_frame("nothing"), text_frame("nothing")),
        (text_frame("x", KEY.encode()), None),
        (preview_frame('{"node_id": "1"}'), preview_frame('{"node_id": "1"}')),
        (preview_frame(f'{{"node_id": "{escaped(KEY)}"}}'), None),
        (preview_frame('{"node_id": "\\u0031"}'), preview_frame('{"node_id": "\\u0031"}')),
        (preview_frame("{}", JPEG + KEY.encode()), None),
        (b"\0\0\0\1\0\0\0\1" + JPEG + KEY.encode(), None),
        (b"\0\0\0\1\0\0\0\1" + JPEG, b"\0\0\0\1\0\0\0\1" + JPEG),
        (b"\0\0\0\4\xff", None),
    ],
)
def test_frames_without_the_key(frame: bytes, shown: bytes | None) -> None:
    assert without_secret(frame, KEY) == shown
