"""Nodes for sound and moving pictures."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.simulator.nodes import mp4, sound
from proxy.simulator.nodes.encoding import jpeg
from proxy.simulator.nodes.node_class import Context, NodeClass, Output
from proxy.simulator.nodes.saving import HIDDEN, prefix_of
from proxy.simulator.nodes.specs import NEW_STYLE, integer, link, new_combo, number, pure, string
from proxy.simulator.nodes.values import Audio, Images, Video

#: The most samples of a sound (all channels): beyond it a node fails instead of eating memory.
MAX_SAMPLES = 1 << 25


def _empty_audio(duration: float, sample_rate: int, channels: int) -> tuple[Audio]:
    if duration * sample_rate * channels > MAX_SAMPLES:
        raise ValueError(
            f"{duration:g} s are longer than the simulator makes ({MAX_SAMPLES} samples)"
        )
    return (sound.silence(duration, sample_rate, channels),)


async def _save_audio(inputs: dict[str, Any], context: Context) -> Output:
    return await _flac(inputs["audio"], context, prefix_of(inputs["filename_prefix"]), "output")


async def _preview_audio(inputs: dict[str, Any], context: Context) -> Output:
    return await _flac(inputs["audio"], context, "ComfyUI_temp", "temp")


async def _flac(audio: Audio, context: Context, prefix: str, kind: str) -> Output:
    data = await asyncio.to_thread(sound.flac, audio)
    item = context.save(data, extension=".flac", prefix=prefix, type=kind)
    return Output(ui={"audio": [item]})


def _create_video(images: Images, fps: float, audio: Audio | None = None) -> tuple[Video]:
    return (Video(images.pictures, fps, audio),)


def _components(video: Video) -> tuple[Images, Audio | None, float]:
    return Images(video.pictures), video.audio, video.fps


async def _save_video(inputs: dict[str, Any], context: Context) -> Output:
    video: Video = inputs["video"]
    size = video.pictures[0].size
    pictures = await asyncio.to_thread(lambda: [jpeg(picture) for picture in video.pictures])
    data = mp4.encode(pictures, size, video.fps)
    prefix = prefix_of(inputs["filename_prefix"], size)
    return Output(ui={"video": [context.save(data, extension=".mp4", prefix=prefix)]})


_AUDIO: dict[str, Any] = {
    "category": "audio",
    "python_module": "comfy_extras.nodes_audio",
    "info": NEW_STYLE,
}
_VIDEO: dict[str, Any] = {
    "category": "image/video",
    "python_module": "comfy_extras.nodes_video",
    "info": NEW_STYLE,
}

NODES = [
    NodeClass(
        "EmptyAudio",
        pure(_empty_audio),
        required={
            "duration": number(60.0, 0.0, float(2**64 - 1), 0.01),
            "sample_rate": integer(44100, 1, 192000),
            "channels": integer(2, 1, 2),
        },
        outputs=("AUDIO",),
        display_name="Empty Audio",
        **_AUDIO,
    ),
    NodeClass(
        "SaveAudio",
        _save_audio,
        required={"audio": link("AUDIO"), "filename_prefix": string("audio/ComfyUI")},
        hidden=HIDDEN,
        output_node=True,
        display_name="Save Audio (FLAC)",
        **_AUDIO,
    ),
    NodeClass(
        "PreviewAudio",
        _preview_audio,
        required={"audio": link("AUDIO")},
        hidden=HIDDEN,
        output_node=True,
        display_name="Preview Audio",
        **_AUDIO,
    ),
    NodeClass(
        "CreateVideo",
        pure(_create_video),
        required={
            "images": link("IMAGE", "The pictures of the video."),
            "fps": number(30.0, 1.0, 120.0, 1.0),
        },
        optional={"audio": link("AUDIO", "The sound of the video.")},
        outputs=("VIDEO",),
        display_name="Create Video",
        **_VIDEO,
    ),
    NodeClass(
        "GetVideoComponents",
        pure(_components),
        required={"video": link("VIDEO")},
        outputs=("IMAGE", "AUDIO", "FLOAT"),
        output_names=("images", "audio", "fps"),
        display_name="Get Video Components",
        **_VIDEO,
    ),
    NodeClass(
        "SaveVideo",
        _save_video,
        required={
            "video": link("VIDEO", "The video to save."),
            "filename_prefix": string("video/ComfyUI"),
            "format": new_combo(["auto", "mp4"], default="auto"),
            "codec": new_combo(["auto", "h264"], default="auto"),
        },
        hidden=HIDDEN,
        output_node=True,
        display_name="Save Video",
        description="The simulator writes Motion JPEG without sound into an MP4 file.",
        **_VIDEO,
    ),
]
