"""Who asks, and whether they may; it changes nothing."""

from starlette.requests import HTTPConnection, Request

from bletoken.sim.cloud.answers import RefusedError
from bletoken.sim.cloud.body import parse_id
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.records import Device, Home, Member, ProjectKey, Session

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
        self._limits = core.limits
        self._clock = core.clock

    def identify(self, connection: HTTPConnection) -> Caller | None:
        """Whose key came with the request, if a valid one did; counts as one request of its owner.

        Raises:
            RefusedError: The owner asks too often.
        """
        key = key_of(connection)
        caller = None if key is None else self._store.identify(key, now_ns=self._clock())
        if caller is not None:
            self._limits.take(caller)
        return caller

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

    def home(self, caller: Caller, home_id: int, *, for_project: bool = False) -> Home:
        """A home that the user is a member of.

        Args:
            caller: Who asks.
            home_id: The home.
            for_project: Whether the project's key does, too.

        Raises:
            RefusedError: The caller may not, or there is no such home.
        """
        if not isinstance(caller, Session) and not (for_project and isinstance(caller, ProjectKey)):
            raise RefusedError(self._settings.key_unsuitable)
        home = self._store.home(home_id)
        if home is None or (isinstance(caller, ProjectKey) and home.project_id != caller.project_id):
            raise RefusedError(self._settings.not_found)
        if isinstance(caller, Session) and caller.user_id not in self._store.members(home.id):
            raise RefusedError(self._settings.not_member)
        return home

    def home_in_path(self, request: Request, *, for_project: bool = False) -> Home:
        """The home in the path, for its members.

        Args:
            request: The request.
            for_project: Whether the project's key does, too.

        Raises:
            RefusedError: The caller may not, or there is no such home.
        """
        return self.home(self.caller(request), parse_id(request.path_params["id"]), for_project=for_project)

    def membership(self, request: Request) -> tuple[Home, Member]:
        """The home in the path, and which of its members asks.

        Raises:
            RefusedError: There is no such home, or the caller is no member.
        """
        user = self.user(request)
        home = self.home(user, parse_id(request.path_params["id"]))
        return home, self._store.members(home.id)[user.user_id]

    def device_in_path(
        self,
        connection: HTTPConnection,
        *,
        for_users: bool = False,
        for_itself: bool = False,
        for_project: bool = False,
    ) -> tuple[Caller, Device]:
        """Who asks, and the device in the path, if the caller may have it.

        Args:
            connection: The request.
            for_users: Whether the members of its home may.
            for_itself: Whether the device itself may.
            for_project: Whether the project's key may.

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
            return caller, caller
        if not (for_users if isinstance(caller, Session) else for_project):
            raise RefusedError(self._settings.key_unsuitable)
        device = self._store.device(device_id)
        if device is None or device.project_id != caller.project_id:
            raise RefusedError(self._settings.not_found)
        if isinstance(caller, Session):
            if device.home_id is None:
                raise RefusedError(self._settings.not_member)
            self.home(caller, device.home_id)
        return caller, device


def key_of(connection: HTTPConnection) -> str | None:
    """The key in `Authorization: ModeCloud KEY`; web sockets may have it as `authToken` in the query instead."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "modecloud":
        return key.strip()
    return connection.query_params.get("authToken") if connection.scope["type"] == "websocket" else None
