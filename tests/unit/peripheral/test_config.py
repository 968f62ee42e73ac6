"""A configuration is right, or the error names the key."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bletoken.errors import UsageError
from bletoken_peripheral import config
from bletoken_peripheral.config import Config


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "peripheral.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path)


def test_a_device_class_is_all_that_is_needed(tmp_path: Path) -> None:
    loaded = load(tmp_path, 'device_class = "lamp"')
    assert loaded == Config(device_class="lamp")
    assert (loaded.radio, loaded.window_s, loaded.mode_url) == ("system", 900, "https://api.tinkermode.com")


def test_every_key_can_be_set(tmp_path: Path) -> None:
    text = """
        device_class = "lamp"
        state = "/var/lib/lamp"
        mode_url = "https://staging.example:8443/api"
        mode_ca = "/etc/ca.pem"
        radio = "air:unix:/tmp/air.sock?mtu=23"
        window_s = 60
        announced_window_s = 0
        event = "lamp.ready"
        retry_s = 5
        identify_command = ["/usr/bin/blink", "--led", "2"]
    """
    loaded = load(tmp_path, text)
    assert (loaded.state, loaded.mode_ca) == (Path("/var/lib/lamp"), Path("/etc/ca.pem"))
    assert loaded.identify_command == ("/usr/bin/blink", "--led", "2")
    assert (loaded.window_s, loaded.announced_window_s, loaded.event, loaded.retry_s) == (60, 0, "lamp.ready", 5)


def test_a_relative_path_means_beside_the_configuration(tmp_path: Path) -> None:
    loaded = load(tmp_path, 'device_class = "lamp"\nstate = "state"\nmode_ca = "ca.pem"')
    assert (loaded.state, loaded.mode_ca) == (tmp_path / "state", tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'device_class' is missing"),
        ('device_clas = "lamp"', "unknown key 'device_clas'; did you mean 'device_class'"),
        ("device_class = 5", "device_class must be a text"),
        ('device_class = ""', "device_class must be a text"),
        (f'device_class = "{"x" * 65}"', "device_class may have at most 64 octets"),
        (f'device_class = "{"ä" * 33}"', "device_class may have at most 64 octets"),
        ('device_class = "a\\u0007b"', "device_class must be a text"),
        ('device_class = "x"\nmode_url = "ftp://example"', "mode_url must be a URL"),
        ('device_class = "x"\nmode_url = "https://user:secret@example"', "mode_url must be a URL"),
        ('device_class = "x"\nmode_url = "https://example/?a=b"', "mode_url must be a URL"),
        ('device_class = "x"\nmode_url = "https://[::1"', "mode_url must be a URL"),
        ('device_class = "x"\nmode_url = "https://example:99999"', "mode_url must be a URL"),
        ('device_class = "x"\nradio = "hci0"', "radio must be"),
        ('device_class = "x"\nradio = "air:"', "radio must be"),
        ('device_class = "x"\nwindow_s = "900"', "window_s must be a whole number of seconds from 30 to 86400"),
        ('device_class = "x"\nwindow_s = true', "window_s must be"),
        ('device_class = "x"\nwindow_s = 29', "window_s must be"),
        ('device_class = "x"\nretry_s = 0', "retry_s must be"),
        ('device_class = "x"\nevent = "a b"', "event must be a name"),
        ('device_class = "x"\nevent = "_builtin_"', "event must be a name"),
        ('device_class = "x"\nidentify_command = "blink 2"', "identify_command must be a list of texts"),
        ('device_class = "x"\nidentify_command = []', "identify_command must be a list of texts"),
        ('device_class = "x"\nidentify_command = ["blink", 2]', "each word of identify_command must be a text"),
        ('device_class = "x"\nidentify_command = ["blink", "a\\u0000b"]', "each word of identify_command"),
        ('device_class = "x"\nidentify_command = ["./blink"]', "identify_command must begin with an absolute path"),
        (f'device_class = "x"\nidentify_command = {["x"] * 65}', "identify_command must be a list"),
        (f'device_class = "x"\nwindow_s = {"9" * 5000}', "is no TOML"),
        (f'device_class = "x"\nwindow_s = {"[" * 20_000}', "is no TOML"),
        ("device_class = [", "is no TOML"),
        ('device_class = "x"\ndevice_class = "y"', "is no TOML"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint.replace("[", "\\[")):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the configuration .*nowhere\.toml: No such file"):
        config.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("what", [os.mkfifo, os.mkdir])
def test_what_is_no_plain_file_is_refused_and_nobody_waits_for_it(tmp_path: Path, what: Callable[[Path], None]) -> None:
    what(tmp_path / "peripheral.toml")
    with pytest.raises(UsageError, match=r"not a plain file|Is a directory"):
        config.load(tmp_path / "peripheral.toml")


def test_a_device_that_never_ends_is_refused() -> None:
    with pytest.raises(UsageError, match="not a plain file"):
        config.load(Path("/dev/zero"))


def test_a_configuration_that_everybody_can_change_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "peripheral.toml"
    path.write_text('device_class = "lamp"')
    path.chmod(0o646)
    with pytest.raises(UsageError, match="chmod o-w"):
        config.load(path)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too large"):
        load(tmp_path, "#" * 70_000)


def test_octets_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "peripheral.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no TOML"):
        config.load(tmp_path / "peripheral.toml")
