"""What `bletoken-sim cloud project`, `device` and so on do to a database."""

import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from unit.cloud.test_command import started

from bletoken.sim import cli
from bletoken.sim.cloud.developer_console import PASSWORD_VARIABLE
from bletoken.sim.cloud.records import Device, ProjectKey
from bletoken.sim.cloud.store import Store


class Console:
    """The command line on one database."""

    def __init__(self, db: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.db = db
        self._capsys = capsys

    def __call__(self, *words: object) -> dict[str, Any]:
        """The result of a command that succeeds."""
        code, said = self.attempt(*words)
        assert code == 0, said
        assert said.pop("ok") is True
        return said

    def attempt(self, *words: object) -> tuple[int, dict[str, Any]]:
        """The exit code of a command, and what it says."""
        code = cli.main(["cloud", *map(str, words), "--db", str(self.db), "--json"])
        (line,) = self._capsys.readouterr().out.splitlines()
        said = json.loads(line)
        assert isinstance(said, dict)
        return code, said

    def refused(self, *words: object) -> str:
        """The message of a command that is not possible."""
        code, said = self.attempt(*words)
        assert (code, said["ok"], said["exit_code"]) == (2, False, 2)
        message = said["message"]
        assert isinstance(message, str)
        return message


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    return Console(tmp_path / "mode.db", capsys)


@pytest.fixture
def lamps(console: Console) -> Console:
    """A project 101 with a class, an app, a user 301 and a home 501."""
    console("project", "add", "--name", "Lamps")
    console("class", "add", "--project", 101, "lamp")
    console("app", "add", "--project", 101, "lamp-app")
    console("user", "add", "--project", 101, "--email", "me@example.com", "--name", "Me")
    console("home", "add", "--project", 101, "--name", "Home", "--owner", 301)
    return console


def test_a_project_is_set_up_from_nothing(lamps: Console) -> None:
    assert lamps("project", "list") == {"projects": [{"id": 101, "name": "Lamps", "on_demand": False}]}
    assert lamps("project", "add", "--id", 7, "--on-demand") == {"id": 7, "name": "", "on_demand": True}
    assert lamps("project", "add")["id"] == 102
    assert lamps("class", "list", "--project", 101) == {"classes": [{"class": "lamp"}]}
    assert lamps("app", "list", "--project", 101) == {"apps": [{"app": "lamp-app"}]}
    assert lamps("user", "list", "--project", 101) == {"users": [{"id": 301, "email": "me@example.com", "name": "Me"}]}
    assert lamps("home", "list", "--project", 101) == {"homes": [{"id": 501, "name": "Home", "members": 1}]}
    member = {"user": 301, "email": "me@example.com", "role": "owner"}
    assert lamps("member", "list", "--home", 501) == {"members": [member]}
    with Store(lamps.db) as store:
        assert store.sign_in(101, "lamp-app", "me@example.com", "secret", expires_ns=2**62)
        key = lamps("project", "key", "--project", 101)["api_key"]
        assert store.identify(key, now_ns=0) == ProjectKey(101, key)


def test_the_on_demand_switch_decides_how_devices_are_made(lamps: Console) -> None:
    made = lamps("device", "add", "--project", 101, "--class", "lamp")
    assert "on demand" in lamps.refused("token", "add", "--home", 501, "--class", "lamp")
    assert lamps("project", "on-demand", "--project", 101, "on") == {"id": 101, "on_demand": True}
    assert "on demand" in lamps.refused("device", "add", "--project", 101, "--class", "lamp")
    token = lamps("token", "add", "--home", 501, "--class", "lamp", "--tag", "porch")["token"]
    assert [each["used"] for each in lamps("token", "list", "--home", 501)["tokens"]] == [None]
    with Store(lamps.db) as store:
        assert store.redeem(token, now_ns=0).id == made["id"] + 1
    (listed,) = lamps("token", "list", "--home", 501)["tokens"]
    assert (listed["class"], listed["tag"]) == ("lamp", "porch")
    assert listed["used"]
    assert token not in str(listed)
    assert lamps("project", "on-demand", "--project", 101, "off")["on_demand"] is False


def test_a_device_is_made_shown_moved_removed_and_deleted(lamps: Console) -> None:
    made = lamps("device", "add", "--project", 101, "--class", "lamp", "--name", "Lamp", "--tag", "serial")
    assert made.keys() == {"id", "api_key", "claim_code"}
    shown = lamps("device", "show", made["id"])
    assert (shown["id"], shown["project"], shown["home"], shown["class"]) == (made["id"], 101, None, "lamp")
    assert (shown["name"], shown["tag"]) == ("Lamp", "serial")
    assert not {"api_key", "claim_code"} & shown.keys()
    assert made.items() <= lamps("device", "show", made["id"], "--secrets").items()
    assert lamps("device", "list") == {"devices": [shown]}
    assert lamps("device", "list", "--home", 501) == {"devices": []}
    assert "in no home" in lamps.refused("device", "remove", made["id"])
    assert lamps("device", "move", made["id"], "--home", 501)["home"] == 501
    assert len(lamps("device", "list", "--home", 501, "--project", 101)["devices"]) == 1
    assert lamps("device", "remove", made["id"]) == {"id": made["id"], "gone": False}
    assert lamps("device", "show", made["id"])["home"] is None
    assert lamps("device", "delete", made["id"]) == {"id": made["id"], "gone": True}
    assert lamps("device", "list", "--project", 101) == {"devices": []}
    with Store(lamps.db) as store:
        assert store.identify(made["api_key"], now_ns=0) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_secrets_go_to_private_files_where_asked_and_never_over_another(lamps: Console, tmp_path: Path) -> None:
    key, code = tmp_path / "key", tmp_path / "code"
    words = ("device", "add", "--project", 101, "--class", "lamp", "--key-file", key, "--claim-code-file", code)
    made = lamps(*words)
    assert made == {"id": 1001, "api_key_file": str(key), "claim_code_file": str(code)}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, code)] == [0o600, 0o600]
    with Store(lamps.db) as store:
        device = store.identify(key.read_text().strip(), now_ns=0)
        assert isinstance(device, Device)
        assert device.claim_code == code.read_text().strip()
    exit_code, said = lamps.attempt(*words)
    assert (exit_code, said["error"]) == (15, "Exists")
    # Nothing was made then.
    assert len(lamps("device", "list")["devices"]) == 1


