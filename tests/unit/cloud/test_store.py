import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from bletoken.errors import StorageError, UsageError
from bletoken.sim.cloud.database import new_secret
from bletoken.sim.cloud.records import ClaimError, Device, Seed, Session, TokenError
from bletoken.sim.cloud.store import Store

LATER_NS = 2**62

VERSION_1 = """
CREATE TABLE projects (id TEXT PRIMARY KEY, creation_ns INTEGER NOT NULL) STRICT;
CREATE TABLE apps (project_id TEXT NOT NULL REFERENCES projects, id TEXT NOT NULL, PRIMARY KEY (project_id, id)) STRICT;
CREATE TABLE classes (
    project_id TEXT NOT NULL REFERENCES projects, name TEXT NOT NULL, PRIMARY KEY (project_id, name)
) STRICT;
CREATE TABLE users (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES projects, email TEXT NOT NULL, password TEXT NOT NULL,
    UNIQUE (project_id, email)
) STRICT;
CREATE TABLE sessions (
    key TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users, app_id TEXT NOT NULL, expires_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE homes (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES projects, name TEXT NOT NULL, creation_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE members (
    home_id TEXT NOT NULL REFERENCES homes, user_id TEXT NOT NULL REFERENCES users, PRIMARY KEY (home_id, user_id)
) STRICT;
CREATE TABLE tokens (
    token TEXT PRIMARY KEY, home_id TEXT NOT NULL REFERENCES homes, device_class TEXT NOT NULL, tag TEXT NOT NULL,
    expires_ns INTEGER NOT NULL, used_ns INTEGER
) STRICT;
CREATE TABLE devices (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES projects, home_id TEXT REFERENCES homes,
    device_class TEXT NOT NULL, name TEXT NOT NULL, tag TEXT NOT NULL, api_key TEXT NOT NULL UNIQUE,
    creation_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE next_ids (kind TEXT PRIMARY KEY, id TEXT NOT NULL) STRICT;
INSERT INTO projects VALUES ('101', 5);
INSERT INTO apps VALUES ('101', 'demo-app');
INSERT INTO classes VALUES ('101', 'demo-class');
INSERT INTO users VALUES ('301', '101', 'user@example.com', 'secret');
INSERT INTO sessions VALUES ('session-key', '301', 'demo-app', 4611686018427387904);
INSERT INTO homes VALUES ('501', '101', 'Home', 5);
INSERT INTO members VALUES ('501', '301');
INSERT INTO tokens VALUES ('token', '501', 'demo-class', 'tag', 4611686018427387904, NULL);
INSERT INTO devices VALUES ('1001', '101', '501', 'demo-class', 'Lamp', 'tag', 'device-key', 6);
INSERT INTO next_ids VALUES ('user', '302'), ('home', '502'), ('device', '1002');
PRAGMA user_version = 1;
"""
"""A database as the first release wrote it."""


def issue(store: Store, *, expires_ns: int = LATER_NS) -> str:
    _, home = store.seed(Seed(), now_ns=0)
    return store.issue_token(home, "demo-class", "tag", length=120, expires_ns=expires_ns)


def test_a_token_makes_exactly_one_device() -> None:
    with Store() as store:
        token = issue(store)
        device = store.redeem(token, now_ns=1)
        with pytest.raises(TokenError) as caught:
            store.redeem(token, now_ns=2)
        assert caught.value.why == "used"
        assert store.devices() == [device]


def test_a_token_expires_at_its_time_and_not_before() -> None:
    with Store() as store:
        early, late = issue(store, expires_ns=100), issue(store, expires_ns=100)
        assert store.redeem(early, now_ns=99).id
        with pytest.raises(TokenError) as caught:
            store.redeem(late, now_ns=100)
        assert caught.value.why == "expired"
        assert len(store.devices()) == 1


