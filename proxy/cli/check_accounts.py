"""What `check` says of accounts: their clouds, keys, plans and event sockets."""

from __future__ import annotations

from collections import Counter

from proxy.catalog.owners import split_owners
from proxy.cli.check_report import CheckError, CheckReport
from proxy.cloud.client import CloudClient
from proxy.cloud.connections import CloudAddresses
from proxy.cloud.errors import CloudError, CloudGarbage, CloudRefused, CloudUnauthorized
from proxy.cloud.event_socket import EventSocket
from proxy.cloud.observer import Observer
from proxy.cloud.resilience import RetryPolicy
from proxy.cloud.v2.catalog import NodeList
from proxy.cloud.v2.client import DeploymentClient
from proxy.settings import (
    AccountAccess,
    ConfigError,
    Settings,
    account_of,
    key_source,
    read_key,
    tables_of,
)
from proxy.translate.plans import AccountPlan

#: Seconds that the cloud has for each answer.
TIMEOUT = 10.0
_RETRIES = RetryPolicy(budget=TIMEOUT / 2, attempt_timeout=TIMEOUT)


def listed_accounts(settings: Settings) -> list[tuple[AccountAccess, str]]:
    """Return all accounts of the settings, and why there is no usable key; else `""`."""
    found = []
    for table in tables_of(settings):
        try:
            key = read_key(settings, table)
            problem = (
                "" if key else f"There is no API key: {_new_key(key_source(settings, table))}."
            )
        except ConfigError as error:
            key, problem = None, str(error)
        found.append((account_of(settings, table, key or ""), problem))
    return found


async def check_accounts(accounts: list[tuple[AccountAccess, str]], checks: CheckReport) -> None:
    """Check accounts, each with the reason why there is no usable key, else `""`."""
    refused = []
    for account, problem in accounts:
        if len(accounts) > 1:
            checks.begin(account.name)
        if account.nodes is not None:
            await _check_deployment(account, problem, checks)
        elif await _check_account(account, problem, checks):
            refused.append(account.name)
    checks.account = None
    if refused:
        checks.add(
            "billing",
            fine="The cloud does not report the balance to this key. To see one, enter it on the "
            "page “Accounts” of the dashboard.",
        )
    cloud = [account for account, _ in accounts if account.nodes is None]
    same = Counter(account.key for account in cloud if account.key)
    if any(count > 1 for count in same.values()):
        names = " and ".join(account.name for account in cloud if same[account.key] > 1)
        checks.add("accounts", problem=f"{names} have the same key: remove all but one of them.")


async def _check_account(account: AccountAccess, missing: str, checks: CheckReport) -> bool:
    """Check an account; return whether the cloud does not tell its key what is left."""
    client = CloudClient(
        account.base_url,
        account.key,
        retries=_RETRIES,
    )
    await client.start()
    try:
        if not await checks.passes("cloud", _reachable(client)):
            not_tried = "Not tested, because the cloud does not answer."
            checks.add("key", problem=missing or not_tried)
            checks.add("event socket", problem=not_tried)
            return False
        if missing:
            checks.add("key", problem=missing)
        if missing or not await checks.passes("key", _key_works(client, account)):
            checks.add("event socket", problem="Not tested, because it needs a valid key.")
            return False
        plan = await client.billing.plan()
        checks.add("plan", fine=_plan_sentence(plan))
        _check_credits(plan, await client.billing.run_refusal(), checks)
        await checks.passes("event socket", _socket_opens(account))
        return plan.balance_cents is None
    finally:
        await client.close()


async def _check_deployment(account: AccountAccess, missing: str, checks: CheckReport) -> None:
    """Check a deployment and its list of nodes. Nothing is started, and no job is sent."""
    assert account.nodes is not None  # noqa: S101 (by the kind of the account)
    nodes = NodeList(account.nodes)
    await checks.passes("nodes", _nodes_listed(nodes))
    if missing:
        checks.add("key", problem=missing)
        return
    client = DeploymentClient(
        account.base_url,
        account.key,
        nodes,
        retries=_RETRIES,
    )
    await client.start()
    try:
        await checks.passes("deployment", _deployment_answers(client, account))
    finally:
        await client.close()