def test_homes_and_members_change_hands(lamps: Console) -> None:
    lamps("user", "add", "--project", 101, "--email", "you@example.com")
    lamps("member", "add", "--home", 501, "--user", 302)
    assert "no owner" in lamps.refused("member", "remove", "--home", 501, "--user", 301)
    lamps("member", "add", "--home", 501, "--user", 302, "--role", "owner")
    lamps("member", "remove", "--home", 501, "--user", 301)
    assert [each["user"] for each in lamps("member", "list", "--home", 501)["members"]] == [302]
    assert "no member" in lamps.refused("member", "remove", "--home", 501, "--user", 301)
    lamps("home", "remove", "--home", 501)
    assert lamps("home", "list", "--project", 101) == {"homes": []}


NOT_THERE = [
    ["class", "add", "--project", "9", "x"],
    ["class", "list", "--project", "9"],
    ["app", "add", "--project", "9", "x"],
    ["app", "list", "--project", "9"],
    ["project", "add", "--id", "101"],
    ["project", "key", "--project", "9"],
    ["project", "on-demand", "--project", "9", "on"],
    ["user", "add", "--project", "9", "--email", "x"],
    ["user", "add", "--project", "101", "--email", "me@example.com"],
    ["user", "list", "--project", "9"],
    ["home", "add", "--project", "9", "--name", "x"],
    ["home", "add", "--project", "101", "--name", "x", "--owner", "9"],
    ["home", "list", "--project", "9"],
    ["home", "remove", "--home", "9"],
    ["member", "add", "--home", "9", "--user", "301"],
    ["member", "add", "--home", "501", "--user", "9"],
    ["member", "list", "--home", "9"],
    ["device", "add", "--project", "101", "--class", "x"],
    ["device", "add", "--project", "9", "--class", "lamp"],
    ["device", "list", "--project", "9"],
    ["device", "list", "--home", "9"],
    ["device", "show", "9"],
    ["device", "move", "9", "--home", "501"],
    ["device", "remove", "9"],
    ["device", "delete", "9"],
    ["token", "add", "--home", "9", "--class", "lamp"],
    ["token", "add", "--home", "501", "--class", "lamp", "--lifetime-s", "-1"],
    ["token", "list", "--home", "9"],
]


