"""Members who send bodies that take long to read, or that never end."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from security.attack import MEMBER, Target
from security.conftest import Start
from waiting import until

from proxy.api.spool import MAX_UPLOADS

MB = 1024 * 1024
#: The largest uploads of one member that fit on the disk at once.
MEMBER_UPLOADS = MAX_UPLOADS // 2


def multipart(
    content: bytes, *, disposition: str = 'name="type"', content_type: str = "text/plain"
) -> bytes:
    """The body of a form with one part, whose boundary is `b`."""
    head = f"--b\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: {content_type}"
    return head.encode() + b"\r\n\r\n" + content + b"\r\n--b--\r\n"


async def post_form(target: Target, body: bytes) -> int:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return await target.request("POST", "upload/image", data=io.BytesIO(body), headers=headers)


@asynccontextmanager
async def unfinished(target: Target, path: str, body: bytes, *headers: str) -> AsyncIterator[int]:
    """A request whose last byte is missing; the status of an early answer, or 0."""
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: {target.url.authority}",
        f"Authorization: {target.bearer()['Authorization']}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    reader, writer = await target.connect("\r\n".join([*head, "", ""]).encode() + body[:-1])
    try:
        status = 0
        try:
            async with asyncio.timeout(3):
                status = int((await reader.readline()).split()[1])
        except TimeoutError:
            pass
        yield status
    finally:
        writer.transport.abort()


async def test_a_charset_that_takes_long_is_refused(target: Target) -> None:
    async with target.attacked_by(MEMBER):
        text = b"a" * 200_000 + b"-" + b"b" * 200_000
        statuses = [
            await post_form(target, multipart(text, content_type="text/plain; charset=punycode")),
            await post_form(
                target,
                multipart(b"punycode", disposition='name="_charset_"')[: -len("--b--\r\n")]
                + multipart(text),
            ),
            await post_form(
                target, multipart(b"", disposition=f"name*=punycode''{'a' * 3000}-{'b' * 3000}")
            ),
        ]
        for charset in ("punycode", "idna", "utf-7"):
            headers = {"Content-Type": f"application/json; charset={charset}"}
            statuses.append(
                await target.request(
                    "POST", "free", data=io.BytesIO(b'"' + text + b'"'), headers=headers
                )
            )
    assert statuses == [400] * len(statuses)


def parts(parameters: str, count: int = 90) -> bytes:
    """The parts of a form without its end, which have these parameters beside their names."""
    end = len("--b--\r\n")
    return b"".join(
        multipart(b"x", disposition=f'name="a{number}"{parameters}')[:-end]
        for number in range(count)
    )


@pytest.mark.parametrize(
    "body",
    [parts(";" * 15_000), parts('; x="' + '\\"' * 7_000 + '"'), b"x\r\n" * 3 * MB],
    ids=["parameters", "escapes", "lines before the parts"],
)
async def test_a_form_does_not_take_long_to_read(target: Target, body: bytes) -> None:
    whole = body + multipart(b"input", disposition='name="type"')
    async with target.attacked_by(MEMBER):
        statuses = await asyncio.gather(*(post_form(target, whole) for _ in range(3)))
    assert statuses == [400] * 3


async def test_a_string_of_ids_is_not_gone_through(target: Target) -> None:
    body = json.dumps({"delete": "a" * 30 * MB}).encode()
    async with target.attacked_by(MEMBER):
        assert await target.request("POST", "queue", data=io.BytesIO(body)) == 200
        assert await target.request("POST", "history", data=io.BytesIO(body)) == 200


async def test_many_values_are_parsed_one_body_after_the_other(target: Target) -> None:
    body = b"[" + b"[]," * 240_000 + b"[]]"
    async with target.attacked_by(MEMBER):
        statuses = await asyncio.gather(
            *(target.request("POST", "free", data=io.BytesIO(body)) for _ in range(6))
        )
    assert set(statuses) <= {200, 400, 429}


async def test_bodies_whose_last_byte_is_missing_have_a_bound(start: Start) -> None:
    body = gzip.compress(bytes(20 * MB))[:-8]
    async with start("--memory-mb", "64") as target:
        async with target.attacked_by(MEMBER) as figures, AsyncExitStack() as open_requests:
            statuses = [
                await open_requests.enter_async_context(
                    unfinished(target, f"/userdata/{n}", body, "Content-Encoding: gzip")
                )
                for n in range(6)
            ]
        assert statuses == [0] + [429] * 5
        assert figures.growth < 64
        assert await target.request("POST", "userdata/small", data=b"x") == 200


async def test_unfinished_uploads_do_not_fill_the_disk(start: Start) -> None:
    packer = zlib.compressobj()
    body = packer.compress(multipart(bytes(19 * MB), disposition='name="image"; filename="a.bin"'))
    body += packer.flush(zlib.Z_SYNC_FLUSH)
    headers = ("Content-Encoding: deflate", "Content-Type: multipart/form-data; boundary=b")
    async with start("--max-upload-mb", "20") as target:
        async with target.attacked_by(MEMBER), AsyncExitStack() as open_requests:
            statuses = [
                await open_requests.enter_async_context(
                    unfinished(target, "/upload/image", body, *headers)
                )
                for _ in range(MEMBER_UPLOADS + 2)
            ]
            assert 0 < deleted_bytes(target) <= MEMBER_UPLOADS * 20 * MB
        assert statuses == [0] * MEMBER_UPLOADS + [429] * 2
        await until(lambda: deleted_bytes(target) == 0)


def deleted_bytes(target: Target) -> int:
    """Bytes of files that the proxy has open and that have no name."""
    folder = Path(f"/proc/{target.process.process.pid}/fd")
    sizes = 0
    for descriptor in folder.iterdir():
        try:
            if str(descriptor.readlink()).endswith("(deleted)"):
                sizes += descriptor.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


@pytest.mark.parametrize("size", [2 * MB, 80 * MB])
async def test_fields_beside_files_have_a_bound(target: Target, size: int) -> None:
    body = multipart(b"a" * size, disposition='name="subfolder"')
    async with target.attacked_by(MEMBER):
        assert await post_form(target, body) == 400
