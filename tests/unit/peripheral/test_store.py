"""State files: whole or not at all, private, and never trusted."""

import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bletoken.errors import StorageError
from bletoken.mode.credentials import Credentials
from bletoken.protocol.setup_code import Label
from bletoken.protocol.wire import FailureCode, Provision
from bletoken_peripheral.claiming import ClaimRecord
from bletoken_peripheral.redemption import Event, Failure, Journal
from bletoken_peripheral.store import (
    CLAIM_FILE,
    CREDENTIALS_FILE,
    GUESSES_FILE,
    JOURNAL_FILE,
    LABEL_FILE,
    StateFolder,
)

CREDENTIALS = Credentials(2**64 - 1, "key-1", "https://mode.example")
JOURNAL = Journal.begin(Provision("token-1", 600, 1_700_000_000))
READERS: dict[str, Callable[[StateFolder], object]] = {
    LABEL_FILE: StateFolder.read_label,
    JOURNAL_FILE: StateFolder.read_journal,
    CREDENTIALS_FILE: StateFolder.read_credentials,
    CLAIM_FILE: StateFolder.read_claim,
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    made = StateFolder(tmp_path / "state")
    made.create()
    with made.lock():
        yield made


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The inodes that were synced."""
    inodes: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda fd: inodes.add(os.fstat(fd).st_ino))
    return inodes


def fill(folder: StateFolder) -> None:
    folder.write_failures(0)
    folder.write_label(Label.generate(secrets.token_bytes, with_pin=True))
    folder.write_journal(JOURNAL)
    folder.write_credentials(CREDENTIALS)
    folder.write_claim(ClaimRecord("claim-code"))


def test_what_is_written_is_read_back(folder: StateFolder) -> None:
    label = Label.generate(secrets.token_bytes, with_pin=True)
    folder.write_label(label)
    folder.write_credentials(CREDENTIALS)
    folder.write_failures(7)
    assert (folder.read_label(), folder.read_credentials(), folder.read_failures()) == (label, CREDENTIALS, 7)


@pytest.mark.parametrize(
    "journal",
    [
        JOURNAL,
        JOURNAL.after(Event.SENDING),
        replace(JOURNAL, unknown=(bytes(16), bytes(range(16)))),
        JOURNAL.after(Event.SENDING).after(Event.CREDENTIALS_STORED, device_id=2**64 - 1),
        JOURNAL.after(Event.SENDING).after(Event.REFUSED, failure=Failure(FailureCode.TOKEN_REFUSED, "NO", 5)),
    ],
    ids=lambda journal: journal.phase.value,
)
def test_each_phase_of_the_journal_is_read_back(folder: StateFolder, journal: Journal) -> None:
    folder.write_journal(journal)
    assert folder.read_journal() == journal


@pytest.mark.parametrize("record", [ClaimRecord("c"), ClaimRecord("!" * 128, is_claimed=True, was_opened=True)])
def test_a_claim_record_is_read_back(folder: StateFolder, record: ClaimRecord) -> None:
    folder.write_claim(record)
    assert folder.read_claim() == record


def test_an_empty_folder_has_nothing_and_its_pin_is_stopped(folder: StateFolder) -> None:
    assert folder.read_label() is None
    assert folder.read_journal() is None
    assert folder.read_credentials() is None
    assert folder.read_failures() is None


def test_folder_and_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        folder = StateFolder(tmp_path / "state")
        folder.create()
        with folder.lock():
            fill(folder)
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()}
    assert set(modes.values()) == {0o600}
    assert {LABEL_FILE, JOURNAL_FILE, CREDENTIALS_FILE, GUESSES_FILE} <= set(modes)


def test_the_credentials_file_is_as_documented(folder: StateFolder) -> None:
    folder.write_credentials(CREDENTIALS)
    content = json.loads((folder.path / CREDENTIALS_FILE).read_text())
    assert content == {"schema": 1, "device_id": 2**64 - 1, "api_key": "key-1", "mode_url": "https://mode.example"}


def test_a_label_is_never_overwritten(folder: StateFolder) -> None:
    folder.write_label(Label.generate(secrets.token_bytes, with_pin=True))
    with pytest.raises(StorageError, match="for life"):
        folder.write_label(Label.generate(secrets.token_bytes, with_pin=True))


def test_reset_keeps_the_label_and_the_pins_failures(folder: StateFolder) -> None:
    fill(folder)
    folder.write_failures(5)
    folder.erase_onboarding()
    assert folder.read_label() is not None
    assert (folder.read_failures(), folder.read_journal(), folder.read_credentials()) == (5, None, None)


def test_a_second_process_is_kept_out(folder: StateFolder) -> None:
    with pytest.raises(StorageError, match="in use"):
        StateFolder(folder.path).lock()


def test_what_a_cut_left_half_written_is_replaced(folder: StateFolder) -> None:
    (folder.path / f".{JOURNAL_FILE}.new").write_text('{"schema"')
    folder.write_journal(JOURNAL)
    assert folder.read_journal() == JOURNAL
    assert not (folder.path / f".{JOURNAL_FILE}.new").exists()


def test_a_write_that_fails_leaves_the_old_content(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_journal(JOURNAL)

    def no_space(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match="No space left"):
        folder.write_journal(JOURNAL.after(Event.SENDING))
    assert folder.read_journal() == JOURNAL


HOSTILE_CONTENT = {
    "empty": b"",
    "torn": b'{"schema": 1, "device_id": 5',
    "not an object": b"[1]",
    "no schema": b"{}",
    "a boolean schema": b'{"schema": true}',
    "not UTF-8": b'{"schema": 1, "api_key": "\xff"}',
    "a name twice": b'{"schema": 1, "schema": 1}',
    "NaN": b'{"schema": NaN}',
    "deep": b"[" * 60_000,
    "other types": b'{"schema": 1, "device_id": "5", "api_key": 5, "mode_url": [], "qr": 5, "pin": 5, "phase": 5, '
    b'"token_ref": 5, "token": 5, "expires_in_s": "", "companion_time": "", "failure": 5}',
    "a huge number": b'{"schema": 1, "device_id": ' + b"9" * 5000 + b"}",
    "huge": b" " * 70_000,
}


@pytest.mark.parametrize("name", list(READERS))
@pytest.mark.parametrize("content", list(HOSTILE_CONTENT.values()), ids=list(HOSTILE_CONTENT))
def test_a_damaged_file_is_a_typed_error_and_stays_as_it_is(folder: StateFolder, name: str, content: bytes) -> None:
    path = folder.path / name
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StorageError):
        READERS[name](folder)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", list(READERS))
def test_a_newer_schema_is_refused_and_not_rewritten(folder: StateFolder, name: str) -> None:
    path = folder.path / name
    path.write_text('{"schema": 2}')
    path.chmod(0o600)
    with pytest.raises(StorageError, match="newer version"):
        READERS[name](folder)
    assert path.read_text() == '{"schema": 2}'


@pytest.mark.parametrize("name", list(READERS))
def test_a_symlink_is_not_followed(folder: StateFolder, name: str, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    fill(folder)
    (folder.path / name).rename(target)
    (folder.path / name).symlink_to(target)
    with pytest.raises(StorageError):
        READERS[name](folder)


@pytest.mark.parametrize("name", list(READERS))
def test_a_fifo_does_not_hang_the_reader(folder: StateFolder, name: str) -> None:
    os.mkfifo(folder.path / name, 0o600)
    with pytest.raises(StorageError):
        READERS[name](folder)


@pytest.mark.parametrize("name", list(READERS))
def test_a_file_that_others_may_read_is_refused(folder: StateFolder, name: str) -> None:
    fill(folder)
    (folder.path / name).chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        READERS[name](folder)


def test_a_damaged_record_of_guesses_stops_the_pin(folder: StateFolder) -> None:
    (folder.path / GUESSES_FILE).write_text("{}")
    assert folder.read_failures() is None


@pytest.mark.parametrize(
    "content", [None, b"{}", b"", b'{"schema": 1, "failures": 20}', b'{"schema": 1, "failures": 21}']
)
def test_forgetting_the_failures_makes_a_good_record_of_any(folder: StateFolder, content: bytes | None) -> None:
    if content is not None:
        (folder.path / GUESSES_FILE).write_bytes(content)
    folder.forget_failures()
    assert folder.read_failures() == 0


def test_forgetting_the_failures_leaves_a_newer_record_alone(folder: StateFolder) -> None:
    folder.write_failures(20)
    (folder.path / GUESSES_FILE).write_text('{"schema": 2, "failures": 20}')
    with pytest.raises(StorageError, match="newer version"):
        folder.forget_failures()
    assert folder.read_failures() is None
    assert (folder.path / GUESSES_FILE).read_text() == '{"schema": 2, "failures": 20}'


def test_a_record_that_is_a_link_is_replaced_and_what_it_points_to_is_not(folder: StateFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (folder.path / GUESSES_FILE).symlink_to(tmp_path / "elsewhere")
    assert folder.read_failures() is None
    folder.forget_failures()
    assert folder.read_failures() == 0
    assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token", "another-token"),
        ("token", "to\nken"),
        ("token", "t\u00f6ken"),
        ("token_ref", "00" * 15),
        ("phase", "announced"),
        ("failure", {"code": "TOKEN_REFUSED", "reason": "x" * 65, "retry_after_s": 0}),
        ("failure", {"code": "TOKEN_REFUSED", "reason": "\ud800", "retry_after_s": 0}),
        ("failure", {"code": "NO_SUCH_CODE", "reason": "", "retry_after_s": 0}),
    ],
)
def test_a_journal_that_contradicts_itself_or_could_not_be_told_is_damaged(
    folder: StateFolder, name: str, value: object
) -> None:
    folder.write_journal(JOURNAL)
    path = folder.path / JOURNAL_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(StorageError, match="damaged"):
        folder.read_journal()


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX-Evil: 1", "k\u00e9y", "x" * 5000])
def test_a_key_that_fits_in_no_header_is_damaged(folder: StateFolder, key: str) -> None:
    folder.write_credentials(Credentials(1, key))
    with pytest.raises(StorageError, match="damaged"):
        folder.read_credentials()


def test_an_open_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    with pytest.raises(StorageError, match="chmod 700"):
        StateFolder(tmp_path / "state").lock()


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "real")
    with pytest.raises(StorageError, match="link"):
        StateFolder(tmp_path / "state").lock()


def test_a_file_where_the_folder_should_be_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StorageError):
        StateFolder(tmp_path / "state").create()


def test_no_error_repeats_a_secret(folder: StateFolder) -> None:
    (folder.path / CREDENTIALS_FILE).write_text('{"schema": 1, "api_key": "sesame", "device_id": "sesame"}')
    (folder.path / CREDENTIALS_FILE).chmod(0o600)
    with pytest.raises(StorageError) as caught:
        folder.read_credentials()
    assert "sesame" not in str(caught.value)
    assert "sesame" not in repr(CREDENTIALS) + repr(Credentials(1, "sesame"))


def test_each_new_folder_on_the_way_is_private_and_on_disk(tmp_path: Path, synced: set[int]) -> None:
    path = tmp_path / "var" / "bletoken" / "state"
    umask = os.umask(0)
    try:
        StateFolder(path).create()
    finally:
        os.umask(umask)
    made = [path, *path.parents[:2]]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in made] == [0o700] * 3
    assert synced == {folder.parent.stat().st_ino for folder in made}


def test_a_folder_that_is_there_is_left_alone_and_its_name_is_made_durable(tmp_path: Path, synced: set[int]) -> None:
    (tmp_path / "var").mkdir(mode=0o755)
    (tmp_path / "var" / "state").mkdir(mode=0o700)
    StateFolder(tmp_path / "var" / "state").create()
    assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o755
    # Whoever made it may have been killed before that.
    assert synced == {(tmp_path / "var").stat().st_ino}