def test_what_is_not_there_is_an_error_in_words(lamps: Console) -> None:
    for words in NOT_THERE:
        assert lamps.refused(*words)
    with Store(lamps.db) as store:
        assert (len(store.projects()), len(store.users(101)), len(store.homes_of_project(101))) == (1, 1, 1)


def test_a_device_does_not_move_to_another_project(lamps: Console) -> None:
    lamps("project", "add", "--id", 202)
    elsewhere = lamps("home", "add", "--project", 202, "--name", "x")["id"]
    device = lamps("device", "add", "--project", 101, "--class", "lamp")["id"]
    assert "same project" in lamps.refused("device", "move", device, "--home", elsewhere)


def test_a_password_comes_from_a_file_or_standard_input_and_not_from_the_command_line(
    lamps: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("from-file\n")
    lamps("user", "add", "--project", 101, "--email", "a", "--password-file", tmp_path / "password")
    monkeypatch.setattr(sys, "stdin", io.StringIO("from-stdin\n"))
    lamps("user", "add", "--project", 101, "--email", "b", "--password-file", "-")
    with Store(lamps.db) as store:
        for email, password in [("a", "from-file"), ("b", "from-stdin")]:
            assert store.sign_in(101, "lamp-app", email, password, expires_ns=2**62)
    monkeypatch.setenv(PASSWORD_VARIABLE, "")
    assert "empty" in lamps.refused("user", "add", "--project", 101, "--email", "c")
    monkeypatch.delenv(PASSWORD_VARIABLE)
    assert "nobody is here" in lamps.refused("user", "add", "--project", 101, "--email", "c")
    missing = ("--password-file", tmp_path / "missing")
    assert "cannot read" in lamps.refused("user", "add", "--project", 101, "--email", "c", *missing)


def test_the_database_must_be_named_and_be_there(console: Console, capsys: pytest.CaptureFixture[str]) -> None:
    assert "project add" in console.refused("device", "list")
    assert not console.db.exists()
    assert cli.main(["cloud", "device", "list"]) == 2
    assert "--db FILE" in capsys.readouterr().err


def test_people_get_lines(lamps: Console, capsys: pytest.CaptureFixture[str]) -> None:
    def lines(*words: str) -> list[str]:
        # The database may be named before the command, too.
        assert cli.main(["cloud", "--db", str(lamps.db), *words]) == 0
        return capsys.readouterr().out.splitlines()

    assert lines("device", "list") == ["no devices"]
    made = lines("device", "add", "--project", "101", "--class", "lamp", "--name", "a\x1b[2Jb")
    assert [line.split()[0] for line in made] == ["id", "api", "claim"]
    assert lines("device", "list") == ["id 1001  project 101  class lamp  name a\N{REPLACEMENT CHARACTER}[2Jb"]
    assert lines("project", "list") == ["id 101  name Lamps  on_demand no"]


@pytest.mark.parametrize("text", ["-1", "x", "", "18446744073709551616", "1" * 5000])
def test_a_bad_id_is_a_usage_error(lamps: Console, text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        lamps("device", "show", f"--home={text}", text)
    assert caught.value.code == 2


def test_a_running_mode_sees_at_once_what_is_done(lamps: Console) -> None:
    with (
        started("--json", "--db", str(lamps.db)) as (_, line),
        httpx.Client(base_url=json.loads(line)["url"], trust_env=False) as client,
    ):
        device = lamps("device", "add", "--project", 101, "--class", "lamp")
        own_key = {"Authorization": f"ModeCloud {device['api_key']}"}
        login = {"projectId": 101, "appId": "lamp-app", "email": "me@example.com", "password": "secret"}
        user = {"Authorization": f"ModeCloud {client.post('/auth/user', json=login).json()['token']}"}
        window = {"deviceId": device["id"], "claimable": True, "duration": 60}
        assert client.post("/deviceRegistration", json=window, headers=own_key).status_code == 200
        assert lamps("device", "show", device["id"])["claimable_until"]
        claim = {"homeId": 501, "claimCode": device["claim_code"]}
        assert client.post("/devices", json=claim, headers=user).status_code == 201
        assert lamps("device", "show", device["id"])["home"] == 501
        lamps("device", "delete", device["id"])
        assert client.get("/auth", headers=own_key).json() == {"type": "nobody"}
