"""A folder that other programs share: nothing leads out of it, and files appear as a whole."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.files.disk_folder import DiskFolder, FileStatus, UnusableNameError
from proxy.members.member import LOCAL

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "output"
    path.mkdir()
    return path


@pytest.fixture
def folder(root: Path) -> Iterator[DiskFolder]:
    folder = DiskFolder(root)
    yield folder
    folder.close()


def pouring(data: bytes) -> Callable[[int], None]:
    def pour(descriptor: int) -> None:
        os.write(descriptor, data)

    return pour


def content(folder: DiskFolder, path: str, member: str = LOCAL) -> bytes:
    with open(folder.open(member, path), "rb") as file:  # noqa: PTH123
        return file.read()


@pytest.mark.parametrize(
    ("member", "path", "place"),
    [
        (LOCAL, "a.png", "a.png"),
        (LOCAL, "cats/small/a.png", "cats/small/a.png"),
        ("ann", "cats/a.png", "ann/cats/a.png"),
        (LOCAL, "猫 (1).png", "猫 (1).png"),
    ],
)
def test_a_file_is_written_below_the_folder_of_its_member(
    folder: DiskFolder, root: Path, member: str, path: str, place: str
) -> None:
    assert folder.write(member, path, pouring(b"picture"))
    assert (root / place).read_bytes() == b"picture"
    assert content(folder, path, member) == b"picture"
    assert folder.status(member, path) is not None


@posix
def test_others_may_read_what_is_written(folder: DiskFolder, root: Path) -> None:
    umask = os.umask(0o022)
    try:
        folder.write(LOCAL, "cats/a.png", pouring(b""))
    finally:
        os.umask(umask)
    assert stat.S_IMODE((root / "cats").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "cats" / "a.png").stat().st_mode) == 0o644


def test_a_file_is_seen_only_when_it_is_complete(folder: DiskFolder, root: Path) -> None:
    seen = []

    def pour(descriptor: int) -> None:
        os.write(descriptor, b"half")
        seen.append(folder.status(LOCAL, "a.png"))

    folder.write(LOCAL, "a.png", pour)
    assert seen == [None]
    assert [path.name for path in root.iterdir()] == ["a.png"]


def test_nothing_is_left_of_a_file_that_fails(folder: DiskFolder, root: Path) -> None:
    def pour(descriptor: int) -> None:
        os.write(descriptor, b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        folder.write(LOCAL, "a.png", pour)
    assert list(root.iterdir()) == []


def test_a_file_that_is_there_is_not_replaced(folder: DiskFolder, root: Path) -> None:
    (root / "a.png").write_bytes(b"of another program")
    assert not folder.write(LOCAL, "a.png", pouring(b"picture"))
    assert (root / "a.png").read_bytes() == b"of another program"


HOSTILE = ["../a.png", "../../etc/a.png", "cats/../../a.png", "x" * 300, "a\0b.png", "\udcff.png"]


@pytest.mark.parametrize("path", [*HOSTILE, "link.png", "link/a.png", "file/a.png", "cats"])
@posix
def test_no_name_leads_out(folder: DiskFolder, root: Path, path: str) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    (root / "link.png").symlink_to(outside / "a.png")
    (root / "file").write_bytes(b"")
    (root / "cats").mkdir()
    before = sorted(root.parent.rglob("*"))
    with suppress(UnusableNameError):
        assert not folder.write(LOCAL, path, pouring(b"picture"))
    assert folder.status(LOCAL, path) is None
    with pytest.raises((UnusableNameError, FileNotFoundError)):
        content(folder, path)
    assert sorted(root.parent.rglob("*")) == before
    assert (outside / "a.png").read_bytes() == b"secret"


@posix
@given(st.lists(st.sampled_from(["..", ".", "a", "link", "/", "\0", "b.png"]), max_size=6))
def test_no_path_of_any_parts_leads_out(parts: list[str]) -> None:
    """Paths that come here are resolved already; this is the second lock."""
    with tempfile.TemporaryDirectory() as name:
        root, outside = Path(name) / "root", Path(name) / "outside"
        root.mkdir()
        outside.mkdir()
        (root / "link").symlink_to(outside)
        folder = DiskFolder(root)
        try:
            folder.write(LOCAL, "/".join([*parts, "x.png"]), pouring(b""))
        except (UnusableNameError, FileNotFoundError):
            pass
        finally:
            folder.close()
        assert list(outside.iterdir()) == []
        assert {path.name for path in Path(name).iterdir()} == {"root", "outside"}


@posix
def test_a_pipe_is_no_file_and_does_not_block(folder: DiskFolder, root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    assert folder.status(LOCAL, "pipe.png") is None
    with pytest.raises(UnusableNameError):
        folder.open(LOCAL, "pipe.png")
    assert folder.listing(LOCAL, max_files=10) == {}


def test_a_listing_has_regular_files_at_any_depth(folder: DiskFolder, root: Path) -> None:
    for path in ("a.png", "cats/b.png", "cats/small/c.png"):
        folder.write(LOCAL, path, pouring(path.encode()))
    os.utime(root / "a.png", ns=(0, 5_000_000_000))
    (root / "link.png").symlink_to(root / "a.png")
    (root / "loop").symlink_to(root)
    found = folder.listing(LOCAL, max_files=10)
    assert sorted(found) == ["a.png", "cats/b.png", "cats/small/c.png", "link.png"]
    assert found["a.png"] == FileStatus(5, 5_000_000_000)


def test_a_listing_is_bounded(folder: DiskFolder) -> None:
    for number in range(20):
        folder.write(LOCAL, f"{number}.png", pouring(b""))
    assert len(folder.listing(LOCAL, max_files=5)) <= 6


def test_a_member_without_a_folder_has_no_files(folder: DiskFolder) -> None:
    assert folder.listing("ann", max_files=10) == {}
    assert folder.names("ann", "", ("",)) == frozenset()


def test_names_of_a_folder_by_their_beginning(folder: DiskFolder) -> None:
    for path in ("cats/cat_1.png", "cats/dog_1.png", "cat_2.png"):
        folder.write(LOCAL, path, pouring(b""))
    assert folder.names(LOCAL, "cats", ("cat",)) == {"cat_1.png"}
    assert folder.names(LOCAL, "missing", ("cat",)) == frozenset()


def test_what_a_dead_process_has_left_is_deleted(folder: DiskFolder, root: Path) -> None:
    old, young, other = (
        root / ".comfy-cloud-proxy-0123456789abcdef",
        root / ".comfy-cloud-proxy-fedcba9876543210",
        root / ".comfy-cloud-proxy-mine",
    )
    for path in (old, young, other):
        path.write_bytes(b"half")
    past = time.time() - 7200
    os.utime(old, (past, past))
    os.utime(other, (past, past))
    folder.names(LOCAL, "", ("ComfyUI",))
    assert set(root.iterdir()) == {young, other}


async def test_a_disk_that_hangs_does_not_hold_up_the_loop(folder: DiskFolder) -> None:
    freed = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await folder.run(freed.wait)
    freed.set()


@posix
def test_links_to_files_in_the_folder_are_read(folder: DiskFolder, root: Path) -> None:
    folder.write(LOCAL, "cats/small/a.png", pouring(b"picture"))
    (root / "link.png").symlink_to(root / "cats" / "small" / "a.png")
    (root / "other").symlink_to("cats")
    (root / "loop.png").symlink_to(root / "loop.png")
    for path in ("link.png", "other/small/a.png"):
        assert content(folder, path) == b"picture"
        assert folder.status(LOCAL, path) == folder.status(LOCAL, "cats/small/a.png")
    assert folder.status(LOCAL, "loop.png") is None


@posix
def test_a_link_does_not_lead_to_another_member(folder: DiskFolder, root: Path) -> None:
    folder.write("ann", "a.png", pouring(b"picture"))
    folder.write("bob", "b.png", pouring(b"picture"))
    (root / "bob" / "a.png").symlink_to(root / "ann" / "a.png")
    assert folder.status("bob", "a.png") is None
    with pytest.raises(UnusableNameError):
        folder.open("bob", "a.png")
