"""A token is nowhere but with who sent it: not in a log, not on the cloud, not in an answer."""

from __future__ import annotations

import io
from pathlib import Path

import aiohttp
import graphs
from quiet import logging_restored
from stack import TIMEOUT, Client
from team import basic, bearer, running_team

from proxy import logging as logs
from proxy.members.directory import Directory
from proxy.simulator import Simulator


def _reveals(text: str, token: str) -> bool:
    return token[12:] in text


async def test_a_token_leaves_no_trace(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    for form in ("console", "json"):
        stream = io.StringIO()
        with logging_restored():
            logs.configure(log_format=form, log_level="debug", stream=stream)  # type: ignore[arg-type]
            async with running_team(simulator, tmp_path / form) as team:
                answers = await _use_everywhere(session, team.url, team.bob)
                await team.members.revoke(team.bob)
                answers += await _use_everywhere(session, team.url, team.bob)
                answers += await _use_everywhere(session, team.url, team.bob[:-1] + "\n")
        assert len(answers) > 30
        assert not [answer for answer in answers if _reveals(answer, team.bob)]
        assert "token_rejected" in stream.getvalue()
        assert team.bob[:12] in stream.getvalue()
        assert not _reveals(stream.getvalue(), team.bob)
    output = "".join(map(repr, simulator.record.requests))
    assert "prompt" in output
    assert not _reveals(output, team.bob)


async def _use_everywhere(session: aiohttp.ClientSession, url, token: str) -> list[str]:
    """Send the token in every way to routes that do different things; all that came back."""
    answers: list[str] = []
    path_token = token.strip()
    ways = [
        (url, {}, bearer(path_token)),
        (url, {}, basic(token)),
        (url, {}, {"X-API-Key": path_token}),
        (url, {"token": token}, {}),
        (url / "t" / path_token, {}, {}),
        (url, {}, {"Cookie": f"comfy_proxy_session={path_token}"}),
    ]
    for base, query, headers in ways:
        for method, path in (
            ("GET", "queue"),
            ("GET", "nothing"),
            ("POST", "nothing"),
            ("GET", "api/view"),
            ("GET", "internal/logs"),
            ("POST", "prompt"),
        ):
            body = {"prompt": graphs.plain()} if path == "prompt" else None
            async with session.request(
                method,
                (base / path).with_query(query),
                headers=headers,
                json=body,
                allow_redirects=False,
            ) as answer:
                answers.append(f"{answer.headers} {await answer.text()}")
        try:
            target = (base / "ws").with_query(query)
            async with session.ws_connect(target, headers=headers) as socket:
                answers.append(str(await socket.receive(timeout=TIMEOUT)))
        except aiohttp.WSServerHandshakeError as error:
            answers.append(f"{error.headers} {error.message}")
    form = {"token": token, "next": "/"}
    async with session.post(url / "proxy/sign-in", data=form, allow_redirects=False) as answer:
        answers.append(f"{answer.headers} {await answer.text()}")
    session.cookie_jar.clear()
    return answers


async def test_what_a_client_writes_does_not_begin_a_line_of_the_log(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    forged = "2026-01-01 [info] forged"
    stream = io.StringIO()
    with logging_restored():
        logs.configure(log_format="console", log_level="debug", stream=stream)
        async with running_team(simulator, tmp_path / "data") as team:
            client = Client(session, team.url / "t" / team.bob)
            await client.get(f"x\r\n{forged}")
            await client.get("view", filename=f"\n{forged}\u2028{forged}")
            await Client(session, team.url).get("queue", token=f"ccp_\r\n{forged}")
            async with session.get(team.url / "queue", headers=basic(f"\n{forged}")):
                pass
            async with client.listening(client_id=f"\n{forged}"):
                pass
    assert forged in stream.getvalue()
    assert not [line for line in stream.getvalue().splitlines() if line.startswith(forged)]


async def test_the_check_looks_alike_for_a_known_and_an_unknown_id(tmp_path: Path) -> None:
    """By design and not by the clock: both hash the token and compare in constant time."""
    import hmac
    from unittest.mock import patch

    from proxy.members.member import Member

    directory = Directory()
    await directory.add(Member("ann"))
    text, _ = await directory.new_token("ann")
    wrong_secret = text[:12] + "a" * 32
    wrong_id = "ccp_" + "a" * 40
    for sent in (text, wrong_secret, wrong_id, "nothing like it"):
        with patch.object(hmac, "compare_digest", wraps=hmac.compare_digest) as compare:
            directory.access(sent)
        assert compare.call_count == 1
        assert [len(value) for value in compare.call_args.args] == [64, 64]
