"""The secret behind clients' credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.storage.database import StorageError
from proxy.storage.encryption import Cipher


def test_what_is_encrypted_is_decrypted_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "credentials.key"
    hidden = Cipher(path).encrypt(b"comfyui-1")
    assert b"comfyui-1" not in hidden
    assert Cipher(path).decrypt(hidden) == b"comfyui-1"
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    Cipher(tmp_path / "credentials.key")
    assert list(tmp_path.iterdir()) == []


def test_a_secret_can_be_a_setting(tmp_path: Path) -> None:
    secret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    assert Cipher(secret=secret).decrypt(Cipher(secret=secret).encrypt(b"a")) == b"a"


def test_another_secret_reads_nothing() -> None:
    assert Cipher().decrypt(Cipher().encrypt(b"a")) is None


@pytest.mark.parametrize("secret", ["short", "é"])
def test_what_is_no_secret_is_refused(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "credentials.key"
    path.write_text(secret, encoding="utf-8")
    for cipher in (Cipher(path), Cipher(secret=secret)):
        with pytest.raises(StorageError, match="32 random bytes"):
            cipher.encrypt(b"a")
