"""Who asks, and whether they may; it changes nothing."""

from starlette.requests import HTTPConnection, Request

from bletoken.sim.cloud.answers import RefusedError
from bletoken.sim.cloud.body import parse_id
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.records import Device, Home, ProjectKey, Session

Caller = Session | Device | ProjectKey
"""Whoever has a valid key."""


class Access:
    """What the holder of a key may see and change; everything else is refused.

    Args:
        core: The local MODE.
    """

    def __init__(self, core: Core) -> None:
        self._settings = core.settings
        self._store = core.store
        self._clock = core.clock

    def identify(self, connection: HTTPConnection) -> Caller | None:
        """Whose key came with the request, if a valid one did."""
        key = key_of(connection)
        return None if key is None else self._store.identify(key, now_ns=self._clock())

    def caller(self, connection: HTTPConnection) -> Caller:
        """Whose key came with the request.

        Raises:
            RefusedError: None did, or it is nobody's.
        """
        if key_of(connection) is None:
            raise RefusedError(self._settings.key_missing)
        caller = self.identify(connection)
        if caller is None:
            raise RefusedError(self._settings.key_refused)
        return caller

    def user(self, connection: HTTPConnection) -> Session:
        """The user whose key came with the request.

        Raises:
            RefusedError: It is no user's.
        """
        caller = self.caller(connection)
        if not isinstance(caller, Session):
            raise RefusedError(self._settings.key_unsuitable)
        return caller

    def itself(self, connection: HTTPConnection) -> Device:
        """The device whose key came with the request.

        Raises:
            RefusedError: It is no device's.
        """
        caller = self.caller(connection)
        if not isinstance(caller, Device):
            raise RefusedError(self._settings.key_unsuitable)
        return caller

    def home(self, user: Session, home_id: int) -> Home:
        """A home that the user is a member of.

        Raises:
            RefusedError: There is no such home, or the user is no member.
        """
        home = self._store.home(home_id)
        if home is None:
            raise RefusedError(self._settings.not_found)
        if user.user_id not in self._store.members(home.id):
            raise RefusedError(self._settings.not_member)
        return home

    def home_in_path(self, request: Request) -> Home:
        """The home in the path, for its members.

        Raises:
            RefusedError: There is no such home, or the caller is no member.
        """
        return self.home(self.user(request), parse_id(request.path_params["id"]))

    def device_in_path(
        self, connection: HTTPConnection, *, for_users: bool = False, for_itself: bool = False
    ) -> Device:
        """The device in the path, if the caller may have it.

        Args:
            connection: The request.
            for_users: Whether the members of its home may.
            for_itself: Whether the device itself may.

        Raises:
            RefusedError: The caller may not, or there is no such device.
        """
        caller = self.caller(connection)
        device_id = parse_id(connection.path_params["id"])
        if isinstance(caller, Device):
            if caller.id != device_id:
                raise RefusedError(self._settings.other_device)
            if not for_itself:
                raise RefusedError(self._settings.key_unsuitable)
            return caller
        if not for_users or not isinstance(caller, Session):
            raise RefusedError(self._settings.key_unsuitable)
        device = self._store.device(device_id)
        if device is None:
            raise RefusedError(self._settings.not_found)
        if device.home_id is None:
            raise RefusedError(self._settings.not_member)
        self.home(caller, device.home_id)
        return device


def key_of(connection: HTTPConnection) -> str | None:
    """The key in `Authorization: ModeCloud KEY`; web sockets may have it as `authToken` in the query instead."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "modecloud":
        return key.strip()
    return connection.query_params.get("authToken") if connection.scope["type"] == "websocket" else None
