"""Each target keeps its contract for the inputs that a fuzzer begins with, and some changes."""

from __future__ import annotations

import os
from random import Random

import pytest
from fuzz.harness import (
    MAX_INPUT,
    MAX_MEMORY,
    TARGETS,
    BrokenContractError,
    Target,
    check,
)
from fuzz.mutation import mutated_json, repeated
from fuzz.targets import TARGETS as ALL

#: Seeds of a target that are tried, and changes of each.
_SEEDS, _CHANGES = 12, 4


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("COMFY_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ALL)
def test_a_target_keeps_its_contract(name: str) -> None:
    target, random = TARGETS[name], Random(name)
    seeds = list(target.seeds())
    assert seeds
    for seed in random.sample(seeds, min(len(seeds), _SEEDS)):
        check(target, seed)
        for _ in range(_CHANGES):
            changed = mutated_json(seed, 4096, random) if target.json else None
            check(target, changed or repeated(seed, 4096, random))


def _spend(_: bytes) -> None:
    for _ in range(20_000_000):
        pass


def _hoard(_: bytes) -> bytes:
    return bytes(MAX_MEMORY + 1)


def _fail(_: bytes) -> None:
    raise KeyError("undocumented")


@pytest.mark.parametrize(
    ("run", "complaint"), [(_spend, " ms"), (_hoard, " MB"), (_fail, "KeyError")]
)
def test_a_broken_contract_is_noticed(run: object, complaint: str) -> None:
    target = Target("broken", run, (ValueError,), list)  # type: ignore[arg-type]
    with pytest.raises(BrokenContractError, match=complaint):
        check(target, b"")


def test_a_documented_error_is_no_defect() -> None:
    check(Target("fine", _fail, (LookupError,), list), bytes(MAX_INPUT))


def test_a_target_of_json_gets_json() -> None:
    random = Random(1)
    changed = [mutated_json(b'{"a": [1, {"b": "c"}]}', 1000, random) for _ in range(50)]
    assert len(set(changed)) > 20
    assert mutated_json(b"no JSON", 1000, random) is None
