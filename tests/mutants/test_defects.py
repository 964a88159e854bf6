"""The defects of `make mutants`: each kind is found in code, planted, and drawn by a seed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mutants.copies import ROOT, Bound, Copy
from mutants.defects import KINDS, Defect, defects_of, probed
from mutants.judge import Reached, Run, files_about
from mutants.run import all_defects, drawn, equivalent

SOURCE = b'''"""A module."""
from __future__ import annotations

LIMIT = max(1, 2)


class Store:
    def __init__(self, items: list) -> None:
        self.items = items

    async def save(self, first: str, second: str, *, again: bool) -> str:
        """Save."""
        if again and len(self.items) > 3:
            log.info("store_full", items=len(self.items))
            await self.flush(first)
        try:
            self.items.append(second)
        except ValueError:
            self.failed += 1
            raise TypeError(f"there are {len(self.items)} items")
        metrics.saved.inc()
        return self.write(first, force=True)
'''


def planted(kind: str) -> set[str]:
    """Return the lines that defects of a kind make of the source."""
    before = set(SOURCE.decode().splitlines())
    lines: set[str] = set()
    for defect in defects_of("store.py", SOURCE):
        if defect.kind == kind:
            changed = defect.planted(SOURCE).decode()
            compile(changed, "store.py", "exec")
            lines |= {line.strip() for line in set(changed.splitlines()) - before}
    return lines


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("left out", {"pass"}),
        ("negated", {
            "if (not (again and len(self.items) > 3)):",
            "if (not (again)) and len(self.items) > 3:",
            "if again and (not (len(self.items) > 3)):",
        }),
        ("always", {
            "if ((again and len(self.items) > 3) or True):",
            "if ((again) or True) and len(self.items) > 3:",
            "if again and ((len(self.items) > 3) or True):",
        }),
        ("shifted", {"if again and ((len(self.items)) >= (3)):"}),
        ("not awaited", {'__import__("asyncio").ensure_future(self.flush(first))'}),
        ("other argument", {
            "await self.flush(second)",
            "self.items.append(first)",
            "return self.write(second, force=True)",
            "return self.write(first, force=False)",
        }),
        ("passes", {"pass"}),
        ("ignored", {"self.write(first, force=True)"}),
    ],
)  # fmt: skip
def test_each_kind_of_defect_changes_one_place(kind: str, lines: set[str]) -> None:
    assert planted(kind) == lines


def test_statements_with_an_effect_are_left_out_but_no_logs_and_metrics() -> None:
    names = [each.name for each in defects_of("store.py", SOURCE) if each.kind == "left out"]
    assert names == [
        "store.py Store.save: left out: await self.flush(first)",
        "store.py Store.save: left out: self.items.append(second)",
        "store.py Store.save: left out: self.failed += 1",
        "store.py Store.save: left out: raise TypeError(f'there are {len(self.items)} items')",
    ]


@pytest.mark.parametrize(("more", "found"), [("", 0), ("    return 1\n", 1)])
def test_an_exception_after_which_a_function_returns_nothing_is_forgotten_anyway(
    more: str, found: int
) -> None:
    source = (
        "def read(text):\n    try:\n        return int(text)\n"
        f"    except ValueError:\n        return None\n{more}"
    )
    kinds = [each.kind for each in defects_of("store.py", source.encode())]
    assert kinds.count("passes") == found


def test_probes_tell_what_has_run() -> None:
    defects = defects_of("store.py", SOURCE)
    probes = probed(SOURCE, enumerate(defects)).replace(b"from proxy._hits import hit as _hit", b"")
    seen: set[int] = set()
    scope: dict = {"_hit": lambda number: seen.add(number) or True}
    exec(compile(probes, "store.py", "exec"), scope)
    save = scope["Store"]([]).save("first", "second", again=False)
    with pytest.raises(NameError, match="metrics"):
        save.send(None)
    assert {defects[number].kind for number in seen} == {
        "left out",
        "negated",
        "always",
        "other argument",
    }
    assert not {number for number in seen if defects[number].line == 15}


def all_of_leader() -> list[Defect]:
    return all_defects(["leader"])


def test_a_seed_draws_the_same_defects_again() -> None:
    defects = all_of_leader()
    assert drawn(defects, 7, 20) == drawn(all_of_leader(), 7, 20)
    assert drawn(defects, 7, 20) != drawn(defects, 8, 20)


def test_all_kinds_of_defects_are_drawn() -> None:
    defects = all_of_leader()
    assert {defects[number].kind for number in drawn(defects, 1, 200)} == set(KINDS)


def test_defects_that_nobody_could_notice_are_in_the_code() -> None:
    names = {
        defect.name for defect in all_defects({each.partition("/")[0] for each in equivalent()})
    }
    assert not set(equivalent()) - names
    assert all(equivalent().values())


def judging(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mutants.run", "--rooms", "costs", "--count", "3", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "tests", "GITHUB_STEP_SUMMARY": ""},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_table_is_printed_when_the_time_is_over() -> None:
    with judging("--minutes", "0") as process:
        output, _ = process.communicate()
    assert "| all | 0 |" in output
    assert "0 of 3 were judged." in output
    assert process.returncode == 0


def test_the_table_is_printed_when_somebody_interrupts() -> None:
    with judging() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("3 of ")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert "0 of 3 were judged." in output
    assert process.returncode == 0


def test_a_defect_that_takes_all_memory_ends_its_own_process_alone(tmp_path: Path) -> None:
    ran = Copy(tmp_path / "copy", Bound()).run("timeit", "-n1", "-r1", "bytearray(5 << 30)")
    assert ran.code == 1
    assert "MemoryError" in ran.output


def test_a_place_that_no_test_reports_is_judged_by_the_files_that_import_its_module() -> None:
    files = files_about(Path("files/picture_tasks.py"))
    assert "tests/files/test_conversions.py" in files
    assert "tests/files/test_service.py" not in files
    passing = {"tests/a.py::test": Run(1.0, frozenset()), "tests/b.py::test": Run(2.0, frozenset())}
    assert Reached(passing).tests_in(["tests/b.py"]) == {"tests/b.py::test": 2.0}
