"""The cache on disk: what it keeps, what it throws out, what it trusts."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from blake3 import blake3
from stopped_clock import stopped
from structlog.testing import capture_logs

from proxy.files.cache import UNUSED, Cache, open_new, open_to_read, read_at

KEY = "ab" * 32


def opened(folder: Path, limit: int = 1000) -> Cache:
    cache = Cache(folder, limit)
    cache.start()
    return cache


def keep(cache: Cache, data: bytes, owner: str = "") -> str:
    """Keep a content and let go of it."""
    partial = cache.new_partial()
    partial.write_bytes(data)
    hash_ = blake3(data).hexdigest()
    cache.keep(partial, hash_, owner=owner)
    return hash_


def data_of(cache: Cache, hash_: str) -> bytes | None:
    lease = cache.lease(hash_)
    return None if lease is None else lease.path.read_bytes()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return opened(tmp_path)


def test_a_content_is_found_by_its_hash(cache: Cache) -> None:
    assert data_of(cache, keep(cache, b"one")) == b"one"


def test_nothing_is_found_that_was_not_kept(cache: Cache) -> None:
    assert cache.lease(KEY) is None


def test_the_least_recently_used_goes_first(cache: Cache) -> None:
    first, second = keep(cache, b"1" * 400), keep(cache, b"2" * 400)
    assert data_of(cache, first) is not None
    third = keep(cache, b"3" * 400)
    assert data_of(cache, second) is None
    assert data_of(cache, first) is not None
    assert data_of(cache, third) is not None


def test_the_owner_of_the_most_gives_way_first(cache: Cache) -> None:
    kept = [keep(cache, b"%d" % number * 200, "ann") for number in range(2)]
    many = [keep(cache, b"%03d" % number * 50, "eve") for number in range(50)]
    assert all(hash_ in cache for hash_ in kept)
    assert [hash_ for hash_ in many if hash_ in cache] == many[-4:]


def test_a_file_of_an_earlier_run_is_of_who_uses_it(tmp_path: Path) -> None:
    before = opened(tmp_path)
    used, others = keep(before, b"1" * 300), [keep(before, b"%d" % n * 300) for n in (2, 3)]
    again = opened(tmp_path)
    assert again.lease(used, "ann") is not None
    for number in range(20):
        keep(again, b"%03d" % number * 100, "eve")
    assert used in again
    assert not any(hash_ in again for hash_ in others)


def test_what_nobody_has_used_for_a_day_goes_before_what_another_one_uses(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = stopped(monkeypatch, 1e6)
    unused = keep(cache, b"ann's" * 20, "ann")
    clock.at += UNUSED + 1
    used = [keep(cache, b"%d" % number * 300, "eve") for number in range(3)]
    assert all(hash_ in cache for hash_ in used)
    keep(cache, b"more" * 20, "eve")
    assert unused not in cache
    assert all(hash_ in cache for hash_ in used)


def test_there_are_no_more_files_than_memory_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.files.cache.MIN_FILES", 2)
    cache = opened(tmp_path)
    used = cache.lease(keep(cache, b"used"))
    first, second, third = (keep(cache, data) for data in (b"1", b"2", b"3"))
    assert [data_of(cache, key) for key in (first, second, third)] == [None, None, b"3"]
    assert used is not None
    assert used.path.exists()
    large = opened(tmp_path / "large", 3 * 128 * 1024)
    kept = [keep(large, bytes([number])) for number in range(4)]
    assert [data_of(large, key) is None for key in kept] == [True, False, False, False]


def test_the_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    first, second = keep(cache, b"1" * 400), keep(cache, b"2" * 400)
    assert data_of(cache, first) is not None
    cache = opened(tmp_path)
    keep(cache, b"3" * 400)
    assert data_of(cache, second) is None
    assert data_of(cache, first) is not None


def test_a_smaller_bound_counts_from_the_start(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    keep(cache, b"1" * 400)
    last = keep(cache, b"2" * 400)
    cache = opened(tmp_path, limit=500)
    assert cache.total == 400
    assert data_of(cache, last) is not None


def test_what_is_in_use_stays_though_the_bound_is_passed(cache: Cache) -> None:
    hash_ = keep(cache, b"1" * 900)
    lease = cache.lease(hash_)
    assert lease is not None
    keep(cache, b"2" * 900)
    assert lease.path.exists()
    lease.release()
    lease.release()
    assert cache.total <= 1000


def test_a_lease_that_is_forgotten_is_released(cache: Cache) -> None:
    hash_ = keep(cache, b"1" * 900)
    lease = cache.lease(hash_)
    keep(cache, b"2" * 900)
    del lease
    gc.collect()
    assert cache.total <= 1000


def test_a_content_beyond_the_bound_lives_as_long_as_it_is_used(cache: Cache) -> None:
    partial = cache.new_partial()
    partial.write_bytes(b"x" * 2000)
    lease = cache.keep(partial, KEY)
    assert lease.path.exists()
    lease.release()
    assert not lease.path.exists()
    assert cache.total == 0


def test_keeping_the_same_content_twice_is_one_file(cache: Cache) -> None:
    keep(cache, b"one")
    hash_ = keep(cache, b"one")
    assert cache.total == 3
    assert data_of(cache, hash_) == b"one"


def test_unfinished_files_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    partial = opened(tmp_path).new_partial()
    opened(tmp_path)
    assert not partial.exists()


def test_a_content_damaged_between_two_runs_is_not_served(tmp_path: Path) -> None:
    hash_ = keep(opened(tmp_path), b"one")
    cache = opened(tmp_path)
    (tmp_path / "content" / hash_).write_bytes(b"two")
    assert not cache.is_trusted(hash_)
    with capture_logs() as logs:
        assert cache.lease(hash_) is None
    assert [log["log_level"] for log in logs] == ["warning"]
    assert cache.total == 0


def test_a_fresh_content_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    hash_ = keep(opened(tmp_path), b"one")
    cache = opened(tmp_path)
    (tmp_path / "content" / hash_).write_bytes(b"two")
    assert data_of(cache, keep(cache, b"one")) == b"one"
    assert cache.total == 3


def test_a_sound_content_of_an_earlier_run_is_hashed_once(tmp_path: Path) -> None:
    hash_ = keep(opened(tmp_path), b"one")
    cache = opened(tmp_path)
    assert data_of(cache, hash_) == b"one"
    assert cache.is_trusted(hash_)


def test_a_file_of_another_name_is_left_alone(tmp_path: Path) -> None:
    keep(opened(tmp_path), b"one")
    foreign = tmp_path / "content" / "notes"
    foreign.write_bytes(b"mine")
    assert opened(tmp_path).total == 3
    keep(opened(tmp_path, limit=3), b"two")
    assert foreign.read_bytes() == b"mine"


def test_a_file_that_somebody_removed_is_not_found(cache: Cache, tmp_path: Path) -> None:
    hash_ = keep(cache, b"one")
    (tmp_path / "content" / hash_).unlink()
    assert cache.lease(hash_) is None
    assert cache.total == 0


def keep_conversion(cache: Cache, data: bytes) -> None:
    partial = cache.new_partial()
    partial.write_bytes(data)
    assert cache.keep_conversion(KEY, partial) == data


def test_conversions_are_kept_over_a_restart(tmp_path: Path) -> None:
    keep_conversion(opened(tmp_path), b"webp")
    assert opened(tmp_path).conversion(KEY) == b"webp"


def test_a_damaged_conversion_is_made_again(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    keep_conversion(cache, b"webp")
    path = tmp_path / "converted" / KEY
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert cache.conversion(KEY) is None
    assert cache.total == 0


def test_conversions_count_into_the_bound(cache: Cache) -> None:
    keep_conversion(cache, b"x" * 900)
    keep(cache, b"y" * 900)
    assert cache.conversion(KEY) is None
    assert cache.total == 900


def test_a_conversion_that_cannot_be_written_is_left(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "converted" / KEY).mkdir()
    with capture_logs() as logs:
        keep_conversion(cache, b"webp")
    assert [log["log_level"] for log in logs] == ["warning"]
    assert cache.conversion(KEY) is None


def test_a_file_that_is_written_and_read_can_be_renamed_and_deleted(tmp_path: Path) -> None:
    writing, path = open_new(tmp_path)
    reading = open_to_read(path)
    os.write(writing, b"first\r\n")
    path = path.replace(tmp_path / "renamed")
    os.write(writing, b"second\x1a")
    path.unlink()
    assert read_at(reading, 100, 0) == b"first\r\nsecond\x1a"
    os.close(writing)
    os.close(reading)


def test_each_reading_begins_at_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = open_to_read(path)
    found = [read_at(descriptor, 4, offset) for offset in (3, 0, 8, 10)]
    os.close(descriptor)
    assert found == [b"3456", b"0123", b"89", b""]


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_to_read(tmp_path / "missing")


def test_a_new_file_is_for_its_user_alone(tmp_path: Path) -> None:
    handle, path = open_new(tmp_path)
    os.close(handle)
    assert path.stat().st_mode & 0o077 == 0
