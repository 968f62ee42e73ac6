"""Projects and who is in them: apps, device classes, users, sessions, homes and members; it never knows of devices."""

import sqlite3

from bletoken.errors import UsageError
from bletoken.sim.cloud.database import Database, new_secret
from bletoken.sim.cloud.records import Home, Project, ProjectKey, Role, Seed, Session


class Directory(Database):
    """What a developer sets up in the Developer Console, and what users make of it."""

    def seed(self, seed: Seed, *, now_ns: int) -> tuple[int, int]:
        """Make whatever part of the seed is missing; seeding twice changes nothing but the password.

        Another user with the same home name becomes a member of the same home. A seed that says so switches on-demand
        provisioning.

        Returns:
            The user's id and the home's id.
        """
        project = str(seed.project_id)
        with self._transaction():
            self._db.execute(
                "INSERT INTO projects (id, creation_ns, on_demand) VALUES (?1, ?2, coalesce(?3, 1))"
                " ON CONFLICT (id) DO UPDATE SET on_demand = coalesce(?3, on_demand)",
                (project, now_ns, seed.on_demand),
            )
            self._db.execute("INSERT OR IGNORE INTO apps VALUES (?, ?)", (project, seed.app_id))
            self._db.execute("INSERT OR IGNORE INTO classes VALUES (?, ?)", (project, seed.device_class))
            row = self._one("SELECT id FROM users WHERE project_id = ? AND email = ?", project, seed.email)
            user = row["id"] if row else self._new_id("user")
            self._db.execute(
                "INSERT INTO users (id, project_id, email, password) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET password = excluded.password",
                (user, project, seed.email, seed.password),
            )
            row = self._one("SELECT id FROM homes WHERE project_id = ? AND name = ?", project, seed.home_name)
            home = row["id"] if row else self._new_id("home")
            self._db.execute("INSERT OR IGNORE INTO homes VALUES (?, ?, ?, ?)", (home, project, seed.home_name, now_ns))
            self._add_member(home, user, "owner", now_ns)
        return int(user), int(home)

    # Projects -----------------------------------------------------------------------------------------------------

    def project(self, project_id: int) -> Project | None:
        """The project with this id, if there is one."""
        row = self._one("SELECT * FROM projects WHERE id = ?", str(project_id))
        return _project(row) if row else None

    def existing_project(self, project_id: int) -> Project:
        """The project with this id.

        Raises:
            UsageError: There is none.
        """
        project = self.project(project_id)
        if project is None:
            raise UsageError(f"there is no project {project_id}")
        return project

    def has_class(self, project_id: int, device_class: str) -> bool:
        """Whether the project has this device class."""
        sql = "SELECT 1 FROM classes WHERE project_id = ? AND name = ?"
        return self._one(sql, str(project_id), device_class) is not None

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

    def session(self, key: str, *, now_ns: int) -> Session | None:
        """The session that this key belongs to, if it is one and has not ended."""
        row = self._one(
            "SELECT sessions.*, project_id FROM sessions JOIN users ON users.id = user_id"
            " WHERE key = ? AND expires_ns > ?",
            key,
            now_ns,
        )
        if row is None:
            return None
        return Session(int(row["user_id"]), int(row["project_id"]), row["app_id"], row["expires_ns"], key)

    def project_key(self, key: str) -> ProjectKey | None:
        """The project that this key belongs to, if it is a project's."""
        row = self._one("SELECT project_id FROM project_keys WHERE key = ?", key)
        return ProjectKey(int(row["project_id"]), key) if row else None

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

    def _add_member(self, home_id: str, user_id: str, role: Role, now_ns: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", (home_id, user_id, role, now_ns))


def _project(row: sqlite3.Row) -> Project:
    return Project(int(row["id"]), row["name"], bool(row["on_demand"]), row["creation_ns"])


def _home(row: sqlite3.Row) -> Home:
    return Home(int(row["id"]), int(row["project_id"]), row["name"], row["creation_ns"])
