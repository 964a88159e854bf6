"""`member` and `token` on the command line."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from backend import environment_of, open_database
from process import TIMEOUT, command, serving
from quiet import logging_restored
from team import bearer
from terminal import at_terminal

from proxy.cli import main
from proxy.cli.serve import refuse_open_access
from proxy.members.marker import MARKER
from proxy.settings import ConfigError, Settings, load
from proxy.storage.sqlite import FILE
from proxy.storage.usage import UsageRepository


def test_the_life_of_a_member(run: Any) -> None:
    code, output, _ = run("member", "add", "Ann", "--role", "admin", "--max-queued", "5")
    assert (code, output.split(".")[0]) == (0, "Ann was added (admin)")
    assert run("member", "set", "ann", "--max-queued", "none", "--deny-class", "A")[0] == 0
    (ann,) = json.loads(run("member", "list", "--json")[1])
    assert (ann["name"], ann["role"]) == ("Ann", "admin")
    assert ann["limits"]["max_queued"] is None
    assert ann["limits"]["denied_classes"] == ["A"]
    assert run("member", "disable", "Ann")[0] == 0
    assert "disabled" in run("member", "list")[1]
    assert run("member", "enable", "Ann")[0] == 0
    code, output, _ = run("member", "remove", "Ann")
    assert code == 0
    assert "This was the last member" in output
    assert run("member", "add", "Ann")[0] == 2
    assert run("member", "add", "Ann", "--restore")[0] == 0


@pytest.mark.parametrize(
    ("budget", "jobs"), [("485", "1 job "), ("500", "2 jobs "), ("1943", "4 jobs "), ("1944", None)]
)
def test_a_hard_budget_says_how_many_jobs_it_lets_run_at_once(
    run: Any, budget: str, jobs: str | None
) -> None:
    assert "at once" not in run("member", "add", "ann")[1]
    output = run("member", "set", "ann", "--credits-per-day", budget)[1]
    assert ("at once" in output) == (jobs is not None)
    if jobs:
        assert "486 credits where the plan lets a run take 30 minutes" in " ".join(output.split())
        assert f"at most {jobs}" in " ".join(output.split())
    assert "at once" not in run("member", "set", "ann", "--soft-credits-per-day", "1")[1]


def test_budgets_are_set_and_removed_in_credits(run: Any) -> None:
    budgets = "--credits-per-day 12.5 --soft-credits-per-month 800"
    assert run("member", "add", "ann", *budgets.split())[0] == 0
    (ann,) = json.loads(run("member", "list", "--json")[1])
    assert ann["limits"]["credits_per_day"] == 12.5
    assert ann["limits"]["soft_credits_per_month"] == 800
    assert "credits_per_day 12.5" in run("member", "list")[1]
    assert run("member", "set", "ann", "--credits-per-day", "none")[0] == 0
    (ann,) = json.loads(run("member", "list", "--json")[1])
    assert ann["limits"]["credits_per_day"] is None
    code, _, complaint = run("member", "set", "ann", "--credits-per-month=-1")
    assert code == 2
    assert "--credits-per-month is '-1'" in complaint


def test_the_list_has_everything_that_is_limited(run: Any) -> None:
    words = "--max-queued 5000 --deny-class A --deny-class B --deny-partner-nodes"
    words += " --client-parallelism many --account studio"
    assert run("member", "add", "ann", *words.split())[0] == 0
    code, output, _ = run("member", "list")
    assert code == 0
    limits = ["max_queued 5,000", "denied_classes A, B", "client_parallelism many"]
    limits.append("account studio")
    assert [word for word in [*limits, "no partner nodes"] if word not in output] == []


def test_the_next_command_names_the_same_folder(run: Any, tmp_path: Path) -> None:
    output = run("member", "add", "ann")[1]
    words = shlex.split(output.strip().partition("Next: comfy-cloud-proxy ")[2])
    assert words == ["token", "new", "ann", "--data-dir", str(tmp_path)]


def test_the_next_command_needs_no_option_for_the_folder_of_everybody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for given in ([], ["--simulate"]):
        with pytest.raises(SystemExit):
            main(["member", "add", "ann", *given])
        ending = " ".join(["token new ann", *given])
        assert capsys.readouterr().out.endswith(f"Next: comfy-cloud-proxy {ending}\n")


@pytest.mark.parametrize(
    "words",
    [
        ("member", "list"),
        ("member", "set", "ann", "--role", "admin"),
        ("member", "disable", "ann"),
        ("member", "remove", "ann"),
        ("token", "new", "ann"),
        ("token", "list"),
        ("token", "revoke", "ccp_abcd"),
    ],
)
def test_a_mistyped_folder_is_an_error_and_not_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder = tmp_path / "tpyo"
    with pytest.raises(SystemExit) as end:
        main([*words, "--data-dir", str(folder)])
    output = capsys.readouterr()
    assert (end.value.code, output.out) == (2, "")
    assert output.err.startswith(f"There is no data folder {folder}: ")
    assert not folder.exists()


def test_a_folder_without_members_is_left_as_it_is(run: Any, tmp_path: Path) -> None:
    assert run("member", "list", "--json") == (0, "[]\n", "")
    assert "The member" in run("token", "new", "ann")[2]
    assert list(tmp_path.iterdir()) == []


async def audit_entries(folder: Path) -> list[dict[str, Any]]:
    """The audit record of the folder, the newest entry first."""
    database = await open_database(folder)
    try:
        rows = await UsageRepository(database).record(limit=10)
    finally:
        await database.close()
    return [json.loads(row.entry) for row in rows]


def test_the_life_of_a_token(run: Any, tmp_path: Path) -> None:
    run("member", "add", "ann")
    code, output, hint = run("token", "new", "ann", "--expires", "90d", "--note", "laptop")
    token = output.strip()
    assert code == 0
    assert len(token) == 44
    assert "only once" in hint
    listed = run("token", "list", "ann", "--json")[1]
    assert token not in listed
    (row,) = json.loads(listed)
    assert row["expires"] - row["created"] == 90 * 86_400_000
    assert row["shown"] in run("token", "list")[1]
    assert run("token", "revoke", token[:8])[0] == 0
    assert json.loads(run("token", "list", "--json")[1]) == []
    entries = asyncio.run(audit_entries(tmp_path))[:2]
    assert [(entry["action"], entry["name"], entry["token"]) for entry in entries] == [
        ("token_revoked", "ann", row["shown"]),
        ("token_created", "ann", row["shown"]),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("member", "add", "a/b"), "“a/b” is not a valid name"),
        (("member", "add", "a", "--weight", "0"), "--weight is '0', but must be a number from"),
        (("member", "add", "a", "--identity", "b"), "--identity is 'b', but must be the issuer"),
        (("member", "set", "a", "--credits-per-day", "x"), "--credits-per-day is 'x', but must be"),
        (("member", "add", "a", "--role", "king"), "role"),
        (("member", "add", "a", "--max-queued", "many"), "--max-queued is 'many', but"),
        (("member", "set", "a"), "No option given"),
        (("member", "set", "a", "--weight", "2"), "The member “a”"),
        (("member", "remove", "a\r\nb"), "The member “a??b”"),
        (("token", "new", "a"), "The member “a”"),
        (("token", "new", "a", "--expires", "soon"), "such as 90d or 12h"),
        (("token", "revoke", "ccp_zz"), "No token begins with ccp_zz"),
        (("token", "list", "a"), "The member “a”"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence(
    run: Any, arguments: tuple[str, ...], sentence: str
) -> None:
    code, output, complaint = run(*arguments)
    assert (code, output) == (2, "")
    assert sentence in complaint
    assert complaint.count("\n") == 1


def test_members_make_other_addresses_than_loopback_safe(tmp_path: Path) -> None:
    settings = Settings(host="0.0.0.0", data_dir=tmp_path)
    refuse_open_access(settings, has_members=True)
    with pytest.raises(ConfigError, match="member add NAME"):
        refuse_open_access(settings, has_members=False)


def test_the_simulator_s_refusal_names_its_own_members(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("container", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(ConfigError) as refused:
        refuse_open_access(load({"host": "0.0.0.0", "simulate": True}))
    assert "then comfy-cloud-proxy token new NAME --simulate)" in str(refused.value)


def test_the_refusal_in_a_container_names_what_helps_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("container", "oci")
    with pytest.raises(ConfigError) as refused:
        refuse_open_access(Settings(host="0.0.0.0", data_dir=tmp_path))
    assert "--host" not in str(refused.value)
    assert "set COMFY_PROXY_INSECURE_ALLOW_ANYONE=1" in str(refused.value)
    assert "-p 127.0.0.1:8188:8188" in str(refused.value)


async def test_a_table_that_is_too_wide_becomes_cards(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    place = ("--data-dir", str(tmp_path))
    await command("member", "add", "anna", "--jobs-per-day", "100", *place)
    for columns, first in ((120, "Name"), (60, "anna"), (40, "anna")):
        with subtests.test(columns=columns):
            async with at_terminal(
                "member", "list", *place, columns=columns, environment=environment_of(tmp_path)
            ) as terminal:
                assert await terminal.ended() == 0
            text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text)
            lines = text.splitlines()
            assert lines[0].split()[0] == first
            assert max(map(len, lines)) <= columns
            assert "jobs_per_day 100" in " ".join(text.split())


def test_damaged_members_keep_the_server_from_starting(run: Any, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with logging_restored():
        code, _, complaint = run("serve", "--simulate", "--port", "0")
    assert code == 2
    assert complaint.startswith("The records cannot be opened")
    assert "is damaged" in complaint


@pytest.mark.parametrize("loss", [Path.unlink, Path.touch, lambda file: file.write_bytes(b"")])
def test_a_gateway_does_not_open_to_everybody_when_its_members_are_lost(
    run: Any, tmp_path: Path, loss: Callable[[Path], object]
) -> None:
    run("member", "add", "ann")
    for file in tmp_path.glob(f"{FILE}*"):
        file.unlink()
    (tmp_path / FILE).touch()
    loss(tmp_path / FILE)
    with logging_restored():
        code, _, complaint = run("serve", "--simulate", "--port", "0")
    assert code == 2
    assert f"restore {tmp_path / FILE}" in complaint
    assert str(tmp_path / MARKER) in complaint


def test_a_member_that_is_refused_leaves_no_mark(run: Any, tmp_path: Path) -> None:
    assert run("member", "add", "ann", "--restore")[0] == 2
    assert not (tmp_path / MARKER).exists()


async def test_the_last_member_may_be_removed_for_good(tmp_path: Path) -> None:
    for words in (("member", "add", "ann"), ("member", "remove", "ann")):
        code, _, _ = await command(*words, "--data-dir", str(tmp_path))
        assert code == 0
    async with serving(tmp_path, "--simulate") as server, aiohttp.ClientSession() as session:
        await _until(session, server.url / "queue", {}, 200)


def test_reverse_proxies_ask_for_members(run: Any) -> None:
    options = ("--trusted-proxies", "10.0.0.0/8")
    with logging_restored():
        code, _, complaint = run("serve", "--simulate", "--port", "0", *options)
    assert code == 2
    assert "there are no members" in complaint
    assert "member add NAME --role admin" in complaint


async def test_a_reverse_proxy_that_asks_itself_needs_no_members(tmp_path: Path) -> None:
    options = ("--trusted-proxies", "10.0.0.0/8", "--insecure-allow-anyone")
    async with (
        serving(tmp_path, "--simulate", *options) as server,
        aiohttp.ClientSession() as session,
    ):
        await _until(session, server.url / "queue", {}, 200)


async def test_a_running_server_hears_of_it_within_a_second(tmp_path: Path) -> None:
    async def told(*words: str) -> str:
        code, out, _ = await command(*words, "--data-dir", str(tmp_path))
        assert code == 0
        return out.strip()

    async with (
        serving(tmp_path, "--simulate") as server,
        aiohttp.ClientSession() as session,
    ):
        await told("member", "add", "ann")
        token = await told("token", "new", "ann")
        await _until(session, server.url / "queue", {}, 401)
        await _until(session, server.url / "queue", bearer(token), 200)
        async with session.ws_connect(server.url / "ws", headers=bearer(token)) as socket:
            await socket.receive(timeout=TIMEOUT)
            await told("token", "revoke", token[:12])
            closed = await socket.receive(timeout=TIMEOUT)
            assert closed.data == 1008
        await _until(session, server.url / "queue", bearer(token), 401)


async def _until(
    session: aiohttp.ClientSession, url: Any, headers: dict[str, str], status: int
) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            async with session.get(url, headers=headers) as answer:
                if answer.status == status:
                    return
            await asyncio.sleep(0.05)
