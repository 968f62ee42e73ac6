"""What the local MODE remembers, in SQLite; it never knows HTTP, and never waits.

Each operation that changes something is one transaction, so a process that is killed has done it or has not, and two
processes on one file cannot redeem one token twice. Keys, tokens and passwords are stored as they are: everything in
here is made up, and a developer may want to look.

Ids are stored as text, because they go up to 2**64 - 1 and SQLite's integers do not.
"""

import contextlib
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

from bletoken.errors import StorageError
from bletoken.sim.cloud.settings import MAX_ID

SCHEMA_VERSION: Final = 1
"""The `user_version` of the database file. A file with a newer one is refused."""

# The kinds of ids start apart from each other, so that a mixed-up id fails at once.
FIRST_USER_ID: Final = 301
FIRST_HOME_ID: Final = 501

_SCHEMA: Final = """
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
"""


class TokenError(Exception):
    """A provisioning token cannot be redeemed.

    Attributes:
        why: Which kind of bad token it is.
    """

    def __init__(self, why: Literal["unknown", "expired", "used"]) -> None:
        super().__init__(why)
        self.why: Literal["unknown", "expired", "used"] = why


@dataclass(frozen=True)
class Session:
    """A user who signed in."""

    user_id: int
    project_id: int
    app_id: str
    expires_ns: int
    key: str = field(repr=False)


@dataclass(frozen=True)
class Home:
    """A home of a project."""

    id: int
    project_id: int
    name: str
    creation_ns: int


@dataclass(frozen=True)
class Device:
    """A device in a home."""

    id: int
    project_id: int
    home_id: int
    device_class: str
    name: str
    tag: str
    creation_ns: int
    api_key: str = field(repr=False)


@dataclass(frozen=True)
class Seed:
    """What there must be: a project with an app and a device class, and a user who is a member of a home."""

    project_id: int = 101
    app_id: str = "demo-app"
    email: str = "user@example.com"
    password: str = field(default="demo-password", repr=False)
    home_name: str = "Home"
    device_class: str = "demo-class"


