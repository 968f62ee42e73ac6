import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from bletoken.errors import StorageError
from bletoken.sim.cloud.store import Device, Seed, Session, Store, TokenError, new_secret

LATER_NS = 2**62


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
        assert store.members(home) == {user, other}
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
