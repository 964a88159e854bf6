"""The walls of the house: which room may know which, and what is free of I/O and of clocks."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "proxy"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Free of I/O, of tasks and of clocks.
PURE = [
    *(path for path in MODULES if "translate" in path.relative_to(PACKAGE).parts),
    *(
        PACKAGE / "packs" / f"{name}.py"
        for name in (
            *("nodes", "pack", "rewriting", "view", "model_names", "blender", "easy_use"),
            *("houdini", "swarm", "tooling", "tooling_routes", "urls", "websocket_image"),
        )
    ),
    *(
        PACKAGE / "costs" / f"{name}.py"
        for name in ("budgets", "credits", "expressions", "job_cost", "prices")
    ),
    PACKAGE / "members" / "member.py",
    *(
        PACKAGE / "engine" / name
        for name in (
            *("fair_share.py", "forecast.py", "node_states.py", "outcomes.py", "progress.py"),
            *("scheduler.py", "tracker.py"),
        )
    ),
]
IMPURE = {"asyncio", "aiohttp", "aiosqlite", "os", "random", "secrets", "socket", "threading"}
CLOCKS = re.compile(r"\btime\.(?:time|monotonic|perf_counter|sleep)|\buuid[14]\b|\bnow\(\)|utcnow")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, whole names."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def room(path: Path) -> str:
    """The folder or the single module of the package that a file is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_that(path: Path) -> set[str]:
    """The rooms that a file knows, beside its own."""
    names = [name.split(".") for name in imports(path) if name.startswith("proxy.")]
    known = {parts[1] for parts in names}
    return {name for name in known - {room(path)} if (PACKAGE / name).is_dir() or _is_module(name)}


def _is_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").exists()


def test_no_arrow_leads_back() -> None:
    arrows: defaultdict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        arrows[room(path)] |= rooms_that(path)
    order = list(TopologicalSorter(arrows).static_order())
    assert order.index("translate") < order.index("cloud") < order.index("jobs")
    assert order.index("jobs") < order.index("engine") < order.index("app")
    assert "engine" not in arrows["admin"] | arrows["api"]
    assert order.index("jobs") < order.index("api") < order.index("admin") < order.index("app")
    assert order.index("app") < order.index("cli")
    assert order.index("api") < order.index("leader") < order.index("app")
    assert {name for name, known in arrows.items() if "leader" in known} == {"app"}
    assert arrows["edge"] & {"admin", "api", "app", "engine", "jobs"} == set()
    assert arrows["translate"] == set()
    assert arrows["simulator"] == {"translate"}
    assert {room_name for room_name, known in arrows.items() if "simulator" in known} == {"cli"}


#: What names a pack, its clients or its nodes.
PACK_NAMES = re.compile(
    r"helper|krita|swarm|easy.?use|blender|houdini|base64|tooling|\betn|proxy\.packs", re.IGNORECASE
)


@pytest.mark.parametrize("room_name", ["engine", "jobs"])
def test_what_runs_jobs_names_no_pack(room_name: str) -> None:
    lines = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted((PACKAGE / room_name).glob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PACK_NAMES.search(line)
    ]
    assert lines == []


def test_every_pack_is_an_entry_point_that_no_module_imports() -> None:
    packs = {
        f"proxy.packs.{path.stem}"
        for path in (PACKAGE / "packs").glob("*.py")
        if re.search(r"^PACK = Pack\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert {f"{name}:PACK" for name in packs} == {
        *project["entry-points"]["comfy_cloud_proxy.packs"].values()
    }
    for path in MODULES:
        assert not packs & imports(path), path


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_decides_has_no_io_and_no_clock(path: Path) -> None:
    assert {name.partition(".")[0] for name in imports(path)} & IMPURE == set()
    assert CLOCKS.findall(path.read_text(encoding="utf-8")) == []


#: Clocks, random numbers, threads and processes.
SOURCES = re.compile(
    r"time\.(?:time|monotonic|perf_counter|process_time|thread_time)(?:_ns)?|time\.sleep"
    r"|(?:datetime\.|date\.)+(?:now|utcnow|today)|(?:uuid\.)?uuid[14]"
    r"|random\.\w+|secrets\.(?:choice|rand\w+)|(?:secrets\.)?token_(?:hex|bytes|urlsafe)|os\.urandom|SystemRandom"
    r"|(?:\w+\.)*(?:ThreadPoolExecutor|ProcessPoolExecutor)|(?:threading\.)?(?:Thread|Timer)"
    r"|\w.*\.(?:subprocess_(?:exec|shell)|create_subprocess_\w+|Popen)"
)
#: The only modules with them; the simulator is a program of its own.
WITH_SOURCES = {"clock.py", "randomness.py", "threads.py", "processes.py"}
#: Ends the process when its event loop is stuck, and so must not depend on it.
STOPS_THE_PROCESS = ("serve.py", "threading.Timer")
#: A command that starts a server as its user would.
STARTS_A_SERVER = ("demo.py", "subprocess.Popen")


def test_one_module_reads_the_clock_one_draws_and_one_starts_threads() -> None:
    found = {
        (path.name, called)
        for path in MODULES
        if room(path) != "simulator" and path.name not in WITH_SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Name | ast.Attribute)
        and SOURCES.fullmatch(called := ast.unparse(node))
    }
    assert found == {STOPS_THE_PROCESS, STARTS_A_SERVER}


