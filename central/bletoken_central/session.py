"""The user's MODE session key: kept in the system's keyring, or in a private file where there is none."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bletoken import files
from bletoken.errors import NoKeyringError, NotSignedInError, StorageError

_SERVICE: Final = "bletoken"


class Session:
    """Where the session key of one MODE is kept.

    Args:
        mode_url: The MODE it belongs to.
        file: A private file; None for the system's keyring.
    """

    def __init__(self, mode_url: str, file: Path | None = None) -> None:
        self._mode_url = mode_url
        self._file = file

    def load(self) -> str | None:
        """The key; None when nobody signed in.

        Raises:
            NotSignedInError: The session has expired.
            StorageError: It cannot be read.
        """
        text = self._read()
        if text is None:
            return None
        try:
            content = json.loads(text)
            key, expires_at, mode_url = content["key"], content["expires_at"], content["mode_url"]
            ends = None if expires_at is None else datetime.fromisoformat(expires_at)
            if not isinstance(key, str) or mode_url != self._mode_url:
                raise ValueError("another MODE's")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise StorageError("the stored session is damaged, or belongs to another MODE; sign in again") from None
        if ends is not None and ends <= datetime.now(UTC):
            raise NotSignedInError("the MODE session has expired; run: bletoken-central login", status=401)
        return key

    def save(self, key: str, expires_at: datetime | None) -> None:
        """Keep a key.

        Raises:
            StorageError: It cannot be kept.
        """
        ends = expires_at.isoformat() if expires_at else None
        text = json.dumps({"key": key, "expires_at": ends, "mode_url": self._mode_url})
        if self._file is not None:
            files.replace(self._file, text.encode())
            return
        import keyring
        import keyring.errors

        try:
            keyring.set_password(_SERVICE, self._mode_url, text)
        except keyring.errors.KeyringError as e:
            raise NoKeyringError(f"this system has no keyring that works ({type(e).__name__})") from e

    def erase(self) -> None:
        """Forget the key."""
        if self._file is not None:
            files.erase(self._file)
            return
        import keyring
        import keyring.errors

        try:
            keyring.delete_password(_SERVICE, self._mode_url)
        except keyring.errors.PasswordDeleteError:
            return
        except keyring.errors.KeyringError as e:
            raise NoKeyringError(f"this system has no keyring that works ({type(e).__name__})") from e

    def _read(self) -> str | None:
        if self._file is not None:
            try:
                return files.read(self._file).decode("utf-8", "replace")
            except files.MissingFileError:
                return None
        import keyring
        import keyring.errors

        try:
            return keyring.get_password(_SERVICE, self._mode_url)
        except keyring.errors.KeyringError:
            # Where there is no keyring nothing was kept in one.
            return None
