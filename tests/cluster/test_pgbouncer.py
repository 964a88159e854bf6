"""PgBouncer in transaction mode stands before PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from cluster import load
from cluster.replicas import Servers, running_cluster
from servers import pgbouncer

from proxy.simulator import Simulator, Switches


async def test_replicas_work_and_follow_each_other_behind_it(
    tmp_path: Path, servers: Servers
) -> None:
    database = servers.postgresql.create("behind-pgbouncer").rpartition("/")[2]
    with pgbouncer(servers.postgresql) as bouncer:
        url = servers.postgresql.url(database, port=bouncer.port)
        async with (
            Simulator(plan="pro", switches=Switches(pace=0.02)) as simulator,
            running_cluster(tmp_path, servers, simulator, database=url) as cluster,
        ):
            engine = await cluster.engine()
            others = [number for number in range(3) if number != cluster.number(engine)]
            clients = [cluster.client(number) for number in others * 2]
            async with load.load(clients, [*clients[1:], clients[0]]) as (runners, _):
                await load.one_more(runners, 2)
                assert await engine.stop() == 0
                await cluster.engine(but=engine)
                await load.one_more(runners, 2)
            for runner in runners:
                runner.check(only_ends=True)
            await load.check_records(cluster, load.submitted_by(runners))