class Store:
    """The database. Closing it is the owner's duty; it is a context manager.

    Args:
        path: The database file, made if there is none; in memory if None.
        first_device_id: The id of the first device of a new database.

    Raises:
        StorageError: The file cannot be opened, is no such database, or is from a newer version.
    """

    def __init__(self, path: Path | None = None, *, first_device_id: int = 1001) -> None:
        self._db = _open(path)
        self._first_ids = {"user": FIRST_USER_ID, "home": FIRST_HOME_ID, "device": first_device_id}

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Setting the scene --------------------------------------------------------------------------------------------

    def seed(self, seed: Seed, *, now_ns: int) -> tuple[int, int]:
        """Make whatever part of the seed is missing; seeding twice changes nothing but the password.

        Another user with the same home name becomes a member of the same home.

        Returns:
            The user's id and the home's id.
        """
        project = str(seed.project_id)
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO projects VALUES (?, ?)", (project, now_ns))
            self._db.execute("INSERT OR IGNORE INTO apps VALUES (?, ?)", (project, seed.app_id))
            self._db.execute("INSERT OR IGNORE INTO classes VALUES (?, ?)", (project, seed.device_class))
            row = self._one("SELECT id FROM users WHERE project_id = ? AND email = ?", project, seed.email)
            user = row["id"] if row else self._new_id("user")
            self._db.execute(
                "INSERT INTO users VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET password = excluded.password",
                (user, project, seed.email, seed.password),
            )
            row = self._one("SELECT id FROM homes WHERE project_id = ? AND name = ?", project, seed.home_name)
            home = row["id"] if row else self._new_id("home")
            self._db.execute("INSERT OR IGNORE INTO homes VALUES (?, ?, ?, ?)", (home, project, seed.home_name, now_ns))
            self._db.execute("INSERT OR IGNORE INTO members VALUES (?, ?)", (home, user))
        return int(user), int(home)

    # Keys ---------------------------------------------------------------------------------------------------------

    def sign_in(self, project_id: int, app_id: str, email: str, password: str, *, expires_ns: int) -> Session | None:
        """Start a session, or None if project, app, email and password do not belong together."""
        with self._transaction():
            row = self._one(
                "SELECT users.id FROM users JOIN apps USING (project_id)"
                " WHERE project_id = ? AND apps.id = ? AND email = ? AND password = ?",
                str(project_id),
                app_id,
                email,
                password,
            )
            if row is None:
                return None
            key = new_secret(100)
            self._db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (key, row["id"], app_id, expires_ns))
        return Session(int(row["id"]), project_id, app_id, expires_ns, key)

    def identify(self, key: str, *, now_ns: int) -> Session | Device | None:
        """Whose key this is: a user's session, a device, or nobody's."""
        row = self._one(
            "SELECT sessions.*, project_id FROM sessions JOIN users ON users.id = user_id"
            " WHERE key = ? AND expires_ns > ?",
            key,
            now_ns,
        )
        if row:
            return Session(int(row["user_id"]), int(row["project_id"]), row["app_id"], row["expires_ns"], key)
        row = self._one("SELECT * FROM devices WHERE api_key = ?", key)
        return _device(row) if row else None

    # Homes --------------------------------------------------------------------------------------------------------

    def home(self, home_id: int) -> Home | None:
        """The home with this id, if there is one."""
        row = self._one("SELECT * FROM homes WHERE id = ?", str(home_id))
        return _home(row) if row else None

    def homes_of(self, user_id: int) -> list[Home]:
        """The homes that the user is a member of, oldest first."""
        rows = self._db.execute(
            "SELECT homes.* FROM homes JOIN members ON home_id = homes.id WHERE user_id = ? ORDER BY homes.rowid",
            (str(user_id),),
        )
        return [_home(row) for row in rows]

    def members(self, home_id: int) -> set[int]:
        """The ids of the users who are members of the home."""
        rows = self._db.execute("SELECT user_id FROM members WHERE home_id = ?", (str(home_id),))
        return {int(row["user_id"]) for row in rows}

    def has_class(self, project_id: int, device_class: str) -> bool:
        """Whether the project has this device class."""
        sql = "SELECT 1 FROM classes WHERE project_id = ? AND name = ?"
        return self._one(sql, str(project_id), device_class) is not None

    # Provisioning tokens ------------------------------------------------------------------------------------------

    def issue_token(self, home_id: int, device_class: str, tag: str, *, length: int, expires_ns: int) -> str:
        """Make a provisioning token for one device of this class in this home."""
        token = new_secret(length)
        with self._transaction():
            self._db.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, NULL)",
                (token, str(home_id), device_class, tag, expires_ns),
            )
        return token

    def redeem(self, token: str, *, now_ns: int, single_use: bool = True, keep_tag: bool = True) -> Device:
        """Consume the token and make its device, both or neither.

        Raises:
            TokenError: It was never issued, has expired, or was used before.
        """
        with self._transaction():
            row = self._one(
                "SELECT tokens.*, project_id FROM tokens JOIN homes ON homes.id = home_id WHERE token = ?", token
            )
            if row is None:
                raise TokenError("unknown")
            if single_use and row["used_ns"] is not None:
                raise TokenError("used")
            if row["expires_ns"] <= now_ns:
                raise TokenError("expired")
            self._db.execute("UPDATE tokens SET used_ns = ? WHERE token = ?", (now_ns, token))
            device = Device(
                id=int(self._new_id("device")),
                project_id=int(row["project_id"]),
                home_id=int(row["home_id"]),
                device_class=row["device_class"],
                name="",
                tag=row["tag"] if keep_tag else "",
                creation_ns=now_ns,
                api_key=new_secret(100),
            )
            self._db.execute(
                "INSERT INTO devices (id, project_id, home_id, device_class, name, tag, api_key, creation_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    str(device.id),
                    str(device.project_id),
                    str(device.home_id),
                    device.device_class,
                    device.name,
                    device.tag,
                    device.api_key,
                    device.creation_ns,
                ),
            )
        return device

    # Devices ------------------------------------------------------------------------------------------------------

    def device(self, device_id: int) -> Device | None:
        """The device with this id, if there is one."""
        row = self._one("SELECT * FROM devices WHERE id = ?", str(device_id))
        return _device(row) if row else None

    def devices(self, home_id: int | None = None) -> list[Device]:
        """The devices of a home, or all of them, oldest first."""
        rows = self._db.execute(
            "SELECT * FROM devices WHERE ?1 IS NULL OR home_id = ?1 ORDER BY rowid",
            (None if home_id is None else str(home_id),),
        )
        return [_device(row) for row in rows]

    def change_device(self, device_id: int, *, name: str | None = None, tag: str | None = None) -> None:
        """Set the name, the tag, or both."""
        with self._transaction():
            self._db.execute(
                "UPDATE devices SET name = coalesce(?, name), tag = coalesce(?, tag) WHERE id = ?",
                (name, tag, str(device_id)),
            )

    def delete_device(self, device_id: int) -> None:
        """Remove the device; its key is nobody's from then on."""
        with self._transaction():
            self._db.execute("DELETE FROM devices WHERE id = ?", (str(device_id),))

    # Plumbing -----------------------------------------------------------------------------------------------------

    def _one(self, sql: str, *parameters: str | int) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(sql, parameters).fetchone()
        return row

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE takes the write lock before the first read, so what was read still holds when it is written.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _new_id(self, kind: Literal["user", "home", "device"]) -> str:
        table = {"user": "users", "home": "homes", "device": "devices"}[kind]
        row = self._one("SELECT id FROM next_ids WHERE kind = ?", kind)
        number = int(row["id"]) if row else self._first_ids[kind]
        # After the largest id it starts again at 1: only a test that begins near the end ever gets there.
        while self._one(f"SELECT 1 FROM {table} WHERE id = ?", str(number)):  # noqa: S608 - a name of ours
            number = number % MAX_ID + 1
        self._db.execute("INSERT OR REPLACE INTO next_ids VALUES (?, ?)", (kind, str(number % MAX_ID + 1)))
        return str(number)


def new_secret(length: int) -> str:
    """A key or token of exactly this many printable ASCII characters, at least 16 of them."""
    return ("v1." + secrets.token_urlsafe(length))[:length]


def _open(path: Path | None) -> sqlite3.Connection:
    try:
        if path is not None:
            path.touch(mode=0o600)
        db = sqlite3.connect(path or ":memory:", isolation_level=None)
    except (OSError, sqlite3.Error) as e:
        raise StorageError(f"cannot open {path}: {e}") from e
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StorageError(f"{path} was written by a newer version of this program")
        if version == 0:
            # `executescript` would end the transaction first, and two processes might both make the tables.
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except sqlite3.Error as e:
        db.close()
        raise StorageError(f"{path} is not usable as the local MODE's database: {e}") from e
    except StorageError:
        db.close()
        raise
    return db


def _home(row: sqlite3.Row) -> Home:
    return Home(int(row["id"]), int(row["project_id"]), row["name"], row["creation_ns"])


def _device(row: sqlite3.Row) -> Device:
    return Device(
        id=int(row["id"]),
        project_id=int(row["project_id"]),
        home_id=int(row["home_id"]),
        device_class=row["device_class"],
        name=row["name"],
        tag=row["tag"],
        creation_ns=row["creation_ns"],
        api_key=row["api_key"],
    )
