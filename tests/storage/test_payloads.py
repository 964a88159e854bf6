"""Payloads of jobs, in each database."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from sqlalchemy import select
from storage.samples import PAYLOAD, job

from proxy.storage.database import Database
from proxy.storage.encryption import Cipher
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload, job_payloads
from proxy.storage.statements import CHUNK


async def test_credentials_are_encrypted_until_they_are_sent(
    database: Database, tmp_path: Path
) -> None:
    jobs = JobRepository(database, Cipher(tmp_path / "credentials.key"))
    secret = b'{"api_key_comfy_org": "comfyui-123"}'
    order = (await jobs.insert(job(), replace(PAYLOAD, credentials=secret))).order
    stored = await database.read(
        lambda connection: connection.execute(select(job_payloads.c.credentials)).scalar_one()
    )
    assert b"comfyui-123" not in stored
    again = JobRepository(database, Cipher(tmp_path / "credentials.key"))
    found = await again.payloads.get(order)
    assert found is not None
    assert found.credentials == secret
    other = await JobRepository(database, Cipher()).payloads.get(order)
    assert other == PAYLOAD  # another secret: the job goes on without
    await jobs.update([(order, {"account": "one", "cloud_id": ""})])
    assert await again.payloads.get(order) == found
    await jobs.update([(order, {"account": "one", "cloud_id": "c"})])
    assert await jobs.payloads.get(order) == PAYLOAD


async def test_many_payloads_are_read_at_once_and_sizes_without_them(database: Database) -> None:
    jobs = JobRepository(database)
    payloads = [Payload(b"{}" * (number + 1), b'{"a": 1}') for number in range(3)]
    orders = [
        (await jobs.insert(job(str(number)), payload)).order
        for number, payload in enumerate(payloads)
    ]
    # More than fit into one statement, most of them gone.
    asked = [*range(10_000, 10_000 + CHUNK), *orders]
    assert await jobs.payloads.get_many(asked) == dict(zip(orders, payloads, strict=True))
    sizes = [len(payload.graph) + len(payload.extra_data) for payload in payloads]
    assert await jobs.payloads.sizes(asked) == dict(zip(orders, sizes, strict=True))
    assert await jobs.payloads.get_many([]) == {}
    assert await jobs.payloads.sizes([]) == {}
