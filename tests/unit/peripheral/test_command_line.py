"""Every command of the device: what it does, what it refuses, and the exit code it ends with."""

import io
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bletoken.errors import IdentifyError
from bletoken.mode.credentials import Credentials
from bletoken.protocol.guesses import STOP_AT
from bletoken.protocol.setup_code import Label
from bletoken.protocol.wire import FailureCode, Provision
from bletoken_peripheral import cli, control, store
from bletoken_peripheral.claiming import ClaimRecord
from bletoken_peripheral.redemption import Event, Failure, Journal
from bletoken_peripheral.store import StateFolder


class Shell:
    """Runs commands with one configuration and keeps the last JSON object."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = path / "peripheral.toml"
        self.config.write_text('device_class = "lamp"\nstate = "state"\nradio = "air:unix:/nowhere"\n')
        self.folder = StateFolder(path / "state")
        self._capsys = capsys
        self.said: dict[str, Any] = {}
        self.text = ""

    def __call__(self, *words: str, as_json: bool = True) -> int:
        code = cli.main([*words, *(["--json"] if as_json else []), "--config", str(self.config)])
        self.text = self._capsys.readouterr().out
        if as_json:
            self.said = json.loads(self.text.splitlines()[-1])
        return code

    def init(self) -> None:
        assert self("init") == 0


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def removed_journal() -> Journal:
    sent = Journal.begin(Provision("token-1")).after(Event.SENDING)
    stored = sent.after(Event.CREDENTIALS_STORED, device_id=7)
    return stored.after(Event.KEY_REFUSED, failure=Failure(FailureCode.CREDENTIALS_REFUSED))


# init ---------------------------------------------------------------------------------------------------------------


def code_file(tmp_path: Path, label: Label, mode: int = 0o600) -> Path:
    path = tmp_path / "code.json"
    path.write_bytes(store.code_file(label))
    path.chmod(mode)
    return path


def test_init_makes_a_setup_code_once(shell: Shell) -> None:
    assert (shell("init"), shell.said["made"]) == (0, True)
    label = shell.folder.read_label()
    assert (shell("init"), shell.said["made"]) == (0, False)
    assert shell.folder.read_label() == label


def test_init_takes_a_prepared_code_and_never_another_one(shell: Shell, tmp_path: Path) -> None:
    label = Label.generate(secrets.token_bytes, with_pin=True)
    path = code_file(tmp_path, label)
    assert (shell("init", "--code-file", str(path)), shell.said["made"]) == (0, True)
    assert shell.folder.read_label() == label
    assert shell.folder.read_failures() == 0
    assert (shell("init", "--code-file", str(path)), shell.said["made"]) == (0, False)
    path.unlink()
    code_file(tmp_path, Label.generate(secrets.token_bytes, with_pin=True))
    assert shell("init", "--code-file", str(path)) == 15
    assert shell.folder.read_label() == label


def test_init_takes_a_prepared_code_from_standard_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    label = Label.generate(secrets.token_bytes, with_pin=False)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(store.code_file(label))))
    assert shell("init", "--code-file", "-") == 0
    assert shell.folder.read_label() == label


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o666])
def test_init_refuses_a_prepared_code_that_others_can_read(shell: Shell, tmp_path: Path, mode: int) -> None:
    path = code_file(tmp_path, Label.generate(secrets.token_bytes, with_pin=True), mode)
    assert shell("init", "--code-file", str(path)) == 15
    assert "chmod 600" in shell.said["message"]
    assert not shell.folder.path.exists()


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"{}",
        b'{"schema": 2}',
        b'{"schema": 1, "qr": "BLETOKEN1:AAAA", "pin": null}',
        b'{"schema": 1, "qr": "123456782", "pin": null}',
        b" " * 70_000,
    ],
)
def test_init_refuses_what_is_no_prepared_code(shell: Shell, tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "code.json"
    path.write_bytes(octets)
    path.chmod(0o600)
    assert shell("init", "--code-file", str(path)) == 15
    assert "BLETOKEN1" not in shell.text
    assert not shell.folder.path.exists()


def test_a_secret_on_the_command_line_is_refused(shell: Shell) -> None:
    text = Label.generate(secrets.token_bytes, with_pin=False).qr.text
    assert shell("init", "--code-file", text) == 2
    assert text not in shell.text


def test_no_pin_and_a_prepared_code_exclude_each_other(shell: Shell) -> None:
    with pytest.raises(SystemExit, match="2"):
        shell("init", "--no-pin", "--code-file", "-")


# label --------------------------------------------------------------------------------------------------------------


def test_a_batch_needs_no_state_and_each_device_takes_its_own_code(shell: Shell, tmp_path: Path) -> None:
    assert shell("label", "--batch", "2", "--out", str(tmp_path / "batch")) == 0
    assert shell.said["devices"] == 2
    assert not shell.folder.path.exists()
    assert shell("init", "--code-file", str(tmp_path / "batch" / "0002.json")) == 0
    assert shell("label") == 0
    assert shell.said["qr"] in (tmp_path / "batch" / "codes.csv").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("--batch", "2"),
        ("--out", "somewhere"),
        ("--no-pin",),
        ("--first-serial", "5"),
        ("--batch", "0", "--out", "somewhere"),
        ("--batch", "2", "--out", "somewhere", "--png", "x.png"),
    ],
)
def test_label_refuses_what_does_not_go_together(shell: Shell, words: tuple[str, ...]) -> None:
    assert shell("label", *words) == 2
    assert not Path("somewhere").exists()


# status, unlock, open, identify -------------------------------------------------------------------------------------


# init of a pre-provisioned device -------------------------------------------------------------------------------------


def maker_files(path: Path, *, api_key: str = "sesame-key", claim_code: str = "claim-code-of-7") -> tuple[str, ...]:
    (path / "key").write_text(api_key + "\n")
    (path / "claim").write_text(claim_code + "\n")
    return "--device-id", "7", "--api-key-file", str(path / "key"), "--claim-code-file", str(path / "claim")


def run_of(shell: Shell, *words: str) -> int:
    """The exit code, also where argparse ends the program."""
    try:
        return shell(*words)
    except SystemExit as end:
        return int(end.code or 0)


def test_init_takes_what_the_maker_got_from_mode_and_can_be_repeated(shell: Shell, tmp_path: Path) -> None:
    given = maker_files(tmp_path)
    assert (shell("init", *given), shell.said["pre_provisioned"]) == (0, True)
    assert shell.folder.read_credentials() == Credentials(7, "sesame-key", "https://api.tinkermode.com")
    assert shell.folder.read_claim() == ClaimRecord("claim-code-of-7")
    assert (shell("init", *given), shell.said["made"]) == (0, False)
    assert (shell("status"), shell.said["state"], shell.said["device_id"]) == (0, "pre-provisioned", 7)
    assert "sesame" not in shell.text
    assert "claim-code-of-7" not in shell.text
    assert shell("run") == 9


def test_an_init_that_was_cut_short_is_told_and_can_be_finished(shell: Shell, tmp_path: Path) -> None:
    shell.init()
    shell.folder.write_claim(ClaimRecord("half"))
    assert shell("run") == 15
    assert "run it again" in shell.said["message"]
    assert (shell("status"), shell.said["next"]) == (0, "init was not finished; run it again")
    assert shell("init", *maker_files(tmp_path)) == 0
    assert shell.folder.read_claim() == ClaimRecord("claim-code-of-7")
    assert shell("run") == 9


@pytest.mark.parametrize("left_out", ["--device-id", "--api-key-file", "--claim-code-file"])
def test_id_key_and_claim_code_go_together(shell: Shell, tmp_path: Path, left_out: str) -> None:
    given = list(maker_files(tmp_path))
    at = given.index(left_out)
    assert shell("init", *given[:at], *given[at + 2 :]) == 2
    assert not shell.folder.path.exists()


@pytest.mark.parametrize("device_id", ["0", "-1", "18446744073709551616", "seven"])
def test_a_device_id_is_a_number_of_64_bits(shell: Shell, tmp_path: Path, device_id: str) -> None:
    given = [f"--device-id={device_id}", *maker_files(tmp_path)[2:]]
    assert run_of(shell, "init", *given) == 2
    assert not shell.folder.path.exists()


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two words", b"\xff\xfe", "schlüssel".encode(), b"x" * 5000, b"x" * 2000]
)
@pytest.mark.parametrize("name", ["key", "claim"])
def test_what_is_no_key_or_claim_code_is_refused_and_not_repeated(
    shell: Shell, tmp_path: Path, name: str, content: bytes
) -> None:
    given = maker_files(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert shell("init", *given) == 2
    assert "words" not in shell.text
    assert "xxx" not in shell.text
    assert not shell.folder.path.exists()


def test_only_one_thing_comes_from_standard_input(shell: Shell) -> None:
    assert shell("init", "--device-id", "7", "--api-key-file", "-", "--claim-code-file", "-") == 2


@pytest.mark.parametrize("other", [{"api_key": "other"}, {"claim_code": "other"}], ids=lambda other: next(iter(other)))
def test_init_gives_no_device_another_id_or_key(shell: Shell, tmp_path: Path, other: dict[str, str]) -> None:
    assert shell("init", *maker_files(tmp_path)) == 0
    before = (shell.folder.read_credentials(), shell.folder.read_claim())
    assert shell("init", *maker_files(tmp_path, **other)) == 15
    assert "reset --erase-key" in shell.said["message"]
    assert (shell.folder.read_credentials(), shell.folder.read_claim()) == before


def test_init_does_not_turn_a_device_that_got_its_key_by_token_into_a_pre_provisioned_one(
    shell: Shell, tmp_path: Path
) -> None:
    shell.init()
    shell.folder.write_credentials(Credentials(7, "sesame-key"))
    assert shell("init", *maker_files(tmp_path)) == 15
    shell.folder.erase_credentials()
    shell.folder.write_journal(Journal.begin(Provision("token-1")))
    assert shell("init", *maker_files(tmp_path)) == 15
    assert shell.folder.read_claim() is None


def test_a_claim_record_beside_a_tokens_journal_is_a_typed_error(shell: Shell, tmp_path: Path) -> None:
    assert shell("init", *maker_files(tmp_path)) == 0
    shell.folder.write_journal(Journal.begin(Provision("token-1")))
    assert shell("run") == 15
    assert "reset --erase-key" in shell.said["message"]
    assert shell("reset", "--yes", "--erase-key") == 0
    assert shell("run") == 9


def test_reset_keeps_what_is_from_the_maker_unless_told_otherwise(shell: Shell, tmp_path: Path) -> None:
    assert shell("init", *maker_files(tmp_path)) == 0
    shell.folder.write_claim(ClaimRecord("claim-code-of-7", is_claimed=True, was_opened=True))
    assert (shell("status"), shell.said["state"]) == (0, "provisioned")
    assert shell("reset", "--yes") == 0
    assert shell.folder.read_claim() == ClaimRecord("claim-code-of-7")
    assert shell.folder.read_credentials() is not None
    assert shell("reset", "--yes", "--erase-key") == 0
    assert (shell.folder.read_claim(), shell.folder.read_credentials()) == (None, None)
    assert (shell("status"), shell.said["state"]) == (0, "ready")


@pytest.mark.parametrize("name", ["claim.json", "credentials.json"])
def test_a_reset_of_damaged_files_says_what_helps_and_erase_key_does(shell: Shell, tmp_path: Path, name: str) -> None:
    assert shell("init", *maker_files(tmp_path)) == 0
    (shell.folder.path / name).write_text("{")
    assert shell("reset", "--yes") == 15
    assert "--erase-key" in shell.said["message"]
    assert shell("reset", "--yes", "--erase-key") == 0
    assert shell("init", *maker_files(tmp_path)) == 0
    assert shell.folder.read_credentials() is not None


def test_status_tells_of_a_pre_provisioned_device_that_mode_does_not_know(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("init", *maker_files(tmp_path)) == 0
    monkeypatch.setattr(control, "ask", lambda *_: {"key_refused": True, "window_s": 5})
    assert (shell("status"), shell.said["removed"]) == (0, True)
    assert "reset --erase-key" in shell.said["next"]


@pytest.mark.parametrize(
    "words", [("claim",), ("claim", "--off"), ("claim", "--wait")], ids=lambda words: " ".join(words)
)
def test_claim_is_for_pre_provisioned_devices(shell: Shell, words: tuple[str, ...]) -> None:
    shell.init()
    assert shell(*words) == 2
    assert "not pre-provisioned" in shell.said["message"]


@pytest.mark.parametrize(
    "words", [("--duration-s", "59"), ("--duration-s", "901"), ("--off", "--wait")], ids=lambda words: " ".join(words)
)
def test_claim_refuses_what_cannot_be(shell: Shell, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert shell("init", *maker_files(tmp_path)) == 0
    assert shell("claim", *words) == 2


def test_a_key_of_one_mode_is_not_sent_to_another(shell: Shell, tmp_path: Path) -> None:
    assert shell("init", *maker_files(tmp_path)) == 0
    shell.config.write_text(shell.config.read_text() + 'mode_url = "https://mode.example"\n')
    assert shell("claim") == 2
    assert shell("run") == 2
    assert shell("init", *maker_files(tmp_path)) == 15
    assert "mode_url" in shell.said["message"]


def test_status_says_what_to_do_first(shell: Shell) -> None:
    shell.folder.create()
    assert shell("status") == 0
    assert (shell.said["setup_code"], shell.said["next"]) == (False, "run: bletoken-peripheral init")


@pytest.mark.parametrize(
    ("failures", "state"), [(0, "ready"), (2, "ready"), (3, "delayed"), (19, "delayed"), (STOP_AT, "stopped")]
)
def test_status_tells_the_pins_state(shell: Shell, failures: int, state: str) -> None:
    shell.init()
    shell.folder.write_failures(failures)
    assert shell("status") == 0
    assert (shell.said["pin_state"], shell.said["pin_failures"]) == (state, failures)


def test_status_tells_of_a_pin_without_a_record_and_of_no_pin_at_all(shell: Shell) -> None:
    assert shell("init", "--no-pin") == 0
    assert shell("status") == 0
    assert (shell.said["pin"], shell.said["pin_state"]) == (False, "none")
    (shell.folder.path / "setup-code.json").unlink()
    shell.init()
    (shell.folder.path / "guesses.json").unlink()
    assert shell("status") == 0
    assert (shell.said["pin_state"], shell.said["pin_failures"]) == ("damaged", None)
    assert "bletoken-peripheral unlock" in shell.said["next"]


def test_status_tells_a_removed_device_and_people_read_it_too(shell: Shell) -> None:
    shell.init()
    shell.folder.write_credentials(Credentials(7, "sesame"))
    shell.folder.write_journal(removed_journal())
    assert shell("status") == 0
    assert (shell.said["removed"], shell.said["failure"]["code"]) == (True, "CREDENTIALS_REFUSED")
    assert shell("status", as_json=False) == 0
    assert "state       removed in MODE" in shell.text
    assert "next        removed in MODE; run: bletoken-peripheral reset" in shell.text
    assert "sesame" not in shell.text


def test_a_hostile_reason_reaches_the_screen_as_bounded_printable_text(shell: Shell) -> None:
    shell.init()
    failed = Journal.begin(Provision("token-1")).after(Event.SENDING)
    reason = Failure(FailureCode.TOKEN_REFUSED, "\x1b[2J\n" + "x" * 40)
    shell.folder.write_journal(failed.after(Event.REFUSED, failure=reason))
    for as_json in (False, True):
        assert shell("status", as_json=as_json) == 0
        assert "\x1b" not in shell.text
        assert "\\u001b" not in shell.text


def test_unlock_sets_the_failures_back_and_tells_what_is_missing(shell: Shell) -> None:
    shell.folder.create()
    assert shell("unlock") == 2
    shell.init()
    shell.folder.write_failures(STOP_AT)
    assert shell("unlock") == 0
    assert shell.folder.read_failures() == 0


def test_unlock_does_not_touch_a_folder_that_another_process_holds(shell: Shell) -> None:
    shell.init()
    shell.folder.write_failures(STOP_AT)
    with shell.folder.lock():
        assert shell("unlock") == 15
    assert shell.folder.read_failures() == STOP_AT


def test_open_without_a_running_device_has_an_exit_code_of_its_own(shell: Shell) -> None:
    shell.init()
    assert shell("open") == 24
    assert shell.said["error"] == "NotRunning"


def test_identify_tries_the_command(shell: Shell, tmp_path: Path) -> None:
    assert shell("identify") == 2
    config = shell.config.read_text()
    shell.config.write_text(config + f'identify_command = ["touch", {json.dumps(str(tmp_path / "shown"))}]')
    assert shell("identify") == 0
    assert (tmp_path / "shown").exists()
    shell.config.write_text(config + 'identify_command = ["false"]')
    assert shell("identify") == IdentifyError.exit_code == 25


# Hostile files ------------------------------------------------------------------------------------------------------


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


HOSTILITIES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "garbage": lambda path: path.write_bytes(secrets.token_bytes(100)),
    "other types": lambda path: path.write_text('{"schema": 1, "qr": [], "pin": 5, "phase": {}, "device_id": "7"}'),
    "huge": lambda path: path.write_bytes(b" " * 70_000),
    "a newer schema": lambda path: path.write_text('{"schema": 2}'),
    "open to others": lambda path: path.chmod(0o644),
    "a link": _link,
    "a folder": _instead(Path.mkdir),
    "a pipe": _instead(os.mkfifo),
}


@pytest.mark.parametrize("words", [("run",), ("status",)], ids=lambda words: words[0])
@pytest.mark.parametrize("name", ["setup-code.json", "journal.json", "credentials.json", "claim.json"])
@pytest.mark.parametrize("hostility", list(HOSTILITIES.values()), ids=list(HOSTILITIES))
def test_a_hostile_state_file_is_a_typed_error(
    shell: Shell, hostility: Callable[[Path], object], name: str, words: tuple[str, ...]
) -> None:
    shell.init()
    shell.folder.write_credentials(Credentials(7, "sesame"))
    shell.folder.write_journal(removed_journal())
    shell.folder.write_claim(ClaimRecord("sesame-too"))
    hostility(shell.folder.path / name)
    assert shell(*words) == 15
    assert name in shell.said["message"]
    assert "sesame" not in shell.text


@pytest.mark.parametrize("hostility", list(HOSTILITIES.values()), ids=list(HOSTILITIES))
def test_a_hostile_record_of_guesses_stops_the_pin_and_nothing_else(
    shell: Shell, hostility: Callable[[Path], object]
) -> None:
    shell.init()
    hostility(shell.folder.path / "guesses.json")
    assert shell("status") == 0
    assert shell.said["pin_state"] == "damaged"
    # There is no radio, and that is as far as it came.
    assert shell("run") == 9


@pytest.mark.parametrize(
    "hostility", [lambda path: path.chmod(0o750), _link, lambda path: path.rename(path.with_name("away"))]
)
@pytest.mark.parametrize("words", [("run",), ("status",), ("unlock",), ("open",), ("reset", "--yes"), ("label",)])
def test_a_hostile_state_folder_is_a_typed_error(
    shell: Shell, hostility: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    shell.init()
    hostility(shell.folder.path)
    assert shell(*words) == 15


def test_a_journal_without_its_credentials_is_a_typed_error_that_a_reset_ends(shell: Shell) -> None:
    shell.init()
    shell.folder.write_journal(removed_journal())
    assert shell("run") == 15
    assert "bletoken-peripheral reset" in shell.said["message"]
    assert shell("status") == 0
    assert "bletoken-peripheral reset" in shell.said["next"]
    assert shell("reset", "--yes") == 0
    assert shell("run") == 9


@pytest.mark.parametrize(
    "config",
    ["", "device_class = 5", "device_class = ", "\0", '"\x1b[2J" = 1\ndevice_class = "x"', "device_class = []"],
)
def test_a_hostile_configuration_is_a_typed_error(shell: Shell, config: str) -> None:
    shell.config.write_text(config)
    for words in (("run",), ("status",), ("init",), ("open",)):
        assert shell(*words) == 2
        assert "\x1b" not in shell.text