def test_concurrent_redemptions_through_several_connections_make_one_device(tmp_path: Path) -> None:
    path = tmp_path / "mode.db"
    with Store(path) as store:
        token = issue(store)
    outcomes: list[str] = []
    together = threading.Barrier(4)

    def redeem() -> None:
        with Store(path) as own:
            together.wait()
            try:
                outcomes.append(str(own.redeem(token, now_ns=1).id))
            except TokenError as e:
                outcomes.append(e.why)

    threads = [threading.Thread(target=redeem) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["1001", "used", "used", "used"]
    with Store(path) as store:
        assert len(store.devices()) == 1


def test_a_failed_redemption_leaves_the_token_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    with Store() as store:
        token = issue(store)

        def fail(_: int) -> str:
            raise RuntimeError("out of randomness")

        with monkeypatch.context() as patch:
            patch.setattr("bletoken.sim.cloud.store.new_secret", fail)
            with pytest.raises(RuntimeError):
                store.redeem(token, now_ns=1)
        assert store.devices() == []
        assert store.redeem(token, now_ns=2).id == 1001


def test_ids_beyond_sqlite_s_integers_are_kept_exactly_and_start_again_after_the_last() -> None:
    with Store(first_device_id=2**64 - 1) as store:
        assert store.redeem(issue(store), now_ns=1).id == 2**64 - 1
        assert store.redeem(issue(store), now_ns=1).id == 1
        assert [device.id for device in store.devices()] == [2**64 - 1, 1]
        assert isinstance(store.device(2**64 - 1), Device)


def test_an_id_is_not_given_out_again_after_its_device_is_deleted() -> None:
    with Store() as store:
        first = store.redeem(issue(store), now_ns=1)
        store.delete_device(first.id)
        assert store.redeem(issue(store), now_ns=1).id == first.id + 1
        assert store.identify(first.api_key, now_ns=1) is None


def test_seeding_again_finds_what_is_there_and_makes_what_is_not() -> None:
    with Store() as store:
        user, home = store.seed(Seed(), now_ns=1)
        assert store.seed(Seed(password="new"), now_ns=2) == (user, home)
        other, same_home = store.seed(Seed(email="other@example.com"), now_ns=3)
        assert (other != user, same_home) == (True, home)
        assert store.members(home).keys() == {user, other}
        _, other_home = store.seed(Seed(home_name="Cabin", password="new"), now_ns=4)
        assert [each.id for each in store.homes_of(user)] == [home, other_home]
        assert store.sign_in(101, "demo-app", "user@example.com", "new", expires_ns=LATER_NS)
        assert store.sign_in(101, "demo-app", "user@example.com", "demo-password", expires_ns=LATER_NS) is None


def test_a_session_ends_at_its_time() -> None:
    with Store() as store:
        store.seed(Seed(), now_ns=0)
        session = store.sign_in(101, "demo-app", "user@example.com", "demo-password", expires_ns=100)
        assert isinstance(session, Session)
        assert store.identify(session.key, now_ns=99) == session
        assert store.identify(session.key, now_ns=100) is None


def test_everything_survives_closing_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mode.db"
    with Store(path) as store:
        device = store.redeem(issue(store), now_ns=1)
    with Store(path, first_device_id=9) as store:
        assert store.identify(device.api_key, now_ns=1) == device
        assert store.redeem(issue(store), now_ns=1).id == device.id + 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "mode.db"
    with Store(path):
        assert path.stat().st_mode & 0o077 == 0


def test_keys_do_not_show_in_representations() -> None:
    with Store() as store:
        device = store.redeem(issue(store), now_ns=1)
        assert device.api_key not in repr(device)


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mode.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StorageError, match="newer"):
        Store(path)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("something else entirely" * 100)
    with pytest.raises(StorageError, match=r"notes\.txt"):
        Store(path)
    assert path.read_text().startswith("something else")


def test_a_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot open"):
        Store(tmp_path / "missing" / "mode.db")


@pytest.mark.parametrize("length", [16, 120, 300, 1024])
def test_a_secret_has_exactly_the_length_asked_for(length: int) -> None:
    secret = new_secret(length)
    assert len(secret.encode()) == length
    assert secret.isascii()
    assert secret.isprintable()


