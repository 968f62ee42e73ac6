"""Every file of the device's state, and the one way they are read and written. It decides nothing.

The folder belongs to one user (0700), each file too (0600); `bletoken.files` writes them whole or not at all.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from bletoken import files, records
from bletoken.errors import InUseError, StorageError
from bletoken.mode.credentials import Credentials
from bletoken.mode.keys import is_secret
from bletoken.protocol.guesses import STOP_AT
from bletoken.protocol.setup_code import Label, Pin, QrSecret, parse_setup_code
from bletoken.protocol.wire import LONGEST_CLAIM_CODE, LONGEST_REASON, TOKEN_REF_SIZE, FailureCode, token_ref
from bletoken_peripheral.redemption import MOST_UNKNOWN, Failure, Journal, Phase

if TYPE_CHECKING:
    from bletoken_peripheral.claiming import ClaimRecord

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

T = TypeVar("T")

LABEL_FILE: Final = "setup-code.json"
JOURNAL_FILE: Final = "journal.json"
CREDENTIALS_FILE: Final = "credentials.json"
CLAIM_FILE: Final = "claim.json"
GUESSES_FILE: Final = "guesses.json"
LOCK_FILE: Final = "lock"
CONTROL_SOCKET: Final = "control"
"""Where a running device takes local commands; see `control`."""

# Windows has none of these.
_LOCK_FLAGS: Final = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))


class StateFolder:
    """The state folder of one device.

    Args:
        path: The folder; `create` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None

    # The folder ------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the folder, 0700, unless it is there.

        Raises:
            StorageError: It cannot be made, or what is there is not ours alone.
        """
        files.make_folder(self.path)

    def check(self) -> None:
        """Refuse a folder that others could change or read.

        Raises:
            StorageError: It is missing, a link, somebody else's, or open to others.
        """
        try:
            files.check_folder(self.path)
        except files.MissingFileError as e:
            raise files.MissingFileError(f"there is no state folder {self.path}; run: bletoken-peripheral init") from e

    def lock(self) -> Self:
        """Hold the folder for one process at a time, as a context manager.

        Raises:
            StorageError: Another process holds it.
        """
        self.check()
        path = self.path / LOCK_FILE
        with files.translated(path, "lock"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | _LOCK_FLAGS, 0o600)
            try:
                _lock(fd)
            except (BlockingIOError, PermissionError) as e:
                os.close(fd)
                raise InUseError(f"{self.path} is in use: bletoken-peripheral is running with it already") from e
            except OSError:
                os.close(fd)
                raise
        self._lock_fd = fd
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    # The files -------------------------------------------------------------------------------------------------------

    def read_label(self) -> Label | None:
        """The device's codes; None before `init`."""
        return self._read(LABEL_FILE, _label_from)

    def write_label(self, label: Label) -> None:
        """Keep the codes. An existing label is never overwritten.

        Raises:
            StorageError: There is one already.
        """
        if os.path.lexists(self.path / LABEL_FILE):
            raise StorageError(f"{self.path / LABEL_FILE} exists already: a device keeps its setup code for life")
        self._replace(LABEL_FILE, _label_content(label))

    def read_journal(self) -> Journal | None:
        """The journal; None when no token ever came."""
        return self._read(JOURNAL_FILE, _journal_from)

    def write_journal(self, journal: Journal) -> None:
        """Make the journal durable."""
        failure = journal.failure
        self._replace(
            JOURNAL_FILE,
            {
                "phase": journal.phase.value,
                "token_ref": journal.token_ref.hex(),
                "token": journal.token,
                "expires_in_s": journal.expires_in_s,
                "companion_time": journal.companion_time,
                "unknown": [reference.hex() for reference in journal.unknown],
                "device_id": journal.device_id,
                "failure": failure
                and {"code": failure.code.name, "reason": failure.reason, "retry_after_s": failure.retry_after_s},
            },
        )

    def read_credentials(self) -> Credentials | None:
        """The credentials; None while the device has none."""
        return self._read(CREDENTIALS_FILE, Credentials.from_content)

    def write_credentials(self, credentials: Credentials) -> None:
        """Make the credentials durable."""
        self._replace(CREDENTIALS_FILE, credentials.content())

    def read_claim(self) -> "ClaimRecord | None":
        """What a pre-provisioned device keeps; None for any other."""
        return self._read(CLAIM_FILE, _claim_from)

    def has_claim(self) -> bool:
        """Whether there is something by the claim record's name, readable or not."""
        return os.path.lexists(self.path / CLAIM_FILE)

    def write_claim(self, record: "ClaimRecord") -> None:
        """Make the claim record durable."""
        self._replace(
            CLAIM_FILE,
            {"claim_code": record.claim_code, "is_claimed": record.is_claimed, "was_opened": record.was_opened},
        )

    def read_failures(self) -> int | None:
        """The PIN's failures; None when the record is missing or not to be trusted, which stops the PIN."""
        try:
            return self._read(GUESSES_FILE, _failures_from)
        except StorageError:
            return None

    def write_failures(self, failures: int) -> None:
        """Make the PIN's failures durable."""
        self._replace(GUESSES_FILE, {"failures": failures})

    def forget_failures(self) -> None:
        """Make 0 failures durable, whatever the record says; a missing or damaged one is made anew.

        Raises:
            records.NewerSchemaError: It is a newer version's.
            StorageError: It cannot be written.
        """
        try:
            self._read(GUESSES_FILE, _failures_from)
        except records.NewerSchemaError:
            raise
        except StorageError:
            # Whatever it is, it is of no use to anybody, and the person at the device asks for a new one.
            pass
        self.write_failures(0)

    def erase_onboarding(self) -> None:
        """Forget credentials, claim record and journal; the codes and the PIN's failures stay.

        The credentials go last: a cut between the two leaves a device that still says it is provisioned, and can be
        reset again, rather than one that offers to redeem while its old key lies there.
        """
        for name in (JOURNAL_FILE, CLAIM_FILE, CREDENTIALS_FILE):
            files.erase(self.path / name)

    def erase_credentials(self) -> None:
        """Forget credentials alone."""
        files.erase(self.path / CREDENTIALS_FILE)

    # How -------------------------------------------------------------------------------------------------------------

    def _read(self, name: str, parse: Callable[[Mapping[str, object]], T]) -> T | None:
        path = self.path / name
        try:
            octets = files.read(path)
        except files.MissingFileError:
            # Of a folder that is not there nothing can be said.
            self.check()
            return None
        return records.parse(str(path), octets, parse)

    def _replace(self, name: str, content: Mapping[str, object]) -> None:
        files.replace(self.path / name, records.encode(content))


