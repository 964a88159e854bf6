"""The secret behind clients' credentials."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from waiting import until

from proxy.storage import encryption
from proxy.storage.database import Database, StorageError
from proxy.storage.encryption import Cipher, follow_secrets, rotate_secret, stored_secrets


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


OLD = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
NEW = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def test_with_several_secrets_the_first_makes_and_all_read() -> None:
    both, old, new = Cipher(secret=f"{NEW}\n{OLD}"), Cipher(secret=OLD), Cipher(secret=NEW)
    assert both.decrypt(old.encrypt(b"a")) == b"a"
    assert both.proves(b"a", old.sign(b"a"))
    assert new.decrypt(both.encrypt(b"a")) == b"a"
    assert (old.proves(b"a", both.sign(b"a")), new.proves(b"a", both.sign(b"a"))) == (False, True)
    assert not both.proves(b"b", both.sign(b"a"))


def test_replicas_on_both_sides_of_each_step_of_a_change_read_each_other() -> None:
    steps = (OLD, f"{OLD}\n{NEW}", f"{NEW}\n{OLD}", NEW)
    for before, after in itertools.pairwise(steps):
        for maker, reader in ((before, after), (after, before)):
            ours, theirs = Cipher(secret=maker), Cipher(secret=reader)
            assert theirs.decrypt(ours.encrypt(b"a")) == b"a"
            assert theirs.proves(b"a", ours.sign(b"a"))


async def test_replicas_find_one_secret_in_the_database(database: Database) -> None:
    found = await asyncio.gather(*(stored_secrets(database) for _ in range(5)))
    assert len(set(found)) == 1
    assert Cipher(secret=found[0]).encrypt(b"a")


async def test_a_new_secret_is_used_when_all_replicas_know_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await stored_secrets(database)
    await rotate_secret(database)
    known = (await stored_secrets(database)).split()
    assert (len(known), known[0]) == (2, first)
    monkeypatch.setattr(encryption, "_KNOWN_AFTER", 0)
    assert (await stored_secrets(database)).split() == known[::-1]


async def test_a_running_replica_hears_of_a_new_secret(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encryption, "INTERVAL", 0.01)
    monkeypatch.setattr(encryption, "_KNOWN_AFTER", 0)
    cipher = Cipher(secret=await stored_secrets(database))
    following = asyncio.create_task(follow_secrets(database, cipher))
    await rotate_secret(database)
    made = Cipher(secret=(await stored_secrets(database)).split()[0]).sign(b"a")
    await until(lambda: cipher.proves(b"a", made))
    following.cancel()
