"""The nodes of SideFX's Houdini bridge that carry names of files and texts."""

from __future__ import annotations

from proxy.translate.events import Told
from proxy.translate.helpers.blender import located
from proxy.translate.helpers.helper import Helper, Result, Tells, becomes, info

_PACK = "houdini-connection"


def _as_image(result: Result) -> Told:
    return Told(ui={"images": [located(text) for text in result.texts]})


HELPERS = (
    Helper(
        "HouCuiStringAsImage",
        info(
            "HouCuiStringAsImage",
            {"image_path": ["STRING", {"tooltip": "The image path to output."}]},
            pack=_PACK,
            category="",
            title="String To Image Helper",
            output_node=True,
        ),
        becomes("PreviewAny", {"source": "image_path"}),
        frozenset({"PreviewAny"}),
        tells=Tells(_as_image),
        exact="The file that the text names.",
        differs="The file can be fetched only where it is an output that the cloud told of.",
    ),
    Helper(
        "HouStringPassThrough",
        info(
            "HouStringPassThrough",
            {"str_in": ["STRING", {"forceInput": True, "tooltip": "a string"}]},
            pack=_PACK,
            category="",
            outputs=[("STRING", "str_out")],
            title="String Pass Through",
        ),
        becomes("PrimitiveString", {"value": "str_in"}),
        frozenset({"PrimitiveString"}),
        exact="It is core's `PrimitiveString`.",
    ),
)