async def _nodes_listed(nodes: NodeList) -> str:
    try:
        classes, _ = split_owners(await nodes.read())
    except (CloudError, ValueError) as error:
        raise CheckError(
            f"There is no list of nodes ({error}): save it with comfy-cloud-proxy catalog save "
            "http://127.0.0.1:8188 object_info.json."
        ) from None
    return f"{len(classes):,} node classes in {nodes.place}."


async def _deployment_answers(client: DeploymentClient, account: AccountAccess) -> str:
    address = str(client.base_url).rstrip("/")
    try:
        await client.check_key()
    except CloudUnauthorized:
        new_key = _new_key(account.key_source)
        raise CheckError(
            f"{address} does not know this key, which must be one of its workspace: {new_key}."
        ) from None
    except CloudRefused as error:
        raise CheckError(f"{address} refused the request ({error}).") from None
    except CloudError as error:
        raise CheckError(
            f"{address} cannot be reached ({error}): check base_url of the account."
        ) from None
    return f"{address} accepts the key."


def _plan_sentence(plan: AccountPlan) -> str:
    """Return what the account says of its plan. An account that says nothing is no failure."""
    if sentence := plan.sentence():
        return f"{sentence}."
    return "The cloud does not say: the proxy discovers how many jobs run at once."


def _check_credits(plan: AccountPlan, refusal: str | None, checks: CheckReport) -> None:
    """Say what the account cannot pay. `refusal` is why it may run nothing; `None` is unknown."""
    more = "Add credits at https://platform.comfy.org."
    if refusal:
        checks.add(
            "credits",
            problem=f"Comfy Cloud will refuse all jobs and partner nodes ({refusal}). {more}",
        )
    elif plan.balance_cents is not None and plan.balance_cents <= 0:
        jobs = (
            "It runs other jobs"
            if refusal == ""
            else "It refuses other jobs, too, unless the plan includes them"
        )
        checks.add(
            "credits",
            warning=f"The balance is {plan.balance}: Comfy Cloud will refuse partner nodes. "
            f"{jobs}. {more}",
        )


async def _reachable(client: CloudClient) -> str:
    address = str(client.base_url).rstrip("/")
    stranger = f"The server at {address} is not Comfy Cloud: correct COMFY_CLOUD_BASE_URL."
    try:
        stats = await client.system_stats()
        if not isinstance(stats.get("system"), dict):
            raise CheckError(stranger)
    except CloudRefused as error:
        if error.status >= 500:
            raise CheckError(
                f"{address} answers with status {error.status}: try again later."
            ) from None
        if error.status in (404, 405) or not isinstance(error.body, dict):
            raise CheckError(stranger) from None
    except CloudGarbage:
        raise CheckError(stranger) from None
    except CloudError as error:
        raise CheckError(
            f"{address} cannot be reached ({error}): check the network and COMFY_CLOUD_BASE_URL."
        ) from None
    return f"{address} answers."


async def _key_works(client: CloudClient, account: AccountAccess) -> str:
    try:
        await client.user()
        await client.plan()
    except CloudUnauthorized:
        new_key = _new_key(account.key_source)
        raise CheckError(f"The cloud does not know this key: {new_key}.") from None
    except CloudRefused as error:
        if error.status == 403:
            raise CheckError(
                "The key is valid, but its account needs a plan with API access (403): subscribe "
                "to Standard, Creator or Pro."
            ) from None
        raise CheckError(f"The cloud refused the request ({error}): try again later.") from None
    except CloudError as error:
        raise CheckError(f"The key could not be tested ({error}): try again later.") from None
    return "Key accepted."


def _new_key(place: str) -> str:
    use = f"set it as {place}" if place == "COMFY_CLOUD_API_KEY" else f"put it into {place}"
    return f"create one at https://platform.comfy.org and {use}"


async def _socket_opens(account: AccountAccess) -> str:
    addresses = CloudAddresses(account.base_url)
    socket = EventSocket(addresses, account.key, Observer())
    await socket.start()
    try:
        if await socket.wait_connected(TIMEOUT):
            return "Connected."
    finally:
        await socket.close()
    if socket.refused in (401, 403):
        new_key = _new_key(account.key_source)
        raise CheckError(f"The cloud refused the key ({socket.refused}): {new_key}.")
    raise CheckError(
        f"It did not open within {TIMEOUT:g} seconds: allow websockets to {account.base_url.host} "
        "in firewalls and proxies. Without it jobs run without progress and previews."
    )
