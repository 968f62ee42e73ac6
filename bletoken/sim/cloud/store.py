"""What the local MODE remembers of devices and tokens, above all the rest; it never knows HTTP, and never waits.

Each operation that changes something is one transaction, so a process that is killed has done it or has not, and two
processes on one file cannot redeem one token, or claim one device, twice.
"""

import secrets
import sqlite3

from bletoken.errors import UsageError
from bletoken.sim.cloud.database import new_secret
from bletoken.sim.cloud.directory import Directory
from bletoken.sim.cloud.records import ClaimError, Device, ProjectKey, Session, Token, TokenError


class Store(Directory):
    """Everything the local MODE remembers, in one database file."""

    def identify(self, key: str, *, now_ns: int) -> Session | Device | ProjectKey | None:
        """Whose key this is: a user's session, a device, a project, or nobody's."""
        if found := self.session(key, now_ns=now_ns) or self.project_key(key):
            return found
        row = self._one("SELECT * FROM devices WHERE api_key = ?", key)
        return _device(row) if row else None

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

    def tokens(self, home_id: int) -> list[Token]:
        """The home's tokens, oldest first, used and expired ones, too."""
        rows = self._db.execute("SELECT * FROM tokens WHERE home_id = ? ORDER BY rowid", (str(home_id),))
        return [Token(row["device_class"], row["tag"], row["expires_ns"], row["used_ns"]) for row in rows]

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
            return self._insert_device(
                Device(
                    id=int(self._new_id("device")),
                    project_id=int(row["project_id"]),
                    home_id=int(row["home_id"]),
                    device_class=row["device_class"],
                    name="",
                    tag=row["tag"] if keep_tag else "",
                    creation_ns=now_ns,
                    api_key=new_secret(100),
                )
            )

    # Claiming -----------------------------------------------------------------------------------------------------

    def open_claim(self, device_id: int, *, expires_ns: int | None) -> None:
        """Switch the device's claim mode on until then, or off.

        Raises:
            ClaimError: It is in a home already, or is no more.
        """
        with self._transaction():
            changed = self._db.execute(
                "UPDATE devices SET claim_expires_ns = ?1 WHERE id = ?2 AND (home_id IS NULL OR ?1 IS NULL)",
                (expires_ns, str(device_id)),
            )
            if not changed.rowcount:
                raise ClaimError("in home")

    def claim(self, claim_code: str, home_id: int, *, now_ns: int) -> Device:
        """Put the device that has this claim code into the home, which ends its claim mode.

        Raises:
            ClaimError: The home's project has no such device, it is in a home, or its claim mode is off or over.
        """
        with self._transaction():
            row = self._one(
                "SELECT devices.* FROM devices JOIN homes USING (project_id) WHERE claim_code = ? AND homes.id = ?",
                claim_code,
                str(home_id),
            )
            if row is None:
                raise ClaimError("unknown")
            device = _device(row)
            if device.home_id is not None:
                raise ClaimError("in home")
            if not device.is_claimable(now_ns):
                raise ClaimError("not claimable")
            self._db.execute(
                "UPDATE devices SET home_id = ?, claim_ns = ?, claim_expires_ns = NULL WHERE id = ?",
                (str(home_id), now_ns, row["id"]),
            )
            claimed = self.device(device.id)
        assert claimed is not None, "found in the same transaction"
        return claimed

    # Devices ------------------------------------------------------------------------------------------------------

    def make_device(self, project_id: int, device_class: str, *, name: str = "", tag: str = "", now_ns: int) -> Device:
        """Make a device ahead of time, in no home, with a claim code.

        Raises:
            UsageError: There is no such project or class, or the project makes its devices on demand.
        """
        with self._transaction():
            project = self.existing_project(project_id)
            if project.on_demand:
                raise UsageError(
                    f"project {project_id} makes its devices on demand, so none can be made by hand;"
                    " switch on-demand provisioning off first"
                )
            if not self.has_class(project_id, device_class):
                raise UsageError(f"project {project_id} has no device class {device_class!r}")
            return self._insert_device(
                Device(
                    id=int(self._new_id("device")),
                    project_id=project_id,
                    home_id=None,
                    device_class=device_class,
                    name=name,
                    tag=tag,
                    creation_ns=now_ns,
                    api_key=new_secret(100),
                    # Hexadecimal, because people may have to type it.
                    claim_code=secrets.token_hex(12),
                )
            )

    def device(self, device_id: int) -> Device | None:
        """The device with this id, if there is one."""
        row = self._one("SELECT * FROM devices WHERE id = ?", str(device_id))
        return _device(row) if row else None

    def existing_device(self, device_id: int) -> Device:
        """The device with this id.

        Raises:
            UsageError: There is none.
        """
        device = self.device(device_id)
        if device is None:
            raise UsageError(f"there is no device {device_id}")
        return device

    def devices(self, home_id: int | None = None) -> list[Device]:
        """The devices of a home, or all of them, oldest first."""
        rows = self._db.execute(
            "SELECT * FROM devices WHERE ?1 IS NULL OR home_id = ?1 ORDER BY rowid",
            (None if home_id is None else str(home_id),),
        )
        return [_device(row) for row in rows]

    def devices_of_project(self, project_id: int) -> list[Device]:
        """The devices of a project, in homes or not, oldest first."""
        rows = self._db.execute("SELECT * FROM devices WHERE project_id = ? ORDER BY rowid", (str(project_id),))
        return [_device(row) for row in rows]

    def change_device(
        self,
        device_id: int,
        *,
        name: str | None = None,
        tag: str | None = None,
        home_id: int | None = None,
        claim_code: str | None = None,
    ) -> bool:
        """Set whatever is given; a new home ends the claim mode.

        Returns:
            False, and nothing is changed, where another device has this claim code, or the home is another project's.
        """
        home = None if home_id is None else str(home_id)
        with self._transaction():
            if claim_code is not None and self._one(
                "SELECT 1 FROM devices WHERE claim_code = ? AND id != ?", claim_code, str(device_id)
            ):
                return False
            if home is not None and not self._one(
                "SELECT 1 FROM devices JOIN homes USING (project_id) WHERE devices.id = ? AND homes.id = ?",
                str(device_id),
                home,
            ):
                return False
            self._db.execute(
                "UPDATE devices SET name = coalesce(?1, name), tag = coalesce(?2, tag),"
                " home_id = coalesce(?3, home_id), claim_expires_ns = iif(?3 IS NULL, claim_expires_ns, NULL),"
                " claim_code = coalesce(?4, claim_code) WHERE id = ?5",
                (name, tag, home, claim_code, str(device_id)),
            )
        return True

    def note_connection(
        self, device_id: int, *, connect_ns: int | None = None, disconnect_ns: int | None = None
    ) -> None:
        """Remember when the device opened or closed a command socket."""
        with self._transaction():
            self._db.execute(
                "UPDATE devices SET connect_ns = coalesce(?, connect_ns), disconnect_ns = coalesce(?, disconnect_ns)"
                " WHERE id = ?",
                (connect_ns, disconnect_ns, str(device_id)),
            )

    def remove_device(self, device_id: int, *, keep: bool = True) -> None:
        """Take the device out of its home.

        Args:
            device_id: The device.
            keep: Whether one that was made ahead of time keeps its key and can be claimed again. Otherwise it is gone,
                like one that was made on demand.
        """
        with self._transaction():
            self._remove([(str(device_id),)], keep=keep)

    def delete_device(self, device_id: int) -> None:
        """Delete the device; its key is nobody's from then on."""
        with self._transaction():
            self._db.execute("DELETE FROM devices WHERE id = ?", (str(device_id),))

    def delete_home(self, home_id: int, *, keep: bool = True) -> None:
        """Delete the home with its members and tokens; its devices are removed as `remove_device` says."""
        home = str(home_id)
        with self._transaction():
            self._remove([(str(device.id),) for device in self.devices(home_id)], keep=keep)
            self._db.execute("DELETE FROM tokens WHERE home_id = ?", (home,))
            self._db.execute("DELETE FROM members WHERE home_id = ?", (home,))
            self._db.execute("DELETE FROM homes WHERE id = ?", (home,))

    def _remove(self, ids: list[tuple[str]], *, keep: bool) -> None:
        if keep:
            self._db.executemany(
                "UPDATE devices SET home_id = NULL, claim_ns = NULL, claim_expires_ns = NULL"
                " WHERE id = ? AND claim_code IS NOT NULL",
                ids,
            )
        # A device without a claim code could never come into a home again.
        condition = "AND claim_code IS NULL" if keep else ""
        self._db.executemany(f"DELETE FROM devices WHERE id = ? {condition}", ids)  # noqa: S608 - a condition of ours

    def _insert_device(self, device: Device) -> Device:
        self._db.execute(
            "INSERT INTO devices (id, project_id, home_id, device_class, name, tag, api_key, claim_code, creation_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                str(device.id),
                str(device.project_id),
                None if device.home_id is None else str(device.home_id),
                device.device_class,
                device.name,
                device.tag,
                device.api_key,
                device.claim_code,
                device.creation_ns,
            ),
        )
        return device


def _device(row: sqlite3.Row) -> Device:
    return Device(
        id=int(row["id"]),
        project_id=int(row["project_id"]),
        home_id=None if row["home_id"] is None else int(row["home_id"]),
        device_class=row["device_class"],
        name=row["name"],
        tag=row["tag"],
        creation_ns=row["creation_ns"],
        claim_expires_ns=row["claim_expires_ns"],
        claim_ns=row["claim_ns"],
        connect_ns=row["connect_ns"],
        disconnect_ns=row["disconnect_ns"],
        api_key=row["api_key"],
        claim_code=row["claim_code"],
    )
