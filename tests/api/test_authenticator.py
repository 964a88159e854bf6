"""The door of a proxy with members: what lets a client in, and what does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from stack import TIMEOUT, Client, Listener, running_proxy
from team import Team, basic, bearer, running_team
from yarl import URL

from proxy.api.keys import MEMBERS
from proxy.members.accounting import MAX_FAILURES
from proxy.members.member import Member
from proxy.simulator import Simulator

WRONG = "ccp_" + "a" * 40


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path / "data") as running:
        yield running


Way = Callable[[URL, str], tuple[URL, dict[str, Any]]]


def _shouted(token: str) -> dict[str, str]:
    return {"AUTHORIZATION": f"BEARER {token}"}


#: Each way to send a token: the address and the arguments of a request.
WAYS: dict[str, Way] = {
    "bearer": lambda url, token: (url, {"headers": bearer(token)}),
    "bearer in capitals": lambda url, token: (url, {"headers": _shouted(token)}),
    "basic": lambda url, token: (url, {"headers": basic(token)}),
    "basic without user": lambda url, token: (url, {"headers": basic(token, "")}),
    "basic as user": lambda url, token: (url, {"headers": basic("", token)}),
    "key header": lambda url, token: (url, {"headers": {"X-API-Key": token}}),
    "query": lambda url, token: (url.update_query(token=token), {}),
    "path": lambda url, token: (url.with_path(f"/t/{token}{url.path}", keep_query=True), {}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
async def test_every_way_to_send_a_token(
    team: Team, session: aiohttp.ClientSession, way: Way
) -> None:
    for path in ("/queue", "/api/queue", "/object_info", "/"):
        url, options = way(team.url.with_path(path), team.bob)
        async with session.get(url, **options) as answer:
            assert answer.status == 200
        url, options = way(team.url.with_path(path), WRONG)
        async with session.get(url, **options) as answer:
            assert answer.status == 401


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
async def test_a_websocket_by_every_way(
    team: Team, session: aiohttp.ClientSession, way: Way
) -> None:
    url, options = way((team.url / "ws").with_query(clientId="c"), team.bob)
    async with session.ws_connect(url, **options) as socket:
        hello = await socket.receive_json(timeout=TIMEOUT)
        assert hello["data"]["sid"] == "c"
    url, options = way((team.url / "ws").with_query(clientId="c"), WRONG)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await session.ws_connect(url, **options)
    assert refusal.value.status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/queue"),
        ("POST", "/prompt"),
        ("GET", "/ws"),
        ("GET", "/nothing/here"),
        ("POST", "/nothing/here"),
        ("DELETE", "/userdata/a"),
        ("GET", "/internal/logs"),
        ("HEAD", "/view"),
        ("PUT", "/api/assets"),
    ],
)
async def test_every_route_asks_for_a_token(
    team: Team, session: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with session.request(method, team.url.with_path(path)) as answer:
        assert answer.status == 401
        challenge = answer.headers["WWW-Authenticate"]
        assert challenge.startswith('Bearer realm="comfy-cloud-proxy", Basic realm=')
        if method != "HEAD":
            error = await answer.json()
            assert error["error"]["type"] == "token_missing"
            assert error["node_errors"] == {}


async def test_a_page_is_never_made_to_ask_for_a_password(
    team: Team, session: aiohttp.ClientSession
) -> None:
    headers = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    async with session.get(team.url / "queue", headers=headers) as answer:
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="comfy-cloud-proxy"'


async def test_everybody_may_ask_whether_the_process_lives_and_no_more(
    team: Team, session: aiohttp.ClientSession
) -> None:
    client = Client(session, team.url)
    assert (await client.get("healthz"))[0] == 200
    await client.until_ready()
    assert await client.get("readyz") == (200, {"status": "ready", "engine": "active"})
    _, answer = await Client(session, team.url / "t" / team.bob).get("readyz")
    assert answer["checks"]["store"] == "ok"
    assert (await Client(session, team.url / "t" / WRONG).get("readyz"))[0] == 401


async def test_a_job_below_a_token_in_the_path(team: Team, session: aiohttp.ClientSession) -> None:
    bob = Client(session, team.url / "t" / team.bob)
    entry = await bob.run(graphs.plain())
    (image,) = next(iter(entry["outputs"].values()))["images"]
    whole = await bob.view(image)
    view = (bob.url / "view").with_query(image)
    async with session.get(view, headers={"Range": "bytes=0-3"}) as part:
        assert (part.status, await part.read()) == (206, whole[:4])
    await bob.upload("a.png", graphs.png())
    ann = Client(session, team.url / "t" / team.ann)
    assert (await ann.get("history"))[1] == {}
    async with session.get((ann.url / "view").with_query(image)) as answer:
        assert answer.status == 404


async def test_client_ids_belong_to_their_members(
    team: Team, session: aiohttp.ClientSession
) -> None:
    ann = Client(session, team.url / "t" / team.ann, client_id="same")
    bob = Client(session, team.url / "t" / team.bob, client_id="same")
    async with ann.listening() as hers, bob.listening() as his:
        hers_first = await ann.submit(graphs.plain())
        await hers.until_end(hers_first)
        his_first = await bob.submit(graphs.plain())
        await his.until_end(his_first)
        assert {data.get("prompt_id") for data in his.of("executing")} == {his_first}


async def test_a_token_in_the_query_marks_the_clouds_way(
    team: Team, session: aiohttp.ClientSession
) -> None:
    url = (team.url / "ws").with_query(clientId="c", token=team.bob)
    bob = Client(session, team.url / "t" / team.bob)
    async with session.ws_connect(url) as socket:
        listener = Listener(socket)
        status, answer = await bob.post("prompt", {"prompt": graphs.plain()})
        assert status == 200
        await listener.until("execution_success", prompt_id=answer["prompt_id"])


async def test_tokens_of_different_members_are_refused(
    team: Team, session: aiohttp.ClientSession
) -> None:
    url = (team.url / "queue").with_query(token=team.ann)
    async with session.get(url, headers=bearer(team.bob)) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "tokens_of_different_members"


async def test_the_clouds_own_key_beside_a_token_does_no_harm(
    team: Team, session: aiohttp.ClientSession
) -> None:
    url = team.url / "t" / team.bob / "queue"
    async with session.get(url, headers={"X-API-Key": "comfyui-abcdef"}) as answer:
        assert answer.status == 200


async def test_a_browser_is_led_to_the_sign_in_page(
    team: Team, session: aiohttp.ClientSession
) -> None:
    headers = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    async with session.get(team.url, headers=headers, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/proxy/sign-in")
    deep = (team.url / "view").with_query(filename="a b.png")
    async with session.get(deep, headers=headers) as answer:
        assert answer.status == 200
        assert answer.url.query["next"] == "/view?filename=a+b.png"
        assert answer.headers["Referrer-Policy"] == "same-origin"


async def test_a_disabled_member_and_a_revoked_token_are_shown_out(
    team: Team, session: aiohttp.ClientSession
) -> None:
    for end in (
        lambda: team.members.change("bob", disabled=True),
        lambda: team.members.revoke(team.ann),
    ):
        token = team.bob if team.members.access(team.bob) else team.ann
        socket = await session.ws_connect(team.url / "t" / token / "ws")
        await socket.receive(timeout=TIMEOUT)
        await end()
        closed = await socket.receive(timeout=TIMEOUT)
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        async with session.get(team.url / "t" / token / "queue") as answer:
            assert answer.status == 401


async def test_a_socket_that_does_not_say_goodbye_is_cut(
    team: Team, session: aiohttp.ClientSession
) -> None:
    async with session.ws_connect(team.url / "t" / team.bob / "ws", autoclose=False) as socket:
        await socket.receive(timeout=TIMEOUT)
        await team.members.remove("bob")
        while True:
            message = await socket.receive(timeout=TIMEOUT)
            if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                break


async def test_the_first_member_shuts_the_door_on_everybody(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        client = Client(session, proxy.url)
        async with session.ws_connect(proxy.url / "ws") as socket:
            await socket.receive(timeout=TIMEOUT)
            assert (await client.get("queue"))[0] == 200
            await proxy.services[MEMBERS].add(Member("ann"))
            closed = await socket.receive(timeout=TIMEOUT)
            assert closed.data == 1008
        assert (await client.get("queue"))[0] == 401


async def test_without_members_tokens_are_not_looked_at(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        for header in (bearer(WRONG), basic("x"), {"X-API-Key": "comfyui-1"}):
            async with session.get(
                (proxy.url / "queue").with_query(token="x"), headers=header
            ) as a:
                assert a.status == 200


async def test_wrong_tokens_are_slowed_down_and_valid_ones_not(
    team: Team, session: aiohttp.ClientSession
) -> None:
    for _ in range(MAX_FAILURES):
        async with session.get(team.url / "queue", headers=bearer(WRONG)) as answer:
            assert answer.status == 401
    async with session.get(team.url / "queue", headers=bearer(WRONG)) as answer:
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert (await answer.json())["error"]["type"] == "too_many_wrong_tokens"
    async with session.get(team.url / "queue", headers=bearer(team.bob)) as answer:
        assert answer.status == 200
    async with session.get(team.url / "queue") as answer:
        assert answer.status == 401


async def test_the_use_of_a_token_is_noted(team: Team, session: aiohttp.ClientSession) -> None:
    (token,) = team.members.tokens("bob")
    assert team.members.last_use(token) is None
    async with session.get(team.url / "queue", headers=bearer(team.bob)):
        pass
    use = team.members.last_use(token)
    assert use is not None
    assert use.address == "127.0.0.1"


async def test_what_a_cache_keeps_is_one_members(
    team: Team, session: aiohttp.ClientSession
) -> None:
    bob = Client(session, team.url / "t" / team.bob)
    await bob.upload("a.png", graphs.png())
    url = (bob.url / "view").with_query(filename="a.png", type="input")
    async with session.get(url) as answer:
        assert answer.headers.get("Cache-Control", "private").startswith("private")
        assert "Cookie" in answer.headers["Vary"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_links_keep_the_base_path(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_team(simulator, tmp_path / "data", base_path="/comfy/") as team:
        html = {"Accept": "text/html"}
        for path in ("/comfy/", "/"):
            async with session.get(
                team.url.with_path(path), headers=html, allow_redirects=False
            ) as answer:
                assert answer.headers["Location"] == "/comfy/proxy/sign-in"
        for bare in (f"/comfy/t/{team.bob}", f"/t/{team.bob}"):
            async with session.get(
                team.url.with_path(bare).with_query(a="1"), allow_redirects=False
            ) as answer:
                assert answer.status == 308
                assert answer.headers["Location"] == f"/comfy/t/{team.bob}/?a=1"
        async with session.get(team.url / "comfy" / "t" / team.bob / "queue") as answer:
            assert answer.status == 200
