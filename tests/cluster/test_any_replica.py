"""Any request to any replica: what one of them was told, the others know."""

from __future__ import annotations

import graphs
from cluster.replicas import Cluster


async def test_a_job_is_known_everywhere_and_its_client_hears_it_anywhere(
    cluster: Cluster,
) -> None:
    here, there, elsewhere = cluster.clients()
    async with elsewhere.listening({"supports_preview_metadata": True}) as listener:
        prompt_id = await here.submit(graphs.sampled(steps=3))
        for client in (there, elsewhere):
            assert (await client.get(f"api/jobs/{prompt_id}"))[1]["id"] == prompt_id
        await listener.until_end(prompt_id)
    types = [type_ for type_ in listener.types() if type_ != "progress_state"]
    assert types.count("execution_success") == 1
    entries = [await client.history(prompt_id) for client in (here, there, elsewhere)]
    assert entries[0] == entries[1] == entries[2]
    item = entries[0]["outputs"]["9"]["images"][0]
    pictures = [await client.view(item) for client in (here, there, elsewhere)]
    assert pictures[0] == pictures[1] == pictures[2]
