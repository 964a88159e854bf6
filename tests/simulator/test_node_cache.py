"""What the simulator keeps of earlier runs, and how much."""

from __future__ import annotations

from PIL import Image

from proxy.simulator.node_cache import NodeCache
from proxy.simulator.nodes import Output
from proxy.simulator.nodes.values import Images


def pictures(width: int) -> Output:
    return Output((Images((Image.new("RGB", (width, 10)),)),))


def test_the_newest_are_kept_within_a_count_and_bytes() -> None:
    cache = NodeCache(limit=3, max_bytes=3000)
    for name, width in (("a", 10), ("b", 20), ("c", 30), ("d", 40)):
        cache.put(name, pictures(width))
    assert [name for name in "abcd" if cache.get(name) is not None] == ["b", "c", "d"]
    cache.put("e", pictures(20))
    assert [name for name in "bcde" if cache.get(name) is not None] == ["c", "d", "e"]
    cache.put("f", pictures(90))
    assert [name for name in "cdef" if cache.get(name) is not None] == ["f"]


def test_what_is_too_large_is_not_kept_and_the_same_name_counts_once() -> None:
    cache = NodeCache(max_bytes=3000)
    cache.put("a", pictures(101))
    assert cache.get("a") is None
    for _ in range(5):
        cache.put("b", pictures(60))
    cache.put("c", pictures(40))
    assert cache.get("b") is not None
    assert cache.get("c") is not None
    cache.clear()
    cache.put("d", pictures(100))
    assert cache.get("d") is not None