def _lock(fd: int) -> None:
    """Lock an open file for this process, until it is closed.

    Raises:
        BlockingIOError: Another process has it.
        PermissionError: The same on Windows.
    """
    if sys.platform == "win32":
        # An octet that is not there can be locked as well.
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def code_file(label: Label) -> bytes:
    """A prepared code: the content of a file that `init` takes, and of the label's own file."""
    return records.encode(_label_content(label))


def parse_code_file(octets: bytes, name: str) -> Label:
    """Read a prepared code.

    Raises:
        StorageError: It is none. The message does not repeat it.
    """
    if len(octets) > files.LARGEST:
        raise StorageError(f"{name} is too large")
    return records.parse(name, octets, _label_from)


def _failures_from(content: Mapping[str, object]) -> int:
    return records.integer(content, "failures", STOP_AT + 1)


def _label_content(label: Label) -> dict[str, object]:
    return {"qr": label.qr.text, "pin": label.pin.text if label.pin else None}


def _label_from(content: Mapping[str, object]) -> Label:
    qr = parse_setup_code(records.text(content, "qr"))
    pin = None if content["pin"] is None else parse_setup_code(records.text(content, "pin"))
    if not isinstance(qr, QrSecret) or not isinstance(pin, Pin | None):
        raise TypeError("codes")
    return Label(qr, pin)


def _journal_from(content: Mapping[str, object]) -> Journal:
    failure = content["failure"]
    reference = bytes.fromhex(records.text(content, "token_ref"))
    token = None if content["token"] is None else _secret(content, "token")
    if len(reference) != TOKEN_REF_SIZE or (token is not None and token_ref(token) != reference):
        raise ValueError("token_ref")
    return Journal(
        phase=Phase(content["phase"]),
        token_ref=reference,
        token=token,
        expires_in_s=records.integer(content, "expires_in_s", 2**32),
        companion_time=records.integer(content, "companion_time", 2**64),
        unknown=_references(content.get("unknown", [])),
        device_id=None if content["device_id"] is None else records.integer(content, "device_id", 2**64),
        failure=None if failure is None else _failure_from(failure),
    )


def _references(content: object) -> tuple[bytes, ...]:
    if not isinstance(content, list) or len(content) > MOST_UNKNOWN:
        raise TypeError("unknown")
    references = tuple(bytes.fromhex(reference) for reference in content)
    if any(len(reference) != TOKEN_REF_SIZE for reference in references):
        raise ValueError("unknown")
    return references


def _failure_from(content: object) -> Failure:
    if not isinstance(content, dict):
        raise TypeError("failure")
    reason = records.text(content, "reason")
    if len(reason.encode("utf-8")) > LONGEST_REASON:
        # A companion is told it, and a longer one does not fit.
        raise ValueError("reason")
    return Failure(FailureCode[records.text(content, "code")], reason, records.integer(content, "retry_after_s", 2**32))


def _claim_from(content: Mapping[str, object]) -> "ClaimRecord":
    # Most devices are not pre-provisioned.
    from bletoken_peripheral.claiming import ClaimRecord

    claim_code = _secret(content, "claim_code")
    if len(claim_code) > LONGEST_CLAIM_CODE:
        raise ValueError("claim_code")
    return ClaimRecord(claim_code, _boolean(content, "is_claimed"), _boolean(content, "was_opened"))


def _boolean(content: Mapping[str, object], name: str) -> bool:
    value = content[name]
    if not isinstance(value, bool):
        raise TypeError(name)
    return value


def _secret(content: Mapping[str, object], name: str) -> str:
    value = records.text(content, name)
    if not is_secret(value):
        # It goes into a request's header or body.
        raise ValueError(name)
    return value
