"""`webhook` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from process import command, serving
from receiver import receiving

from proxy.cli.tables import print_table

HOOK = "https://example.com/hook"


def test_a_webhook_is_added_listed_and_removed(run: Any) -> None:
    code, secret, errors = run("webhook", "add", HOOK)
    assert code == 0
    assert secret.startswith("whsec_")
    (shown,) = json.loads(run("webhook", "list", "--json")[1])
    assert shown["id"] in errors
    assert (shown["member"], shown["url"]) == (None, HOOK)
    assert shown["types"] == ["job.completed", "job.failed", "job.cancelled"]
    listed = run("webhook", "list")[1]
    assert HOOK in listed
    assert "enabled" in listed
    assert secret.strip() not in listed
    entries = run("audit", "--json")[1]
    assert "webhook_added" in entries
    assert secret.strip() not in entries
    assert run("webhook", "remove", shown["id"])[0] == 0
    assert json.loads(run("webhook", "list", "--json")[1]) == []


def test_a_webhook_of_a_member_has_types_of_its_own(run: Any) -> None:
    run("member", "add", "Anna")
    _, added, _ = run("webhook", "add", HOOK, "--member", "anna", "--type", "job.failed", "--json")
    made = json.loads(added)
    assert (made["member"], made["types"]) == ("Anna", ["job.failed"])
    assert made["secret"].startswith("whsec_")
    run("webhook", "remove", made["id"])
    entries = map(json.loads, run("audit", "--json", "--limit", "2")[1].splitlines())
    assert [(entry["action"], entry["name"], entry["webhook"]) for entry in entries] == [
        ("webhook_removed", "Anna", made["id"]),
        ("webhook_added", "Anna", made["id"]),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["add", "ftp://example.com/"],
        ["add", "http://10.0.0.1/hook"],
        ["add", HOOK, "--type", "job.dreamt"],
        ["add", HOOK, "--member", "nobody"],
        ["add", HOOK, "--member", "local", "--type", "account.unavailable"],
        ["remove", "wh_none"],
        ["test", "wh_none"],
        ["list"],
    ],
)
def test_a_wrong_use_is_refused_with_a_sentence(run: Any, words: list[str]) -> None:
    code, out, errors = run("webhook", *words)
    assert (code, out) == (2, "")
    assert errors.strip().endswith(".")
    assert errors.count("\n") == 1


def test_a_private_address_needs_the_setting(run: Any) -> None:
    url = "http://10.0.0.1/hook"
    assert run("webhook", "add", url, "--webhook-networks", "10.0.0.0/8")[0] == 0


async def test_a_running_proxy_sends_the_test(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path))
    async with (
        receiving() as receiver,
        serving(tmp_path, "--simulate", "--webhook-networks", "127.0.0.1"),
    ):
        code, added, errors = await command(
            *("webhook", "add", str(receiver.url / "hook"), "--json"),
            *("--webhook-networks", "127.0.0.1", *place),
        )
        assert code == 0, errors
        made = json.loads(added)
        code, out, _ = await command("webhook", "test", made["id"], *place)
        assert (code, "204" in out) == (0, True)
        (received,) = receiver.got
        received.verified(made["secret"])
        receiver.answer("/hook", 500)
        code, _, errors = await command("webhook", "test", made["id"], *place)
        assert (code, "answered 500" in errors) == (1, True)


def test_a_test_waits_though_newer_deliveries_fill_the_log(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.webhooks._TIMEOUT", 0.3)
    monkeypatch.setattr("proxy.webhooks.endpoints.MAX_LOG", 0)
    _, added, _ = run("webhook", "add", HOOK, "--json")
    code, _, errors = run("webhook", "test", json.loads(added)["id"])
    assert (code, "start one" in errors) == (1, True)


def test_a_test_without_a_proxy_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cli.webhooks._TIMEOUT", 0.3)
    _, added, _ = run("webhook", "add", HOOK, "--json")
    code, _, errors = run("webhook", "test", json.loads(added)["id"])
    assert code == 1
    assert "start one" in errors


def test_a_table_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a\x1b[2J\x07b\r\n\x9bc"], {"What": str})
    assert capsys.readouterr().out.split("\n")[1].rstrip() == "a [2J b   c"
