"""Two releases side by side over one database, the newer of which has added a column."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import graphs
import psycopg
from cluster.replicas import Cluster, Replica
from servers import free_port

import proxy
from proxy.storage.start import HEAD

#: The schema of the next release.
NEXT = "9999"
_REVISION = f"""
import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{HEAD}"


def upgrade() -> None:
    for table in ("jobs", "history"):
        column = sa.Column("colour", sa.Text(), nullable=False, server_default="grey")
        op.add_column(table, column)
"""


def next_release(folder: Path) -> Path:
    """A copy of the program with one more revision; the folder to import it from."""
    package = folder / "next" / "proxy"
    shutil.copytree(Path(proxy.__file__).parent, package)
    (package / "storage" / "migrations" / "r9999_colour.py").write_text(_REVISION)
    module = package / "storage" / "start.py"
    text, count = re.subn(
        f'^HEAD = "{HEAD}"$', f'HEAD = "{NEXT}"', module.read_text(), flags=re.MULTILINE
    )
    assert count == 1
    module.write_text(text)
    return package.parent


async def runs_everywhere(cluster: Cluster) -> None:
    """A job submitted at each replica that runs ends with its messages at the next one."""
    numbers = [
        cluster.number(replica) for replica in cluster.replicas if replica.process is not None
    ]
    for here, there in zip(numbers, [*numbers[1:], numbers[0]], strict=True):
        client = cluster.client(here)
        listening = cluster.client(there, client.client_id)
        async with listening.listening() as listener:
            prompt_id = await client.submit(graphs.plain(here))
            await listener.until_end(prompt_id)
            assert listener.types().count("execution_success") == 1
        assert (await listening.history(prompt_id))["status"]["status_str"] == "success"


def schema_of(cluster: Cluster) -> str:
    with psycopg.connect(cluster.environment["COMFY_PROXY_DATABASE"]) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        assert row is not None
        return str(row[0])


async def test_a_release_runs_beside_the_next_one(cluster: Cluster, tmp_path: Path) -> None:
    await runs_everywhere(cluster)
    assert schema_of(cluster) == HEAD
    newer = Replica(
        free_port(),
        tmp_path / "replica-next",
        {
            **cluster.environment,
            "PYTHONPATH": str(next_release(tmp_path)),
            "PYTHONSAFEPATH": "1",  # not from the working folder
        },
    )
    cluster.replicas.append(newer)
    try:
        await newer.start()
        await cluster.until_ready()
        assert schema_of(cluster) == NEXT
        await runs_everywhere(cluster)

        older = [replica for replica in cluster.replicas if replica is not newer]
        while (engine := await cluster.engine()) is not newer:
            assert await engine.stop() == 0
        await asyncio.gather(*(replica.start() for replica in older if replica.process is None))
        await cluster.until_ready()  # the older release starts with the newer schema
        assert await cluster.engine() is newer
        await runs_everywhere(cluster)

        assert await newer.stop() == 0
        assert await cluster.engine() in older
        await runs_everywhere(cluster)
        assert schema_of(cluster) == NEXT
        assert f"has the schema {NEXT}" in await cluster.command("check", "--simulate")
    finally:
        await newer.close()
