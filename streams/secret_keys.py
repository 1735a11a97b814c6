"""The keys that secrets are sealed with, as the settings have them, and as their file changes.

Part of the composition root: it reads a file and draws nonces. What sealing is stands in `schemas/sealing.py`; the
stages get `SecretKeys.open` as an argument.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from schemas.credentials import NONCE_BYTES
from schemas.sealing import Keyring, keyring_from_lines, keyring_from_texts, opened, resealed, sealed
from schemas.subscription import Subscription
from streams.settings import Settings
from streams.wiring import WorkerError

logger = logging.getLogger(__name__)

FILE_BYTES_MAX = 64 << 10
WATCH_EVERY_S = 5.0


def nonce() -> bytes:
    """Random bytes for one sealing."""
    return os.urandom(NONCE_BYTES)


class SecretKeys:
    """The keyring of now. Without keys, nothing is sealed, and nothing that is sealed opens."""

    def __init__(self, settings: Settings) -> None:
        """WorkerError when the settings name keys that cannot be read."""
        self._path = settings.secret_keys_file
        self._text = ""
        if settings.secret_keys and self._path is not None:
            raise WorkerError("the settings secret_keys and secret_keys_file are both there; keep one of them")
        try:
            if settings.secret_keys:
                self.keyring = keyring_from_texts(settings.secret_keys)
            elif self._path is not None:
                self._text = _read(self._path)
                self.keyring = keyring_from_lines(self._text)
            else:
                self.keyring = Keyring({})
        except OSError as error:
            raise WorkerError(
                f"the file of secret keys cannot be read: {error.strerror}; correct DISTRIBUTARY_SECRET_KEYS_FILE, or"
                " make a key with `distributary secret-keys new`"
            ) from None
        except ValueError as error:
            name = "file of secret keys" if self._path is not None else "setting secret_keys"
            raise WorkerError(f"the {name} is wrong: {error}; see `distributary secret-keys new`") from None

    def open(self, subscription: Subscription) -> Subscription:
        """The subscription with nothing sealed in it. UnsealableError."""
        return opened(subscription, self.keyring)

    def seal(self, subscription: Subscription) -> Subscription:
        """The subscription with its clear secrets sealed, where there is a key."""
        return sealed(subscription, self.keyring, nonce)

    def reseal(self, subscription: Subscription) -> Subscription:
        """The subscription with all secrets sealed by the primary key. UnsealableError."""
        return resealed(subscription, self.keyring, nonce)

    def reload(self) -> bool:
        """Read the file again; whether the keys are others now. What cannot be read changes nothing, and is logged."""
        if self._path is None:
            return False
        try:
            text = _read(self._path)
            if text == self._text:
                return False
            self._text = text  # also of a file that is wrong: it is complained about once
            self.keyring = keyring_from_lines(text)
        except (OSError, ValueError) as error:
            said = (error.strerror if isinstance(error, OSError) else None) or str(error)
            logger.warning("the file of secret keys cannot be read (%s); the keys of before go on", said)
            return False
        logger.info("the secret keys changed: %s seals", self.keyring.primary)
        return True

    async def watch(self, changed: Callable[[], None], every_s: float = WATCH_EVERY_S) -> None:
        """Call `changed` each time the keys are others; does not end."""
        while True:
            await asyncio.sleep(every_s)
            if await asyncio.to_thread(self.reload):
                changed()


def _read(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise ValueError(f"it is larger than {FILE_BYTES_MAX >> 10} KiB")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