def test_a_device_can_be_claimed_while_its_window_is_open_and_once() -> None:
    with Store() as store:
        _, home = store.seed(Seed(on_demand=False), now_ns=0)
        device = store.make_device(101, "demo-class", now_ns=0)
        assert device.claim_code
        assert device.home_id is None

        def why_not(*, now_ns: int) -> str:
            assert device.claim_code
            with pytest.raises(ClaimError) as caught:
                store.claim(device.claim_code, home, now_ns=now_ns)
            return caught.value.why

        assert why_not(now_ns=1) == "not claimable"
        store.open_claim(device.id, expires_ns=100)
        assert why_not(now_ns=100) == "not claimable"
        claimed = store.claim(device.claim_code, home, now_ns=99)
        assert (claimed.home_id, claimed.claim_ns, claimed.claim_expires_ns) == (home, 99, None)
        assert why_not(now_ns=99) == "in home"
        with pytest.raises(ClaimError):
            store.open_claim(device.id, expires_ns=200)

        store.remove_device(device.id)
        assert why_not(now_ns=99) == "not claimable"
        assert isinstance(store.identify(device.api_key, now_ns=99), Device)


def test_a_claim_code_is_worth_nothing_in_another_project() -> None:
    with Store() as store:
        store.seed(Seed(on_demand=False), now_ns=0)
        _, elsewhere = store.seed(Seed(project_id=102), now_ns=0)
        device = store.make_device(101, "demo-class", now_ns=0)
        store.open_claim(device.id, expires_ns=100)
        assert device.claim_code
        with pytest.raises(ClaimError) as caught:
            store.claim(device.claim_code, elsewhere, now_ns=1)
        assert caught.value.why == "unknown"


def test_concurrent_claims_through_several_connections_put_the_device_into_one_home(tmp_path: Path) -> None:
    path = tmp_path / "mode.db"
    with Store(path) as store:
        homes = [store.seed(Seed(home_name=str(n), on_demand=False), now_ns=0)[1] for n in range(4)]
        device = store.make_device(101, "demo-class", now_ns=0)
        store.open_claim(device.id, expires_ns=100)
    claim_code = device.claim_code
    assert claim_code
    outcomes: list[int | str] = []
    together = threading.Barrier(4)

    def claim(home: int) -> None:
        with Store(path) as own:
            together.wait()
            try:
                outcomes.append(own.claim(claim_code, home, now_ns=1).home_id or "nowhere")
            except ClaimError as e:
                outcomes.append(e.why)

    threads = [threading.Thread(target=claim, args=(home,)) for home in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes))[1:] == ["in home"] * 3
    with Store(path) as store:
        assert [each.home_id for each in store.devices()] == [home for home in outcomes if home != "in home"]


def test_devices_are_made_by_hand_only_where_they_are_not_made_on_demand() -> None:
    with Store() as store:
        store.seed(Seed(), now_ns=0)
        with pytest.raises(UsageError, match="on demand"):
            store.make_device(101, "demo-class", now_ns=0)
        store.seed(Seed(on_demand=False), now_ns=0)
        with pytest.raises(UsageError, match="no device class 'lamp'"):
            store.make_device(101, "lamp", now_ns=0)
        with pytest.raises(UsageError, match="no project 9"):
            store.make_device(9, "demo-class", now_ns=0)
        store.make_device(101, "demo-class", now_ns=0)


def test_seeding_again_leaves_the_on_demand_switch_alone_unless_told() -> None:
    with Store() as store:
        for told, on_demand in [(None, True), (False, False), (None, False), (True, True)]:
            store.seed(Seed(on_demand=told), now_ns=0)
            assert store.existing_project(101).on_demand is on_demand


def test_a_database_of_version_1_is_migrated_and_nothing_in_it_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "mode.db"
    db = sqlite3.connect(path)
    db.executescript(VERSION_1)
    db.close()
    with Store(path) as store:
        assert store.existing_project(101).on_demand
        assert store.sign_in(101, "demo-app", "user@example.com", "secret", expires_ns=LATER_NS)
        session = store.identify("session-key", now_ns=0)
        assert isinstance(session, Session)
        assert [home.name for home in store.homes_of(session.user_id)] == ["Home"]
        device = store.identify("device-key", now_ns=0)
        assert isinstance(device, Device)
        assert (device.id, device.home_id, device.claim_code, device.claim_expires_ns) == (1001, 501, None, None)
        assert store.redeem("token", now_ns=0).id == 1002
        store.seed(Seed(on_demand=False), now_ns=0)
        assert store.make_device(101, "demo-class", now_ns=0).id == 1003
    with Store(path) as store:
        assert [each.id for each in store.devices()] == [1001, 1002, 1003]
