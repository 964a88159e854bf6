"""The store of blobs: the same in a folder and in a bucket of a real S3 server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import servers
from blake3 import blake3
from files.conftest import OpenFiles
from files.helpers import MemoryCloud, bytes_of, loaded, png, record_of, upload
from yarl import URL

from proxy.files.blobs import BlobError, BlobMissingError, BlobStore, open_blobs
from proxy.translate.errors import LocalError


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Bucket]:
    with servers.s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(params=["folder", "s3"])
async def blobs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[BlobStore]:
    if request.param == "folder":
        store = open_blobs(str(tmp_path / "blobs"))
    else:
        bucket: servers.Bucket = request.getfixturevalue("bucket")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret)
        monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
        store = open_blobs(f"{bucket.url}/{tmp_path.name}")
    yield store
    await store.close()


def content(folder: Path, data: bytes) -> tuple[str, Path]:
    hash_ = blake3(data).hexdigest()
    path = folder / hash_
    path.write_bytes(data)
    return hash_, path


async def read(blobs: BlobStore, hash_: str, offset: int = 0) -> bytes:
    async with blobs.download(hash_, "input", offset) as blob:
        data = b"".join([chunk async for chunk in blob.chunks()])
        assert blob.size == offset + len(data)
        return data


async def test_what_was_put_comes_back(blobs: BlobStore, tmp_path: Path) -> None:
    for data in b"", b"x", os.urandom(12_000_000):
        hash_, path = content(tmp_path, data)
        await blobs.put(hash_, path)
        assert await read(blobs, hash_) == data
        assert path.read_bytes() == data


async def test_a_content_can_be_taken_up_where_it_broke(blobs: BlobStore, tmp_path: Path) -> None:
    hash_, path = content(tmp_path, b"0123456789" * 100_000)
    await blobs.put(hash_, path)
    assert await read(blobs, hash_, offset=999_997) == b"789"


async def test_many_may_put_one_content_at_once(blobs: BlobStore, tmp_path: Path) -> None:
    hash_, path = content(tmp_path, os.urandom(1_000_000))
    await asyncio.gather(*(blobs.put(hash_, path) for _ in range(6)))
    assert await read(blobs, hash_) == path.read_bytes()


async def test_what_is_there_half_is_written_again(blobs: BlobStore, tmp_path: Path) -> None:
    hash_, path = content(tmp_path, b"half")
    await blobs.put(hash_, path)
    path.write_bytes(b"the whole")
    await blobs.put(hash_, path)
    assert await read(blobs, hash_) == b"the whole"


async def test_what_nobody_put_is_missing(blobs: BlobStore) -> None:
    with pytest.raises(BlobMissingError):
        await read(blobs, "0" * 64)


async def test_a_store_that_works_passes_the_check(blobs: BlobStore) -> None:
    await blobs.check()
    await blobs.check()


async def test_a_folder_that_cannot_be_written_fails_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BlobError, match=f"{tmp_path}/file/blobs cannot be used: .*directory"):
        open_blobs(str(tmp_path / "file" / "blobs"))


async def test_keys_that_the_store_does_not_know_are_in_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key-id-of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers.free_port()}")
    store = open_blobs("s3://bucket/away")
    with pytest.raises(BlobError, match=r"s3://bucket/away cannot be used: .*error sending") as got:
        await store.check()
    assert "a-secret-of-the-test" not in str(got.value)
    assert "a-key-id-of-the-test" not in str(got.value)
    await store.close()


async def test_keys_may_be_in_a_file(
    tmp_path: Path, bucket: servers.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY":
        monkeypatch.delenv(name, raising=False)
    keys = tmp_path / "credentials"
    keys.write_text(
        f"[default]\naws_access_key_id = {bucket.key}\naws_secret_access_key = {bucket.secret}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    store = open_blobs(bucket.url)
    await store.check()
    keys.unlink()
    store = open_blobs(bucket.url)
    with pytest.raises(BlobError, match="credentials"):
        await store.check()


_CARRY = """
import asyncio, resource, sys
from pathlib import Path
from proxy.files.blobs import open_blobs

async def carry(place, source):
    store = open_blobs(place)
    await store.check()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await store.put("0" * 64, source)
    size = 0
    async with store.download("0" * 64, "input") as blob:
        async for chunk in blob.chunks():
            size += len(chunk)
    await store.close()
    print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(carry(sys.argv[1], Path(sys.argv[2])))
"""


def test_a_large_content_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(400_000_000)
    command = (sys.executable, "-c", _CARRY, str(tmp_path / "blobs"), str(source))
    done = subprocess.run(command, capture_output=True, check=True)
    size, kilobytes = map(int, done.stdout.split())
    assert size == 400_000_000
    assert kilobytes < 60_000


# --- with the files of members --------------------------------------------------------------


async def test_another_replica_has_an_upload_from_the_store_and_not_from_the_cloud(
    open_files: OpenFiles, cloud: MemoryCloud, blobs: BlobStore, tmp_path: Path
) -> None:
    await upload(await open_files(blobs=blobs), png())
    other = await open_files(blobs=blobs, cache=tmp_path / "other")
    assert await bytes_of(other, await record_of(other)) == png()
    assert cloud.fetched == []


async def test_what_was_uploaded_before_there_was_a_store_comes_from_the_cloud(
    open_files: OpenFiles, cloud: MemoryCloud, blobs: BlobStore, tmp_path: Path
) -> None:
    await upload(await open_files(), png())
    other = await open_files(blobs=blobs, cache=tmp_path / "other")
    assert await bytes_of(other, await record_of(other)) == png()
    assert len(cloud.fetched) == 1


async def test_a_damaged_content_of_the_store_is_replaced_by_that_of_the_cloud(
    open_files: OpenFiles, cloud: MemoryCloud, tmp_path: Path
) -> None:
    blobs = open_blobs(str(tmp_path / "blobs"))
    await upload(await open_files(blobs=blobs), png())
    (kept,) = (tmp_path / "blobs").glob("??/*")
    kept.write_bytes(b"x" * kept.stat().st_size)
    other = await open_files(blobs=blobs, cache=tmp_path / "other")
    assert await bytes_of(other, await record_of(other)) == png()
    assert len(cloud.fetched) == 1
    await blobs.close()


async def test_an_account_at_another_cloud_gets_an_upload_from_the_store(
    open_files: OpenFiles, blobs: BlobStore, tmp_path: Path
) -> None:
    await upload(await open_files(blobs=blobs), png())
    moved = MemoryCloud(URL("http://elsewhere"))
    files = await open_files(moved, blobs=blobs, cache=tmp_path / "other")
    await loaded(files, "cat.png")
    assert moved.sent == ["cat.png"]


async def test_an_upload_that_cannot_be_kept_is_not_taken(
    open_files: OpenFiles, tmp_path: Path
) -> None:
    blobs = open_blobs(str(tmp_path / "blobs"))
    files = await open_files(blobs=blobs)
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(LocalError) as refused:
        await upload(files, png())
    assert (refused.value.type, refused.value.retry_after) == ("blobs_unavailable", 5.0)
    assert await files.find("local", "input", "", "cat.png") is None
    await blobs.close()
