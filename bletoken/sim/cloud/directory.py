"""Projects and who is in them: apps, device classes, users, sessions, homes and members; it never knows of devices."""

import sqlite3

from bletoken.errors import UsageError
from bletoken.sim.cloud.database import Database, new_secret
from bletoken.sim.cloud.records import Home, Member, MemberError, Project, ProjectKey, Role, Seed, Session, User


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

    def make_project(
        self, name: str, *, project_id: int | None = None, on_demand: bool = False, now_ns: int
    ) -> Project:
        """Make a project, with the next free id unless one is given.

        Raises:
            UsageError: There is a project with this id.
        """
        with self._transaction():
            if project_id is not None and self.project(project_id) is not None:
                raise UsageError(f"there is a project {project_id} already")
            project = str(project_id) if project_id is not None else self._new_id("project")
            self._db.execute(
                "INSERT INTO projects (id, creation_ns, name, on_demand) VALUES (?, ?, ?, ?)",
                (project, now_ns, name, on_demand),
            )
        return self.existing_project(int(project))

    def set_on_demand(self, project_id: int, on_demand: bool) -> None:
        """Switch the project's "On-demand Device Provisioning" option.

        Raises:
            UsageError: There is no such project.
        """
        with self._transaction():
            project = str(self.existing_project(project_id).id)
            self._db.execute("UPDATE projects SET on_demand = ? WHERE id = ?", (on_demand, project))

    def projects(self) -> list[Project]:
        """All projects, oldest first."""
        return [_project(row) for row in self._db.execute("SELECT * FROM projects ORDER BY rowid")]

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

    def make_project_key(self, project_id: int) -> ProjectKey:
        """Make a key of the project.

        Raises:
            UsageError: There is no such project.
        """
        with self._transaction():
            key = ProjectKey(self.existing_project(project_id).id, new_secret(100))
            self._db.execute("INSERT INTO project_keys VALUES (?, ?)", (key.key, str(project_id)))
        return key

    def add_class(self, project_id: int, name: str) -> None:
        """Add a device class to the project; one that is there stays.

        Raises:
            UsageError: There is no such project.
        """
        with self._transaction():
            project = str(self.existing_project(project_id).id)
            self._db.execute("INSERT OR IGNORE INTO classes VALUES (?, ?)", (project, name))

    def add_app(self, project_id: int, app_id: str) -> None:
        """Add an app to the project; one that is there stays.

        Raises:
            UsageError: There is no such project.
        """
        with self._transaction():
            project = str(self.existing_project(project_id).id)
            self._db.execute("INSERT OR IGNORE INTO apps VALUES (?, ?)", (project, app_id))

    def classes(self, project_id: int) -> list[str]:
        """The device classes of the project."""
        rows = self._db.execute("SELECT name FROM classes WHERE project_id = ? ORDER BY rowid", (str(project_id),))
        return [row["name"] for row in rows]

    def apps(self, project_id: int) -> list[str]:
        """The ids of the project's apps."""
        rows = self._db.execute("SELECT id FROM apps WHERE project_id = ? ORDER BY rowid", (str(project_id),))
        return [row["id"] for row in rows]

    def has_class(self, project_id: int, device_class: str) -> bool:
        """Whether the project has this device class."""
        return device_class in self.classes(project_id)

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

    # Users --------------------------------------------------------------------------------------------------------

    def make_user(self, project_id: int, email: str, password: str, *, name: str = "") -> User:
        """Make a user, who can sign in at once.

        Raises:
            UsageError: There is no such project, or it has such a user.
        """
        with self._transaction():
            project = self.existing_project(project_id)
            if self.user_by_email(project.id, email) is not None:
                raise UsageError(f"project {project.id} has a user {email} already")
            user = User(int(self._new_id("user")), project.id, email, name)
            self._db.execute(
                "INSERT INTO users (id, project_id, email, password, name) VALUES (?, ?, ?, ?, ?)",
                (str(user.id), str(project.id), email, password, name),
            )
        return user

    def users(self, project_id: int) -> list[User]:
        """The users of the project, oldest first."""
        rows = self._db.execute("SELECT * FROM users WHERE project_id = ? ORDER BY rowid", (str(project_id),))
        return [_user(row) for row in rows]

    def user_by_email(self, project_id: int, email: str) -> User | None:
        """The project's user with this email address, if there is one."""
        row = self._one("SELECT * FROM users WHERE project_id = ? AND email = ?", str(project_id), email)
        return _user(row) if row else None

    # Homes --------------------------------------------------------------------------------------------------------

    def home(self, home_id: int) -> Home | None:
        """The home with this id, if there is one."""
        row = self._one("SELECT * FROM homes WHERE id = ?", str(home_id))
        return _home(row) if row else None

    def existing_home(self, home_id: int) -> Home:
        """The home with this id.

        Raises:
            UsageError: There is none.
        """
        home = self.home(home_id)
        if home is None:
            raise UsageError(f"there is no home {home_id}")
        return home

    def homes_of(self, user_id: int) -> list[Home]:
        """The homes that the user is a member of, oldest first."""
        rows = self._db.execute(
            "SELECT homes.* FROM homes JOIN members ON home_id = homes.id WHERE user_id = ? ORDER BY homes.rowid",
            (str(user_id),),
        )
        return [_home(row) for row in rows]

    def homes_of_project(self, project_id: int) -> list[Home]:
        """The homes of the project, oldest first."""
        rows = self._db.execute("SELECT * FROM homes WHERE project_id = ? ORDER BY rowid", (str(project_id),))
        return [_home(row) for row in rows]

    def make_home(self, project_id: int, name: str, *, owner_id: int | None = None, now_ns: int) -> Home:
        """Make a home, with this user as its owner if one is named."""
        with self._transaction():
            home = Home(int(self._new_id("home")), project_id, name, now_ns)
            self._db.execute("INSERT INTO homes VALUES (?, ?, ?, ?)", (str(home.id), str(project_id), name, now_ns))
            if owner_id is not None:
                self._add_member(str(home.id), str(owner_id), "owner", now_ns)
        return home

    def rename_home(self, home_id: int, name: str) -> None:
        """Give the home another name."""
        with self._transaction():
            self._db.execute("UPDATE homes SET name = ? WHERE id = ?", (name, str(home_id)))

    # Members ------------------------------------------------------------------------------------------------------

    def members(self, home_id: int) -> dict[int, Member]:
        """The members of the home by their users' ids, oldest first."""
        rows = self._db.execute(
            "SELECT members.*, email, name FROM members JOIN users ON users.id = user_id WHERE home_id = ?"
            " ORDER BY members.rowid",
            (str(home_id),),
        )
        members = (
            Member(int(row["user_id"]), row["email"], row["name"], row["role"], row["creation_ns"]) for row in rows
        )
        return {member.user_id: member for member in members}

    def set_member(self, home_id: int, user_id: int, role: Role, *, now_ns: int) -> None:
        """Make the user a member of the home, or give a member another role.

        Raises:
            MemberError: No owner would be left.
        """
        with self._transaction():
            self._add_member(str(home_id), str(user_id), role, now_ns)
            self._db.execute(
                "UPDATE members SET role = ? WHERE home_id = ? AND user_id = ?", (role, str(home_id), str(user_id))
            )
            self._check_owner(home_id)

    def remove_member(self, home_id: int, user_id: int) -> None:
        """End the user's membership of the home.

        Raises:
            MemberError: No owner would be left.
        """
        with self._transaction():
            self._db.execute("DELETE FROM members WHERE home_id = ? AND user_id = ?", (str(home_id), str(user_id)))
            self._check_owner(home_id)

    def _add_member(self, home_id: str, user_id: str, role: Role, now_ns: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", (home_id, user_id, role, now_ns))

    def _check_owner(self, home_id: int) -> None:
        if not self._one("SELECT 1 FROM members WHERE home_id = ? AND role = 'owner'", str(home_id)):
            raise MemberError(f"home {home_id} would have no owner")


def _project(row: sqlite3.Row) -> Project:
    return Project(int(row["id"]), row["name"], bool(row["on_demand"]), row["creation_ns"])


def _home(row: sqlite3.Row) -> Home:
    return Home(int(row["id"]), int(row["project_id"]), row["name"], row["creation_ns"])


def _user(row: sqlite3.Row) -> User:
    return User(int(row["id"]), int(row["project_id"]), row["email"], row["name"])
