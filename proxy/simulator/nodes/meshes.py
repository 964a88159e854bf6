"""3D models: decoded from latents, and saved as glTF 2.0 in binary form."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from itertools import product
from typing import Any

from proxy.simulator.nodes.blank import blank
from proxy.simulator.nodes.node_class import Context, NodeClass, Output
from proxy.simulator.nodes.saving import HIDDEN, prefix_of
from proxy.simulator.nodes.specs import NEW_STYLE, combo, integer, link, maker, number, string
from proxy.simulator.nodes.values import Latent

#: The most shapes of one batch.
_MAX_BATCH = 64
_GREY = (128, 128, 128)
#: The types of 3D files that SaveGLB takes beside meshes.
_FILES = ("GLB", "GLTF", "OBJ", "FBX", "STL", "USDZ")
#: The corners of a cube, and its two triangles a side.
_CORNERS = tuple(product((-1.0, 1.0), repeat=3))
_TRIANGLES = (
    *(0, 1, 3, 0, 3, 2, 4, 6, 7, 4, 7, 5),
    *(0, 4, 5, 0, 5, 1, 2, 3, 7, 2, 7, 6),
    *(0, 2, 6, 0, 6, 4, 1, 5, 7, 1, 7, 3),
)
#: Constants of glTF 2.0: magic, version, chunks; types of components; targets of buffers.
_GLTF, _VERSION, _JSON, _BIN = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
_UNSIGNED_SHORT, _FLOAT, _VERTICES, _INDICES = 5123, 5126, 34962, 34963


@dataclass(frozen=True, slots=True)
class Shapes:
    """A VOXEL or a MESH: a batch of cubes, each with its size."""

    sizes: tuple[float, ...]

    def __str__(self) -> str:
        return f"Shapes({', '.join(f'{size:g}' for size in self.sizes)})"


def glb(size: float) -> bytes:
    """Return a cube as a GLB file."""
    vertices = b"".join(struct.pack("<3f", *(size * part for part in at)) for at in _CORNERS)
    indices = struct.pack(f"<{len(_TRIANGLES)}H", *_TRIANGLES)
    length = len(vertices) + len(indices)
    described = {
        "asset": {"version": "2.0", "generator": "comfy-cloud-proxy"},
        "buffers": [{"byteLength": length}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(vertices), "target": _VERTICES},
            {
                "buffer": 0,
                "byteOffset": len(vertices),
                "byteLength": len(indices),
                "target": _INDICES,
            },
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT,
                "count": len(_CORNERS),
                "type": "VEC3",
                "min": [-size] * 3,
                "max": [size] * 3,
            },
            {
                "bufferView": 1,
                "componentType": _UNSIGNED_SHORT,
                "count": len(_TRIANGLES),
                "type": "SCALAR",
            },
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
    }
    text = json.dumps(described).encode()
    chunks = _chunk(_JSON, text, b" ") + _chunk(_BIN, vertices + indices, b"\0")
    return struct.pack("<3I", _GLTF, _VERSION, 12 + len(chunks)) + chunks


def _chunk(kind: int, data: bytes, filler: bytes) -> bytes:
    data += filler * (-len(data) % 4)
    return struct.pack("<2I", len(data), kind) + data


def _empty(resolution: int, batch_size: int) -> tuple[Latent]:
    del resolution  # the simulator's shapes have none
    return (Latent((blank("RGB", (64, 64), _GREY),) * batch_size),)


def _decode(samples: Latent, **_: Any) -> tuple[Shapes]:
    sizes = (1.0 + (samples.seed + number) % 100 / 100 for number in range(len(samples.pictures)))
    return (Shapes(tuple(sizes)),)


def _to_mesh(voxel: Shapes, **_: Any) -> tuple[Shapes]:
    return (voxel,)


async def _save(inputs: dict[str, Any], context: Context) -> Output:
    prefix = prefix_of(inputs["filename_prefix"])
    mesh: Shapes = inputs["mesh"]
    items = [context.save(glb(size), extension=".glb", prefix=prefix) for size in mesh.sizes]
    return Output(ui={"3d": items})


_node = maker(python_module="comfy_extras.nodes_hunyuan3d", info=NEW_STYLE)

NODES = [
    _node(
        "EmptyLatentHunyuan3Dv2",
        _empty,
        {
            "resolution": integer(3072, 1, 8192),
            "batch_size": integer(1, 1, _MAX_BATCH, tooltip="The number of shapes."),
        },
        outputs=("LATENT",),
        category="latent/3d",
    ),
    _node(
        "VAEDecodeHunyuan3D",
        _decode,
        {
            "samples": link("LATENT"),
            "vae": link("VAE"),
            "num_chunks": integer(8000, 1000, 500000),
            "octree_resolution": integer(256, 16, 512),
        },
        outputs=("VOXEL",),
        category="latent/3d",
    ),
    _node(
        "VoxelToMesh",
        _to_mesh,
        {
            "voxel": link("VOXEL"),
            "algorithm": combo(["surface net", "basic"]),
            "threshold": number(0.6, -1.0, 1.0, 0.01),
        },
        outputs=("MESH",),
        category="3d",
    ),
    NodeClass(
        "SaveGLB",
        _save,
        required={
            "mesh": link(",".join(("MESH", *(f"FILE_3D_{kind}" for kind in _FILES), "FILE_3D"))),
            "filename_prefix": string("3d/ComfyUI"),
        },
        hidden=HIDDEN,
        output_node=True,
        display_name="Save 3D Model",
        category="3d",
        python_module="comfy_extras.nodes_hunyuan3d",
        info=NEW_STYLE,
    ),
]
