"""The credentials file, as the device's own program reads it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bletoken import records
from bletoken.errors import StorageError
from bletoken.files import LARGEST
from bletoken.mode import credentials
from bletoken.mode.credentials import Credentials, NotOnboardedError

CREDENTIALS = Credentials(2**64 - 1, "key-1", "https://mode.example")
NOBODY = 65534

as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "credentials.json"
    path.write_bytes(records.encode(CREDENTIALS.content()))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_read(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert credentials.load(path) == CREDENTIALS


def test_the_file_is_as_documented(path: Path) -> None:
    path.write_text('{"schema": 1, "device_id": 1001, "api_key": "k", "mode_url": "https://api.tinkermode.com"}')
    assert credentials.load(path) == Credentials(1001, "k", "https://api.tinkermode.com")


def test_what_a_later_version_of_the_same_schema_adds_does_no_harm(path: Path) -> None:
    path.write_bytes(records.encode({**CREDENTIALS.content(), "home_id": 5}))
    assert credentials.load(path) == CREDENTIALS


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o606, 0o620, 0o644, 0o666])
def test_a_file_that_is_open_to_others_is_refused_with_advice(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(StorageError, match="chmod 600"):
        credentials.load(path)


def test_a_link_is_not_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(StorageError):
        credentials.load(link)


def test_what_is_no_file_does_not_keep_anybody_waiting(path: Path) -> None:
    pipe = path.with_name("pipe")
    os.mkfifo(pipe, 0o600)
    for each in (pipe, path.parent):
        with pytest.raises(StorageError):
            credentials.load(each)


def test_that_there_is_none_says_that_the_device_is_not_onboarded(path: Path) -> None:
    path.unlink()
    with pytest.raises(NotOnboardedError, match="not onboarded yet") as caught:
        credentials.load(path)
    assert "Onboard it" in caught.value.advice


def test_a_file_that_is_too_large_is_refused(path: Path) -> None:
    path.write_bytes(b" " * (LARGEST + 1))
    with pytest.raises(StorageError, match="too large"):
        credentials.load(path)


def test_a_newer_schema_is_refused(path: Path) -> None:
    path.write_text(json.dumps({"schema": 2, **CREDENTIALS.content()}))
    with pytest.raises(records.NewerSchemaError):
        credentials.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"api_key": ""},
        {"api_key": "a\r\nX-Evil: 1"},
        {"api_key": None},
        {"device_id": "7"},
        {"device_id": True},
        {"device_id": -1},
        {"device_id": 2**64},
        {"mode_url": None},
    ],
)
def test_what_cannot_be_credentials_is_damaged(path: Path, change: dict[str, object]) -> None:
    path.write_bytes(records.encode({**CREDENTIALS.content(), **change}))
    with pytest.raises(StorageError, match="damaged"):
        credentials.load(path)


@pytest.mark.parametrize("octets", [b"", b"{", b"[]", b"\xff", b'{"schema": 1}', b"[" * 5000])
def test_what_is_no_record_is_damaged_and_no_error_repeats_it(path: Path, octets: bytes) -> None:
    path.write_bytes(octets)
    with pytest.raises(StorageError, match="damaged") as caught:
        credentials.load(path)
    assert caught.value.__cause__ is None


def test_no_repr_shows_the_key() -> None:
    assert "key-1" not in repr(CREDENTIALS)


def load_as_nobody(path: Path) -> str:
    program = f"""
import os, sys, pathlib
from bletoken.mode import credentials
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
try:
    print(credentials.load(pathlib.Path(sys.argv[1])).device_id)
except Exception as error:
    print(type(error).__name__, error)
"""
    return subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def handed_over() -> Iterator[Path]:
    """As systemd hands a credential to a service whose user is not root: where it can be reached, and root's."""
    # Not pytest's folder, which every run of pytest closes to others.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "bletoken"
        path.write_bytes(records.encode(CREDENTIALS.content()))
        os.chown(path, 0, NOBODY)
        path.chmod(0o440)
        yield path


@as_root
def test_a_credential_that_systemd_hands_over_is_read(handed_over: Path) -> None:
    assert load_as_nobody(handed_over) == f"{CREDENTIALS.device_id}\n"


@as_root
@pytest.mark.parametrize("mode", [0o444, 0o460, 0o644])
def test_a_file_of_roots_that_others_may_read_or_change_is_refused(handed_over: Path, mode: int) -> None:
    handed_over.chmod(mode)
    assert "open to other users" in load_as_nobody(handed_over)


@as_root
def test_a_file_of_roots_that_we_may_not_read_is_a_typed_error(handed_over: Path) -> None:
    handed_over.chmod(0o400)
    assert load_as_nobody(handed_over).startswith("StorageError cannot read")


@as_root
def test_a_file_of_another_users_is_refused(handed_over: Path) -> None:
    os.chown(handed_over, 4711, NOBODY)
    handed_over.chmod(0o440)
    assert "not a plain file of this user" in load_as_nobody(handed_over)
