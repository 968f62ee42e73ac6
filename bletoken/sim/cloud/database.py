"""The local MODE's SQLite file: its tables, their migrations and its transactions; it never knows what is kept in it.

Ids are stored as text, because they go up to 2**64 - 1 and SQLite's integers do not. Keys, tokens, claim codes and
passwords are stored as they are: everything in here is made up, and a developer may want to look.
"""

import contextlib
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, Self

from bletoken.errors import StorageError
from bletoken.sim.cloud.settings import MAX_ID

# The kinds of ids start apart from each other, so that a mixed-up id fails at once.
FIRST_IDS: Final[Mapping[str, int]] = {"project": 101, "user": 301, "home": 501, "device": 1001}

_TABLES: Final[Mapping[str, str]] = {"project": "projects", "user": "users", "home": "homes", "device": "devices"}

_MIGRATIONS: Final = (
    # Version 1: on-demand devices only, in every project.
    """
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
""",
    # Version 2: pre-provisioned devices, the on-demand switch, keys of projects, roles of members, connections. Every
    # project of version 1 made its devices on demand, and every member could do everything.
    """
ALTER TABLE projects ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE projects ADD COLUMN on_demand INTEGER NOT NULL DEFAULT 0;
UPDATE projects SET on_demand = 1;
CREATE TABLE project_keys (key TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES projects) STRICT;
ALTER TABLE users ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE members ADD COLUMN role TEXT NOT NULL DEFAULT 'owner';
ALTER TABLE members ADD COLUMN creation_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN claim_code TEXT;
ALTER TABLE devices ADD COLUMN claim_expires_ns INTEGER;
ALTER TABLE devices ADD COLUMN claim_ns INTEGER;
ALTER TABLE devices ADD COLUMN connect_ns INTEGER;
ALTER TABLE devices ADD COLUMN disconnect_ns INTEGER;
CREATE UNIQUE INDEX devices_by_claim_code ON devices (claim_code);
""",
)

SCHEMA_VERSION: Final = len(_MIGRATIONS)
"""The `user_version` of the database file. A file with a newer one is refused, one with an older one is migrated."""


class Database:
    """The database file. Closing it is the owner's duty; it is a context manager.

    Args:
        path: The file, made if there is none; in memory if None.
        first_device_id: The id of the first device of a new database.

    Raises:
        StorageError: The file cannot be opened, is no such database, or is from a newer version.
    """

    def __init__(self, path: Path | None = None, *, first_device_id: int = FIRST_IDS["device"]) -> None:
        self._db = _open(path)
        self._first_ids = {**FIRST_IDS, "device": first_device_id}

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _new_id(self, kind: Literal["project", "user", "home", "device"]) -> str:
        row = self._one("SELECT id FROM next_ids WHERE kind = ?", kind)
        number = int(row["id"]) if row else self._first_ids[kind]
        # After the largest id it starts again at 1: only a test that begins near the end ever gets there.
        while self._one(f"SELECT 1 FROM {_TABLES[kind]} WHERE id = ?", str(number)):  # noqa: S608 - a name of ours
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
        for migration in _MIGRATIONS[version:]:
            # `executescript` would end the transaction first, and two processes might both make the tables.
            for statement in filter(str.strip, migration.split(";")):
                db.execute(statement)
        if version < SCHEMA_VERSION:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except sqlite3.Error as e:
        db.close()
        raise StorageError(f"{path} is not usable as the local MODE's database: {e}") from e
    except StorageError:
        db.close()
        raise
    return db
