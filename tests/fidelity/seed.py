"""The state that a recording started from: the nodes and files of the recorded server."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, unquote, urlsplit

from fidelity.recording import Recording, load
from oracle_nodes import ORACLE_NODES
from PIL import Image
from stack import Proxy

from proxy.api.keys import CATALOG, FILES, USERDATA
from proxy.members.member import LOCAL
from proxy.simulator import Simulator, Switches
from proxy.userdata.stored import StoredUserData

#: The file service reads a body in chunks; ours are small.
PLAIN = {
    "letters.txt": b"abcdefghijklmnopqrstuvwxyz",
    "link.txt": b"outside every served directory\n",
    "precomp.txt": b"the plain file\n",
    "precomp.txt.gz": bytes.fromhex("1f8b0800000000000003"),
    "data.json": b'{"a": 1}\n',
    "big.bin": bytes(range(256)) * 1200,
    "empty.bin": b"",
    "broken.png": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0",
    "audio.wav": b"RIFF\x64\x06\0\0WAVEfmt " + bytes(1628),
    "tensor.latent": b"\x60" + bytes(7) + b'{"__metadata__": {}}' + bytes(84),
    "tensor.safetensors": b"\x58" + bytes(7) + b'{"__metadata__": {}}' + bytes(76),
    "vector.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>\n',
}
SAME_PICTURE = (
    "space name.png",
    "two..dots.png",
    "semi;colon.png",
    'quote"d.png',
    "plus+per%cent.png",
    "\u00fcn\u00ef \u4e16.png",
)

#: The settings in the recorded server, and the user data that it had where more is seen of it.
SETTINGS = {
    "Oracle.a": 2,
    "Oracle.b": {"x": [1, None]},
    "Oracle.c": "text value",
    "Oracle.null": None,
    "h\u00e9/x": True,
}
USER_DATA = {
    "userdata": (),
    "http_api_twins": ("empty", "workflows/sub dir/two \u00e9.json"),
}

#: Here each run finds the cache of one before it, of which only the last one's is kept.
UNCACHED = ("prompt_previews_png_and_size",)


def worker() -> Switches:
    """A cloud whose events are those of the ComfyUI in it, and that takes any upload."""
    return Switches(
        progress_state="full",
        timestamps=True,
        cached_when_empty=True,
        upload_kinds="any",
        preview="metadata_with_type",
        notifications=False,
        settle=0.0,
    )


@asynccontextmanager
async def simulated(recording: Recording) -> AsyncIterator[Simulator]:
    """A simulator with the node pack of the recordings."""
    switches = worker()
    switches.cache_nodes = (
        recording.options != "--cache-none" and recording.scenario not in UNCACHED
    )
    async with Simulator(extra_nodes=ORACLE_NODES, switches=switches) as simulator:
        yield simulator


async def seed(recording: Recording, proxy: Proxy) -> None:
    """Let the proxy know the node classes, and have the files that the recording speaks of."""
    await proxy.services[CATALOG].node_class("SaveImage")
    requests = [event for event in recording.events if event.kind == "http"]
    text = unquote(
        "".join(
            event.fields["request"]["path"] + (event.request_body.data or b"").decode("latin-1")
            for event in requests
        )
    )
    if recording.scenario in USER_DATA:
        await _seed_user_data(USER_DATA[recording.scenario], proxy.services[USERDATA])
    for type_, path, data in files():
        name = path.rpartition("/")[2].removesuffix(".gz")
        if name not in text and "object_info/LoadImage" not in text:
            continue
        subfolder, _, name = path.rpartition("/")
        await proxy.services[FILES].upload(
            LOCAL, _once(data), filename=name, subfolder=subfolder, type=type_
        )


async def _seed_user_data(names: tuple[str, ...], userdata: StoredUserData) -> None:
    await userdata.change_settings(LOCAL, SETTINGS)
    for name in names:
        await userdata.write(LOCAL, name, b"")


def files() -> Iterator[tuple[str, str, bytes]]:
    """Type, path and content."""
    pictures = dict(_pictures())
    for name, data in {**_small(), **PLAIN, **pictures}.items():
        yield "input", name, data
    for name in SAME_PICTURE:
        yield "input", name, pictures["rgb.png"]
    yield "input", "sub/inner.png", pictures["rgb.png"]
    yield "output", "out.png", pictures["rgb.png"]
    yield "output", "sub/out2.png", pictures["rgba.png"]


def _pictures() -> Iterator[tuple[str, bytes]]:
    """The pictures, which ComfyUI showed plain when asked for all of their channels."""
    for event in load("view_channel").of("http"):
        query = parse_qs(urlsplit(event.fields["request"]["path"]).query)
        if query.get("channel") == ["rgba"] and event.response_body.data:
            yield query["filename"][0], event.response_body.data
    frames = [Image.new("RGBA", (8, 6), colour) for colour in ("red", "lime")]
    webp = io.BytesIO()
    frames[0].save(webp, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield "anim.webp", webp.getvalue()


def _small() -> dict[str, bytes]:
    """The files of all types, so small that their first bytes are all of them."""
    found = {}
    for event in load("view_types").of("http"):
        name = parse_qs(urlsplit(event.fields["request"]["path"]).query)["filename"][0]
        if event.response_body.data:
            found[name] = event.response_body.data
    return found


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