def _is_error(node: ast.expr | None, name: str) -> bool:
    """Whether a value is the error of this name, or has it as a part."""
    match node:
        case ast.Name(id=id_):
            return id_ == name
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.BoolOp(values=parts):
            return any(_is_error(part, name) for part in parts)
        case ast.IfExp(body=one, orelse=other):
            return _is_error(one, name) or _is_error(other, name)
    return False


def test_no_error_is_kept_with_what_it_has_seen() -> None:
    """It is kept by `kept` (`translate/errors.py`), or as a record of its words."""
    found = [
        f"{path.relative_to(PACKAGE)}:{kept.lineno}"
        for path in MODULES
        if room(path) != "simulator"
        for handler in ast.walk(tree_of(path))
        if isinstance(handler, ast.ExceptHandler) and handler.name
        for kept in ast.walk(handler)
        if (
            isinstance(kept, ast.Assign)
            and any(isinstance(target, ast.Attribute | ast.Subscript) for target in kept.targets)
            and _is_error(kept.value, handler.name)
        )
        or (
            isinstance(kept, ast.Call)
            and isinstance(kept.func, ast.Attribute)
            and kept.func.attr in {"add", "append", "setdefault", "put_nowait"}
            and any(_is_error(value, handler.name) for value in kept.args)
        )
    ]
    assert found == []


def modules_that(path: Path) -> set[Path]:
    """The modules of our own that a file imports, if only for its types."""
    found, known = set(), set(MODULES)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            place = PACKAGE.parent.joinpath(*node.module.split("."))
            for name in node.names:
                inner = place / f"{name.name}.py"
                package = place / "__init__.py"
                outer = package if package in known else place.with_suffix(".py")
                found.add(inner if inner in known else outer)
    return found & known


def test_each_room_has_a_row_in_the_guide_for_contributors() -> None:
    guide = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\S+/`(?:, `\S+/`)*) \|", guide, re.MULTILINE)
    assert set(re.findall(r"`(\w+)/`", " ".join(rows))) == {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }


def test_no_imports_run_in_a_circle() -> None:
    """Those for type checkers count."""
    arrows = {path: modules_that(path) - {path} for path in MODULES}
    TopologicalSorter(arrows).prepare()


#: Fields of a live job that others than the table set: what a turn gives, what a budget is asked
#: for, what is still to be written, and the content, which is in memory only where it is used, with
#: what it takes.
SET_BESIDE_THE_TABLE = {
    ("scheduler.py", "account"),
    ("scheduler.py", "charge"),
    ("scheduler.py", "content"),
    ("scheduler.py", "slot"),
    ("fair_share.py", "slot"),
    ("spending_gate.py", "estimate"),
    ("recorder.py", "content"),
    ("recorder.py", "memory"),
    ("recorder.py", "row"),
    ("recorder.py", "start"),
}


def fields_set(path: Path) -> set[str]:
    """The fields of jobs, and of what jobs have, that a file sets."""
    found = set()
    for node in ast.walk(tree_of(path)):
        owner, name = "", ""
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner, name = ast.unparse(node.value), node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            owner, name = map(ast.unparse, node.args[:2])
        if re.search(r"\bjob\b", owner):
            found.add(name)
    return found


def test_the_table_alone_changes_live_jobs() -> None:
    found = {
        (path.name, name)
        for path in (PACKAGE / "engine").glob("*.py")
        if path.name not in ("table.py", "live_job.py")  # which has the record's own changes
        for name in fields_set(path)
    }
    assert found == SET_BESIDE_THE_TABLE
