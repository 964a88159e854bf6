"""Settings that there are no more: an old key or variable is ignored, and a sentence says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from proxy.settings.fields import CLOUD_PREFIX, PREFIX

#: What is in the place of each setting that was removed. A key of an array of tables stands behind
#: the name of the array.
REMOVED: Mapping[str, str] = {
    "accounts.kind": "an account with `object_info` is a deployment",
    "accounts.plan": "the proxy reads the plan from the account, or takes `slots`",
    "allow_plain_http": "the API key goes over http to loopback and private addresses only",
    "accounts.weight": "accounts with a free slot take turns",
    "assets": "ComfyUI's assets API is always served",
    "blobs_endpoint": "set AWS_ENDPOINT_URL, which programs for S3 read",
    "blobs_region": "set AWS_REGION, which programs for S3 read",
    "body_timeout": "each 16 KiB of a request body must arrive within 60 seconds",
    "bus": "one process answers, and the others pass on to it: remove Valkey",
    "catalog_max_age": "the lists of nodes and models are reloaded after an hour",
    "compress": "`/object_info` is always compressed; a reverse proxy can compress the rest",
    "credentials_key": "write the secret into a file, and name it with `secret_file`",
    "database_direct": "migrations also run through a connection pooler",
    "engine_lease": "a standby leads when the leader has not renewed its lease for 6 seconds",
    "helper_nodes": "the proxy always runs the helper nodes that Comfy Cloud lacks",
    "history_size": "the history has the last 10,000 jobs of each member, as many as in ComfyUI",
    "idle_timeout": "an idle connection is closed after 660 seconds, and by a reverse proxy sooner",
    "lost_timeout": "a job whose account cannot be read fails after an hour",
    "max_header_kb": "a request header has at most 16 KiB",
    "max_json_mb": "a JSON body has at most 32 MiB; upload pictures as files",
    "metrics": "they are always served; `admin_listen` serves them at another address only",
    "over_budget": "a queued job that would exceed a hard budget waits until the budget allows it",
    "ping_interval": "a silent websocket is pinged after 30 seconds",
    "prefer_helper_nodes": "the proxy runs a helper node that some account lacks",
    "prefetch": "pictures are downloaded when their job ends, with `output_directory` all outputs",
    "providers.label": "the sign-in page shows `name`",
    "require_members": "members are required on addresses other than loopback, behind "
    "`trusted_proxies`, and where there have been members",
    "shutdown_timeout": "the proxy stops within 8 seconds",
    "simulate_pace": "the simulator takes 0.05 seconds for a step",
    "slots_ahead": "as many jobs are on the cloud as run there at once",
    "unable_timeout": "a job that no account can run fails after 60 seconds",
    "userdata": "saved workflows and settings are in the database of the proxy, by member",
    "validate_graphs": "each workflow is validated against the list of nodes",
    "webhook_hosts": "jobs name no address any more; add a webhook on the dashboard or in the API",
    "write_timeout": "a client must receive the next part of an answer within 60 seconds",
}


def removed_name(variable: str) -> str | None:
    """Return the removed setting that a variable was for, if there is one."""
    name = variable.removeprefix(PREFIX).removeprefix(CLOUD_PREFIX).lower()
    return name if name in REMOVED else None


def removed_keys(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the removed settings that a settings file has."""
    for name, value in document.items():
        if name in REMOVED:
            yield name
        for table in _tables(value):
            yield from (full for key in table if (full := f"{name}.{key}") in REMOVED)


def without_removed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a settings file has beside removed settings."""
    removed = set(removed_keys(document))
    return {
        name: [
            {key: inner for key, inner in table.items() if f"{name}.{key}" not in removed}
            for table in _tables(value)
        ]
        or value
        for name, value in document.items()
        if name not in removed
    }


def _tables(value: object) -> list[dict[str, Any]]:
    """Return the tables of an array of tables; of anything else none."""
    is_array = isinstance(value, list) and all(isinstance(each, dict) for each in value)
    return value if is_array and isinstance(value, list) else []


def sentences(variables: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that is for a removed setting, and for each removed
    key of the settings file."""
    found = {f"The environment variable {each}": removed_name(each) for each in variables}
    found |= {f"`{key}` in the settings file": key for key in keys}
    return [
        f"{where} is not a setting any more and is ignored: {REMOVED[name]}."
        for where, name in found.items()
        if name is not None
    ]
