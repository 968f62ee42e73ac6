"""MODE's endpoints for on-demand provisioning; what MODE's documents leave open is asked of the settings."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, assert_never

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bletoken.sim.cloud.answers import RefusedError, answer, timestamp, to_json
from bletoken.sim.cloud.body import Parameters, parse_id
from bletoken.sim.cloud.events import EventHub
from bletoken.sim.cloud.settings import Refusal, Settings
from bletoken.sim.cloud.store import Device, Home, Session, Store, TokenError


class Api:
    """The handlers of MODE's endpoints.

    Args:
        settings: How this MODE behaves.
        store: What it remembers.
        clock: Nanoseconds since the epoch.
    """

    def __init__(self, settings: Settings, store: Store, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._hub = EventHub()

    def routes(self) -> list[BaseRoute]:
        """The endpoints. Their paths are the templates that faults and the request log name them by."""
        return [
            Route("/auth/user", self.sign_in, methods=["POST"]),
            Route("/auth", self.who_am_i, methods=["GET"]),
            Route("/homes", self.list_homes, methods=["GET"]),
            Route("/homes/{id}", self.get_home, methods=["GET"]),
            Route("/homes/{id}/deviceProvisioning", self.issue_token, methods=["POST"]),
            Route("/devices", self.list_devices, methods=["GET"]),
            Route("/devices", self.add_device, methods=["POST"]),
            Route("/devices/{id}", self.get_device, methods=["GET"]),
            Route("/devices/{id}", self.change_device, methods=["PATCH"]),
            Route("/devices/{id}", self.delete_device, methods=["DELETE"]),
            Route("/devices/{id}/event", self.trigger_event, methods=["PUT"]),
            WebSocketRoute("/userSession/websocket", self.listen),
        ]

    # Keys ---------------------------------------------------------------------------------------------------------

    async def sign_in(self, request: Request) -> Response:
        """`POST /auth/user`: a session key for an email and password."""
        parameters = await Parameters.of(request)
        session = self._store.sign_in(
            parameters.id("projectId"),
            parameters.text("appId"),
            parameters.text("email"),
            parameters.text("password"),
            expires_ns=self._in(self._settings.session_lifetime_s),
        )
        if session is None:
            raise RefusedError(self._settings.login_refused)
        expiration_time = self._time(session.expires_ns)
        return answer(200, {"token": session.key, "userId": session.user_id, "expirationTime": expiration_time})

    async def who_am_i(self, request: Request) -> Response:
        """`GET /auth`: what kind of key this is. A bad key, or none, is 200 and `nobody`."""
        match self._identify(_key(request)):
            case Session() as user:
                content: dict[str, Any] = {
                    "userId": user.user_id,
                    "projectId": user.project_id,
                    "appId": user.app_id,
                    "type": "user",
                }
            case Device() as device:
                content = {"deviceId": device.id, "projectId": device.project_id, "type": "device"}
            case None:
                content = {"type": "nobody"}
            case other:
                assert_never(other)
        return answer(200, content)

    # Homes --------------------------------------------------------------------------------------------------------

    async def list_homes(self, request: Request) -> Response:
        """`GET /homes?userId=`: the user's own homes."""
        user = self._user(_key(request))
        if _query_id(request, "userId") != user.user_id:
            raise RefusedError(self._settings.key_unsuitable)
        return answer(200, [self._home_json(home) for home in self._store.homes_of(user.user_id)])

    async def get_home(self, request: Request) -> Response:
        """`GET /homes/{id}`."""
        return answer(200, self._home_json(self._home(request, parse_id(request.path_params["id"]))))

    async def issue_token(self, request: Request) -> Response:
        """`POST /homes/{id}/deviceProvisioning`: a provisioning token. No device is made yet."""
        home = self._home(request, parse_id(request.path_params["id"]))
        parameters = await Parameters.of(request)
        device_class = parameters.text("deviceClass")
        tag = parameters.optional_text("deviceTag") or ""
        if not self._settings.on_demand_enabled:
            raise RefusedError(self._settings.on_demand_refused)
        if not self._store.has_class(home.project_id, device_class):
            raise RefusedError(self._settings.class_unknown)
        expires_ns = self._in(self._settings.token_lifetime_s)
        token = self._store.issue_token(
            home.id, device_class, tag, length=self._settings.token_length, expires_ns=expires_ns
        )
        return answer(self._settings.provisioning_status, {"token": token, "expirationTime": self._time(expires_ns)})

    # Devices ------------------------------------------------------------------------------------------------------

    async def add_device(self, request: Request) -> Response:
        """`POST /devices` with a token: makes the device and gives out its key, this once.

        The token is all the authority it takes; an Authorization header is ignored.
        """
        parameters = await Parameters.of(request)
        try:
            device = self._store.redeem(
                parameters.text("token"),
                now_ns=self._clock(),
                single_use=self._settings.token_single_use,
                keep_tag=self._settings.tag_echoed,
            )
        except TokenError as e:
            raise RefusedError(self._token_refusal(e)) from e
        return answer(self._settings.redeem_status, {**self._device_json(device), "apiKey": device.api_key})

    async def list_devices(self, request: Request) -> Response:
        """`GET /devices?homeId=`."""
        user = self._user(_key(request))
        home = self._home_of(user, _query_id(request, "homeId"))
        return answer(200, [self._device_json(device) for device in self._store.devices(home.id)])

    async def get_device(self, request: Request) -> Response:
        """`GET /devices/{id}`, for members of the home and for the device itself."""
        return answer(200, self._device_json(self._device(request, for_users=True, for_itself=True)))

    async def change_device(self, request: Request) -> Response:
        """`PATCH /devices/{id}`: set the name, the tag, or both."""
        device = self._device(request, for_users=True)
        parameters = await Parameters.of(request)
        name, tag = parameters.optional_text("name"), parameters.optional_text("tag")
        if name is None and tag is None:
            raise RefusedError(Refusal(400, "MISSING_PARAMETERS"))
        self._store.change_device(device.id, name=name, tag=tag)
        return answer(204)

    async def delete_device(self, request: Request) -> Response:
        """`DELETE /devices/{id}`: its key stops working."""
        self._store.delete_device(self._device(request, for_users=True).id)
        return answer(204)

    # Events -------------------------------------------------------------------------------------------------------

    async def trigger_event(self, request: Request) -> Response:
        """`PUT /devices/{id}/event`: tell the members of the home who listen."""
        device = self._device(request, for_itself=True)
        parameters = await Parameters.of(request)
        event = {
            "homeId": device.home_id,
            "timestamp": self._time(self._clock()),
            "eventType": parameters.text("eventType"),
            "eventData": parameters.optional_object("eventData") or {},
            "originDeviceId": device.id,
        }
        self._hub.publish(to_json(event), self._store.members(device.home_id))
        return answer(204)

    async def listen(self, websocket: WebSocket) -> None:
        """`GET /userSession/websocket`: the events of the user's homes, until either side closes."""
        key = _key(websocket) or websocket.query_params.get("authToken")
        with self._hub.listening(self._user(key).user_id) as inbox:
            # Listening begins before the client learns that it does, so nothing is lost in between.
            await websocket.accept()
            async with asyncio.TaskGroup() as tasks:
                forwarding = tasks.create_task(_forward(inbox, websocket))
                while (await websocket.receive())["type"] != "websocket.disconnect":
                    pass
                forwarding.cancel()

    # Who may do what ----------------------------------------------------------------------------------------------

    def _identify(self, key: str | None) -> Session | Device | None:
        return None if key is None else self._store.identify(key, now_ns=self._clock())

    def _caller(self, key: str | None) -> Session | Device:
        if key is None:
            raise RefusedError(self._settings.key_missing)
        caller = self._identify(key)
        if caller is None:
            raise RefusedError(self._settings.key_refused)
        return caller

    def _user(self, key: str | None) -> Session:
        caller = self._caller(key)
        if not isinstance(caller, Session):
            raise RefusedError(self._settings.key_unsuitable)
        return caller

    def _home(self, request: Request, home_id: int) -> Home:
        return self._home_of(self._user(_key(request)), home_id)

    def _home_of(self, user: Session, home_id: int) -> Home:
        home = self._store.home(home_id)
        if home is None:
            raise RefusedError(self._settings.not_found)
        if user.user_id not in self._store.members(home.id):
            raise RefusedError(self._settings.not_member)
        return home

    def _device(self, request: Request, *, for_users: bool = False, for_itself: bool = False) -> Device:
        """The device in the path, if the caller may have it."""
        caller = self._caller(_key(request))
        device_id = parse_id(request.path_params["id"])
        if isinstance(caller, Device):
            if caller.id != device_id:
                raise RefusedError(self._settings.other_device)
            if not for_itself:
                raise RefusedError(self._settings.key_unsuitable)
            return caller
        if not for_users:
            raise RefusedError(self._settings.key_unsuitable)
        device = self._store.device(device_id)
        if device is None:
            raise RefusedError(self._settings.not_found)
        self._home_of(caller, device.home_id)
        return device

    def _token_refusal(self, problem: TokenError) -> Refusal:
        match problem.why:
            case "unknown":
                return self._settings.token_unknown
            case "expired":
                return self._settings.token_expired
            case "used":
                return self._settings.token_used
            case other:
                assert_never(other)

    # What it looks like -------------------------------------------------------------------------------------------

    def _in(self, seconds: float) -> int:
        return self._clock() + int(seconds * 10**9)

    def _time(self, time_ns: int) -> str:
        return timestamp(time_ns, digits=self._settings.timestamp_digits)

    def _home_json(self, home: Home) -> dict[str, Any]:
        return {
            "id": home.id,
            "projectId": home.project_id,
            "creationTime": self._time(home.creation_ns),
            "name": home.name,
            "deactivated": False,
        }

    def _device_json(self, device: Device) -> dict[str, Any]:
        return {
            "id": device.id,
            "projectId": device.project_id,
            "creationTime": self._time(device.creation_ns),
            "name": device.name,
            "tag": device.tag,
            "deviceClass": device.device_class,
            "homeId": device.home_id,
            "isConnected": False,
        }


def _key(connection: HTTPConnection) -> str | None:
    """The key in `Authorization: ModeCloud KEY`."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "modecloud" else None


def _query_id(request: Request, name: str) -> int:
    value = request.query_params.get(name)
    if value is None:
        raise RefusedError(Refusal(400, "MISSING_PARAMETERS"))
    return parse_id(value)


async def _forward(inbox: asyncio.Queue[str], websocket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.send_text(await inbox.get())
