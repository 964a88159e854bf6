"""Secrets taken out of values."""

from __future__ import annotations

from proxy.translate.redact import credentials, redact, without_credentials


def test_a_secret_is_removed_however_deep_it_is() -> None:
    value = {"a": ["x comfyui-k y", {"b": "comfyui-k"}], "c": 7}
    assert redact(value, "comfyui-k", "") == {"a": ["x [REDACTED] y", {"b": "[REDACTED]"}], "c": 7}


def test_credentials_of_partner_nodes_are_not_kept() -> None:
    assert without_credentials({"api_key_comfy_org": "k", "auth_token_comfy_org": "t", "m": 1}) == {
        "m": 1
    }


def test_a_secret_that_is_a_key_is_removed_too() -> None:
    assert redact({"comfyui-k": ["other"]}, "comfyui-k", "other") == {"[REDACTED]": ["[REDACTED]"]}


def test_the_clients_own_credentials_are_known() -> None:
    extra_data = {"api_key_comfy_org": "k", "auth_token_comfy_org": "", "client_id": "c"}
    assert credentials(extra_data) == ("k",)
