"""The arrays of tables: what they take, and what is said when they cannot be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from yarl import URL

from proxy.settings import (
    ACCOUNT_SETTINGS,
    PROVIDER_SETTINGS,
    SETTINGS,
    ConfigError,
    load,
    read_accounts,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.environment, raising=False)


def config(folder: Path, text: str) -> dict[str, str]:
    path = folder / "config.toml"
    path.write_text(text)
    return {"config": str(path)}


def table(**values: str) -> str:
    lines = "".join(f"{name} = {value}\n" for name, value in values.items())
    return f"[[accounts]]\n{lines}"


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read_accounts(load(config(folder, text)))
    sentence = str(raised.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_every_table_is_an_account(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("comfyui-from-a-file\n")
    text = 'base_url = "https://cloud.example"\n'
    text += table(name='"a"', key='"comfyui-a"', slots="3", members='["ann", "bob"]')
    text += table(name='"b"', key_file=f'"{tmp_path / "key"}"', slots="7")
    text += table(name='"c"', key='"comfyui-c"', base_url='"http://other:1/x/"')
    a, b, c = read_accounts(load(config(tmp_path, text)))
    assert (a.name, a.key, a.slots) == ("a", "comfyui-a", 3)
    assert (a.members, b.members) == (("ann", "bob"), ())
    assert (b.key, b.slots) == ("comfyui-from-a-file", 7)
    assert (a.base_url, c.base_url) == (URL("https://cloud.example/"), URL("http://other:1/x"))
    assert c.slots == 0


def test_a_key_by_itself_is_the_account_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "comfyui-single")
    (account,) = read_accounts(load())
    assert (account.name, account.key, account.slots) == ("default", "comfyui-single", 0)
    assert account.base_url == URL("https://cloud.comfy.org/")


def test_no_key_at_all_is_no_account() -> None:
    assert read_accounts(load()) == []


def test_a_key_is_in_no_text(tmp_path: Path) -> None:
    settings = load(config(tmp_path, table(name='"a"', key='"comfyui-canary"')))
    assert "canary" not in repr(settings)
    assert "canary" not in repr(read_accounts(settings))


GOOD = table(name='"a"', key='"comfyui-a"')


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("accounts = 3", "must be tables: begin each with a line [[accounts]]"),
        ('[accounts]\nname = "a"', "must be tables: begin each with a line [[accounts]]"),
        ("accounts = [1]", "must be tables: begin each with a line [[accounts]]"),
        (table(key='"x"'), "The account 1 in {path} has no name: add name = 'studio'."),
        (
            table(name='""', key='"x"'),
            "`name` of the account 1 in {path} is '', but must be a name",
        ),
        (table(name='"a b"', key='"x"'), "is 'a b', but must be a name of at most 32 letters"),
        (table(name='"a"'), "The account a in {path} has no key: add key_file"),
        (table(name='"a"', key='"x"', key_file='"y"'), "has key and key_file: remove one of them"),
        (table(name='"a"', key='"x"', slots="-1"), "is -1, but must be a whole number from 0"),
        (table(name='"a"', key='"x"', slots="true"), "is True, but must be a whole number from 0"),
        (table(name='"a"', key='"x"', credits_per_second="-1"), "must be a number of credits from"),
        (
            table(name='"a"', key='"x"', credits_per_second="nan"),
            "must be a number of credits from",
        ),
        (table(name='"a"', key='"x"', members='"ann"'), "must be a list of names of members"),
        (table(name='"a"', key='"x"', base_url='"ftp://x"'), "must be an address such as https"),
        (table(name='"a"', key='"x"', base_url='"http://[::1]@"'), "must be an address such"),
        (table(name='"a"', key='"x"', kye_file='"x"'), "has `kye_file`, which is not a setting of"),
        (table(name='"a"', key="123"), "`key` of the account a in {path} must be one line of"),
        (table(name='"a"', key='"two words"'), "The API key in `key` of the account a is"),
        (table(name='"a"', key_file='"/none"'), "correct `key_file` of the account a or the perm"),
        (GOOD + GOOD, "The account a in {path} is not unique: give each account its"),
        (GOOD + table(name='"b"', key='"comfyui-a"'), "The accounts a and b have the same key"),
        (
            'api_key = "x"\n' + GOOD,
            "There are accounts in {path} and a separate key: unset `api",
        ),
    ],
)
def test_one_sentence_says_what_to_do(tmp_path: Path, text: str, output: str) -> None:
    sentence = complaint(tmp_path, text)
    assert output.format(path=tmp_path / "config.toml") in sentence
    assert "123" not in sentence
    assert "two words" not in sentence


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("client_id", "a text"),
        ("groups_claim", "a text"),
        ("scopes", "a list of scopes"),
        ("domains", "a list of domains such as example.com"),
        ("groups", "a list of names of groups"),
        ("admin_groups", "a list of names of groups"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_right_one(
    tmp_path: Path, key: str, expected: str
) -> None:
    values = {"name": "company", "issuer": "https://login.example.com", "client_id": "comfy"}
    lines = "".join(f"{name} = {value!r}\n" for name, value in {**values, key: 5}.items())
    with pytest.raises(ConfigError) as raised:
        load(config(tmp_path, f"[[providers]]\n{lines}"))
    assert str(raised.value) == (
        f"`{key}` of the provider company in {tmp_path / 'config.toml'} is 5, but must be "
        f"{expected}."
    )


def test_only_what_is_a_number_is_called_one() -> None:
    for row in (*SETTINGS, *ACCOUNT_SETTINGS, *PROVIDER_SETTINGS):
        hint = get_type_hints(row.model)[row.name]
        if re.search(r"\bnumber\b", row.expects):
            assert {int, float} & {hint, *get_args(hint)}, row.name


def test_a_key_of_the_environment_beside_accounts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "comfyui-single")
    assert "unset COMFY_CLOUD_API_KEY, or add" in complaint(tmp_path, GOOD)


def test_no_accounts_are_as_if_nobody_spoke_of_them(tmp_path: Path) -> None:
    assert read_accounts(load(config(tmp_path, "accounts = []"))) == []


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("http://cloud.example.com", True),
        ("http://8.8.8.8:8080", True),
        ("http://[2600::1]", True),
        ("https://cloud.example.com", False),
        ("http://127.0.0.1:8189", False),
        ("http://localhost:8189", False),
        ("http://10.0.0.7", False),
        ("http://simulator:8189", False),
        ("http://cloud.internal", False),
    ],
)
def test_a_key_is_not_sent_over_the_internet_in_the_clear(
    tmp_path: Path, url: str, refused: bool
) -> None:
    text = f'base_url = "{url}"\n' + GOOD
    if refused:
        assert "without encryption: use https://" in complaint(tmp_path, text)
    else:
        assert len(read_accounts(load(config(tmp_path, text)))) == 1
