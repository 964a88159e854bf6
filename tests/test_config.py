"""Where settings come from, and what is said when they cannot be used."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from yarl import URL

from proxy.settings import SETTINGS, ConfigError, Settings, load, read_key, read_secrets, tables_of
from proxy.storage.encryption import Cipher


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.environment, raising=False)


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "config.toml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write_file


def key_of(settings: Settings) -> str | None:
    (table,) = tables_of(settings)
    return read_key(settings, table)


def complaint(**options: object) -> str:
    with pytest.raises(ConfigError) as raised:
        key_of(load(options))
    sentence = str(raised.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_defaults_are_a_local_comfyui_before_comfy_cloud() -> None:
    settings = load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8188)
    assert settings.base_url == URL("https://cloud.comfy.org")
    assert key_of(settings) is None


def test_option_beats_environment_beats_file(monkeypatch: pytest.MonkeyPatch, write) -> None:
    config = write('port = 1\nlog_level = "error"\naudit_days = 5')
    assert load({"config": config}).port == 1
    monkeypatch.setenv("COMFY_PROXY_PORT", "2")
    monkeypatch.setenv("COMFY_PROXY_LOG_LEVEL", "debug")
    settings = load({"config": config, "port": "3"})
    assert (settings.port, settings.log_level, settings.audit_days) == (3, "debug", 5)


def test_environment_names_the_file(monkeypatch: pytest.MonkeyPatch, write) -> None:
    monkeypatch.setenv("COMFY_PROXY_CONFIG", write("port = 7"))
    assert load().port == 7


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_PROXY_PORT", "")
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "")
    assert load().port == 8188
    assert key_of(load()) is None


@pytest.mark.parametrize("value", ["1", "true", "yes", "on"])
def test_a_flag_in_the_environment(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("COMFY_PROXY_INSECURE_ALLOW_ANYONE", value)
    assert load().insecure_allow_anyone is True


def test_a_flag_can_be_taken_back_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_PROXY_SIMULATE", "1")
    assert load({"simulate": False}).simulate is False


def test_origins_are_separated_by_commas_or_listed(monkeypatch: pytest.MonkeyPatch, write) -> None:
    expected = ("https://a.example", "http://localhost:3000")
    config = write('cors_origins = ["https://a.example", "http://localhost:3000/"]')
    assert load({"config": config}).cors_origins == expected
    monkeypatch.setenv("COMFY_PROXY_CORS_ORIGINS", ", ".join(expected))
    assert load().cors_origins == expected


def test_sizes_are_given_in_mebibytes() -> None:
    settings = load({"max_upload_mb": "1.5", "cache_mb": "2"})
    assert (settings.max_upload_bytes, settings.cache_bytes) == (3 << 19, 2 << 20)


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load({"data_dir": "~/proxy"}).data_dir == Path("/home/ada/proxy")


def test_simulated_records_have_their_own_folder() -> None:
    assert load({"simulate": True}).data_dir.parent == load().data_dir


# --- the key ---


def test_the_key_comes_from_a_file_without_its_line_end(
    monkeypatch: pytest.MonkeyPatch, write
) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY_FILE", write("comfyui-abc\n", "key"))
    assert key_of(load()) == "comfyui-abc"


def test_the_environment_silences_the_key_file_of_the_toml_file(
    monkeypatch: pytest.MonkeyPatch, write
) -> None:
    config = write(f'api_key_file = "{write("comfyui-old", "key")}"')
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "comfyui-new")
    assert key_of(load({"config": config})) == "comfyui-new"


def test_an_option_for_the_key_file_silences_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, write
) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "comfyui-old")
    assert key_of(load({"api_key_file": write("comfyui-new", "key")})) == "comfyui-new"


def test_two_keys_in_one_place_are_refused(monkeypatch: pytest.MonkeyPatch, write) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "comfyui-one")
    monkeypatch.setenv("COMFY_CLOUD_API_KEY_FILE", write("comfyui-two", "key"))
    assert "unset COMFY_CLOUD_API_KEY or COMFY_CLOUD_API_KEY_FILE" in complaint()


@pytest.mark.parametrize("key", ["two words", "two\nlines", "kéy", " "])
def test_what_cannot_be_a_key_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", key)
    sentence = complaint()
    assert "COMFY_CLOUD_API_KEY" in sentence
    assert key not in sentence.replace("COMFY_CLOUD_API_KEY", "") or key == " "


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    assert f"The key file {tmp_path / 'none'} cannot be read" in complaint(
        api_key_file=str(tmp_path / "none")
    )


def test_the_key_is_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "comfyui-canary")
    assert "canary" not in repr(load())


def test_there_is_no_option_for_a_secret() -> None:
    secrets = ["api_key", "database"]
    assert [setting.name for setting in SETTINGS if setting.option is None] == secrets
    assert [setting.name for setting in SETTINGS if setting.secret] == secrets


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", None),
        (
            "+/+/AwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
            "-_-_AwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        ),
    ],
)
def test_a_secret_is_one_that_can_be_used(write, given: str, used: str | None) -> None:
    secret = read_secrets(load({"secret_file": write(given)}))
    assert secret == (used or given)
    cipher = Cipher(secret=secret)
    assert cipher.decrypt(cipher.encrypt(b"lent")) == b"lent"


def test_the_first_secret_is_used_and_the_others_are_accepted(write) -> None:
    first, second = (base64.b64encode(bytes([number] * 32)).decode() for number in (1, 2))
    old = Cipher(secret=second).encrypt(b"lent")
    cipher = Cipher(secret=read_secrets(load({"secret_file": write(f"{first}\n{second}\n")})))
    assert cipher.decrypt(old) == b"lent"
    assert Cipher(secret=first).decrypt(cipher.encrypt(b"lent")) == b"lent"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("short", "must have 32 bytes"), ("AAEC", "must have 32 bytes"), (" \n", "is empty")],
)
def test_what_cannot_be_a_secret_is_refused_without_being_shown(
    write, given: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as messages:
        read_secrets(load({"secret_file": write(given, "file")}))
    assert given not in str(messages.value)


@pytest.mark.parametrize(
    ("given", "size"),
    [("12", 12), (" 12 ", 12), ("1_000", 1000), ("12.0", 12)],
)
def test_a_whole_number_is_read_exactly(given: str, size: int) -> None:
    assert load({"audit_days": given}).audit_days == size


@pytest.mark.parametrize("given", ["1.5", "1e300", "nan", "\u0663", "", "-1"])
def test_what_is_no_whole_number_is_refused(given: str) -> None:
    assert complaint(audit_days=given).startswith(f"--audit-days is {given!r}, but must be")


# --- what cannot be used ---


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"port": "abc"}, "--port is 'abc', but must be a whole number from 0 to 65535."),
        ({"port": "65536"}, "--port is '65536', but must be a whole number from 0 to 65535."),
        ({"log_format": "xml"}, "--log-format is 'xml', but must be console or json."),
        ({"host": ""}, "--host is '', but must be IP addresses or host names of this machine."),
        ({"cache_mb": "inf"}, "--cache-mb is 'inf', but must be a number from 0."),
        ({"cache_mb": "1e300"}, "--cache-mb is '1e300', but must be a number from 0."),
        (
            {"base_url": "cloud.comfy.org"},
            "--base-url is 'cloud.comfy.org', but must be an address such as "
            "https://cloud.comfy.org, without user, query or fragment.",
        ),
        (
            {"cors_origins": "app.example"},
            "--cors-origins is 'app.example', but must be a list of origins such as "
            "https://app.example.",
        ),
    ],
)
def test_a_bad_option_is_named_with_what_it_must_be(options: dict, sentence: str) -> None:
    assert complaint(**options) == sentence


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_PROXY_LOG_LEVEL", "loud")
    assert complaint().startswith("COMFY_PROXY_LOG_LEVEL is 'loud', but must be one of debug")


def test_a_bad_value_in_the_file_is_named_with_the_file(write) -> None:
    config = write("port = -1")
    assert complaint(config=config).startswith(f"`port` in {config} is -1, but must be")


@pytest.mark.parametrize("line", ["prot = 1", 'config = "x"', "[port]\nx = 1", "[serve]\nport = 1"])
def test_an_unknown_setting_in_the_file_is_refused(write, line: str) -> None:
    complaint(config=write(line))


def test_the_setting_that_was_meant_is_suggested(monkeypatch: pytest.MonkeyPatch, write) -> None:
    assert complaint(config=write("prot = 1")).endswith("remove it, or write port.")
    monkeypatch.setenv("COMFY_PROXY_PROT", "1")
    assert complaint() == (
        "The environment variable COMFY_PROXY_PROT is not a setting: "
        "remove it, or write COMFY_PROXY_PORT."
    )


def test_a_misspelt_variable_of_the_cloud_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_CLOUD_APIKEY", "comfyui-012345")
    assert complaint() == (
        "The environment variable COMFY_CLOUD_APIKEY is not a setting: "
        "remove it, or write COMFY_CLOUD_API_KEY."
    )


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.toml'} cannot be read" in complaint(
        config=str(tmp_path / "none.toml")
    )


def test_a_settings_file_that_is_not_toml_is_named(write) -> None:
    assert "is not TOML" in complaint(config=write("port: 1"))


POSTGRESQL = "postgresql://comfy:canary@db.internal/comfy"


def test_the_addresses_of_replicas_come_from_the_environment_or_from_files(
    monkeypatch: pytest.MonkeyPatch, write
) -> None:
    monkeypatch.setenv("COMFY_PROXY_DATABASE", "file:" + write(POSTGRESQL + "\n", "database"))
    settings = load()
    assert settings.database is not None
    assert settings.database.get_secret_value() == POSTGRESQL
    assert "canary" not in repr(settings)


def test_a_missing_file_of_an_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_PROXY_DATABASE", "file:/none/at/all")
    assert "The file /none/at/all with an address cannot be read" in complaint()


def test_one_process_needs_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().database is None
    monkeypatch.setenv("COMFY_PROXY_DATABASE", "sqlite")
    assert load().database is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE", "mysql://u:canary@db/x"),
        ("BLOBS", "gs://bucket/x"),
        ("BLOBS", "s3:///x"),
    ],
)
def test_what_leads_to_no_store_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"COMFY_PROXY_{variable}", value)
    sentence = complaint()
    assert variable in sentence.upper()
    assert "canary" not in sentence


@pytest.mark.parametrize(
    ("given", "used"),
    [("s3://uploads/team/", "s3://uploads/team"), ("/srv/uploads", "/srv/uploads")],
)
def test_blobs_are_in_a_bucket_or_a_folder(given: str, used: str) -> None:
    assert load({"blobs": given}).blobs == used
