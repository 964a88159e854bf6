"""The files that nodes load: what is kept of those that cannot be."""

from __future__ import annotations

import tracemalloc
from typing import Any

from proxy.packs.loading import FileLoader, Load
from proxy.packs.nodes import Mask, PackFailure, PackNodeError

MB = 1024 * 1024
unused: Any = None


class Failing(FileLoader):
    """No file can be loaded; each attempt has read a part of one."""

    async def _picture(self, member: str, load: Load) -> Any:
        read = bytearray(MB)
        raise PackNodeError("OSError", f"broken after {len(read)} bytes") from ValueError(load)


async def test_what_failed_holds_nothing_of_what_it_has_read() -> None:
    loads = [Load("url", Mask.CORE, "image", f"https://a.example/{number}") for number in range(60)]
    loader = Failing(unused, unused, unused, unused)
    tracemalloc.start()
    try:
        found = await loader.load_all("ann", loads)
        assert tracemalloc.get_traced_memory()[0] < MB
    finally:
        tracemalloc.stop()
    assert found == dict.fromkeys(loads, PackFailure("OSError", f"broken after {MB} bytes"))
