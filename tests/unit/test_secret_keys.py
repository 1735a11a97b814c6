"""The secret keys of the settings: read, refused with a sentence, and followed in their file."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UnsealableError
from streams.secret_keys import FILE_BYTES_MAX, SecretKeys
from streams.settings import Settings
from streams.wiring import WorkerError
from tests.helpers import eventually_async
from tests.unit.stages import SECRET, subscription

KEY = base64.b64encode(b"hush" * 8).decode()
OTHER = base64.b64encode(b"psst" * 8).decode()


def keys(**fields: Any) -> SecretKeys:
    return SecretKeys(Settings(**fields))


def test_without_keys_nothing_changes() -> None:
    none = keys()
    assert none.seal(subscription()) == none.open(subscription()) == subscription()
    assert not none.keyring
    assert not none.reload()


def test_keys_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRIBUTARY_SECRET_KEYS", f'{{"new": "{KEY}", "old": "{OTHER}"}}')
    ring = keys()
    shut = ring.seal(subscription())
    assert shut.secrets[0].startswith("sealed:new:")
    assert ring.open(shut) == subscription()
    assert KEY not in repr(Settings())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"secret_keys": {"k1": "hush"}},
            "the setting secret_keys is wrong: the key k1 is not base64 of 32 bytes; see",
        ),
        ({"secret_keys": {"k 1": KEY}}, "the setting secret_keys is wrong: the id of a key"),
        ({"secret_keys": {"k1": KEY}, "secret_keys_file": "x"}, "are both there; keep one of them"),
        ({"secret_keys_file": "/nonexistent/keys"}, "cannot be read: No such file or directory; correct DISTRIBUTARY_"),
    ],
)
def test_settings_that_are_wrong(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(WorkerError, match=sentence) as error:
        keys(**fields)
    assert "hush" not in str(error.value)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file of secret keys is wrong: it holds no key"),
        (b"\xff", "it is not text"),
        (b"#" * (FILE_BYTES_MAX + 1), "it is larger than 64 KiB"),
        (b"k1:hush", "the key k1 is not base64"),
    ],
)
def test_files_that_are_wrong(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(WorkerError, match=sentence):
        keys(secret_keys_file=tmp_path / "keys")


def put(file: Path, text: str) -> None:
    """Whole or not at all, as whoever changes keys should do it."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def test_a_file_that_changes_is_followed_and_one_that_breaks_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    put(file, f"k1:{KEY}\n")
    ring = keys(secret_keys_file=file)
    shut = ring.seal(subscription())
    changes: list[str] = []
    watching = asyncio.create_task(ring.watch(lambda: changes.append(ring.keyring.primary), every_s=0.001))
    try:
        put(file, "hush")
        await eventually_async(lambda: caplog.records)
        assert ring.open(shut) == subscription()  # the keys of before
        put(file, f"k2:{OTHER}\nk1:{KEY}\n")
        await eventually_async(lambda: changes)
        assert ring.seal(subscription()).secrets[0].startswith("sealed:k2:")
        assert ring.open(shut).secrets == (SECRET,)
        put(file, f"k2:{OTHER}\n")
        await eventually_async(lambda: len(changes) == 2)
        with pytest.raises(UnsealableError):
            ring.open(shut)
    finally:
        watching.cancel()
    assert changes == ["k2", "k2"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the file of secret keys cannot be read (line 1 is not <id>:<base64 of 32 bytes>); the keys of before go on"
    ]
    assert "hush" not in caplog.text


async def test_a_file_that_is_gone_for_a_moment_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"k1:{KEY}\n")
    ring = keys(secret_keys_file=file)
    file.unlink()
    assert not ring.reload()
    assert "No such file or directory" in caplog.text
    assert ring.keyring.primary == "k1"
