"""MODE's endpoints about devices: how they come to be, are claimed, seen, changed, heard and removed."""

from typing import Any, assert_never

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bletoken.sim.cloud.access import Access, Caller
from bletoken.sim.cloud.answers import RefusedError, answer, invalid
from bletoken.sim.cloud.body import Parameters, query_id
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.records import ClaimError, Device, ProjectKey, TokenError
from bletoken.sim.cloud.settings import Refusal


class DeviceApi:
    """The handlers of `/deviceRegistration` and `/devices`."""

    def __init__(self, core: Core, access: Access) -> None:
        self._core = core
        self._access = access

    def routes(self) -> list[BaseRoute]:
        """The endpoints."""
        return [
            Route("/deviceRegistration", self.register, methods=["POST"]),
            Route("/devices", self.list_devices, methods=["GET"]),
            Route("/devices", self.add_device, methods=["POST"]),
            Route("/devices/{id}", self.get_device, methods=["GET"]),
            Route("/devices/{id}", self.change_device, methods=["PATCH"]),
            Route("/devices/{id}", self.delete_device, methods=["DELETE"]),
            Route("/devices/{id}/event", self.trigger_event, methods=["PUT"]),
        ]

    # How a device gets into a home --------------------------------------------------------------------------------

    async def register(self, request: Request) -> Response:
        """`POST /deviceRegistration`: a device that was made ahead of time switches its claim mode on or off."""
        device = self._access.itself(request)
        try:
            parameters = await Parameters.of(request)
            device_id, claimable = parameters.id("deviceId"), parameters.truth("claimable")
            duration_s = parameters.whole_number("duration") if claimable else 0
            if claimable and not 1 <= duration_s <= self._core.settings.claim_longest_s:
                raise invalid()
        except RefusedError as e:
            status = self._core.settings.registration_invalid_status
            raise RefusedError(Refusal(status, e.refusal.reason)) from e
        if device_id != device.id:
            raise RefusedError(self._core.settings.other_device)
        expires_ns = self._core.later(duration_s)
        try:
            self._core.store.open_claim(device.id, expires_ns=expires_ns if claimable else None)
        except ClaimError as e:
            raise RefusedError(self._claim_refusal(e)) from e
        if claimable or self._core.settings.claim_off == "time":
            return answer(200, {"claimExpirationTime": self._core.time(expires_ns)})
        return answer(204) if self._core.settings.claim_off == "nothing" else answer(200, {})

    async def add_device(self, request: Request) -> Response:
        """`POST /devices`: with a token by a device that is to be made, or with a claim code by a user."""
        parameters = await Parameters.of(request)
        if parameters.has("claimCode") and not parameters.has("token"):
            return self._claim(request, parameters)
        return self._redeem(parameters)

    def _redeem(self, parameters: Parameters) -> Response:
        """Make the device and give out its key, this once.

        The token is all the authority it takes; an Authorization header is ignored.
        """
        settings = self._core.settings
        try:
            device = self._core.store.redeem(
                parameters.text("token"),
                now_ns=self._core.clock(),
                single_use=settings.token_single_use,
                keep_tag=settings.tag_echoed,
            )
        except TokenError as e:
            raise RefusedError(self._token_refusal(e)) from e
        return answer(settings.redeem_status, {**self._device_json(device), "apiKey": device.api_key})

    def _claim(self, request: Request, parameters: Parameters) -> Response:
        """Put a device that was made ahead of time into a home of the user."""
        user = self._access.user(request)
        home_id, claim_code = parameters.id("homeId"), parameters.text("claimCode")
        home = self._access.home(user, home_id)
        try:
            device = self._core.store.claim(claim_code, home.id, now_ns=self._core.clock())
        except ClaimError as e:
            raise RefusedError(self._claim_refusal(e)) from e
        return answer(self._core.settings.claim_status, self._device_json(device))

    # What is done with it there -----------------------------------------------------------------------------------

    async def list_devices(self, request: Request) -> Response:
        """`GET /devices?homeId=`, for members and the project's key, or `?projectId=`, for the latter."""
        caller = self._access.caller(request)
        if isinstance(caller, ProjectKey) and "projectId" in request.query_params:
            if query_id(request, "projectId") != caller.project_id:
                raise RefusedError(self._core.settings.key_unsuitable)
            devices = self._core.store.devices_of_project(caller.project_id)
        else:
            if isinstance(caller, Device):
                raise RefusedError(self._core.settings.key_unsuitable)
            home = self._access.home(caller, query_id(request, "homeId"), for_project=True)
            devices = self._core.store.devices(home.id)
        return answer(200, [self._device_json(device, seen_by=caller) for device in devices])

    async def get_device(self, request: Request) -> Response:
        """`GET /devices/{id}`, for members of the home, the device itself and the project's key."""
        caller, device = self._access.device_in_path(request, for_users=True, for_itself=True, for_project=True)
        return answer(200, self._device_json(device, seen_by=caller))

    async def change_device(self, request: Request) -> Response:
        """`PATCH /devices/{id}`: set the name and the tag; with the project's key the home and claim code, too."""
        caller, device = self._access.device_in_path(request, for_users=True, for_project=True)
        parameters = await Parameters.of(request)
        name, tag = parameters.optional_text("name"), parameters.optional_text("tag")
        home_id = parameters.id("homeId") if parameters.has("homeId") else None
        claim_code = parameters.optional_text("claimCode")
        if name is None and tag is None and home_id is None and claim_code is None:
            raise RefusedError(Refusal(400, "MISSING_PARAMETERS"))
        if not isinstance(caller, ProjectKey) and not (home_id is None and claim_code is None):
            raise RefusedError(self._core.settings.key_unsuitable)
        if claim_code is not None and not 16 <= len(claim_code) <= 100:
            raise invalid()
        if not self._core.store.change_device(device.id, name=name, tag=tag, home_id=home_id, claim_code=claim_code):
            raise invalid()
        return answer(204)

    async def delete_device(self, request: Request) -> Response:
        """`DELETE /devices/{id}`: out of the home. One that was made on demand is gone, and its key stops working."""
        _, device = self._access.device_in_path(request, for_users=True)
        self._core.remove_device(device.id)
        return answer(204)

    async def trigger_event(self, request: Request) -> Response:
        """`PUT /devices/{id}/event`: tell the members of the home who listen."""
        _, device = self._access.device_in_path(request, for_itself=True)
        parameters = await Parameters.of(request)
        event_type, event_data = parameters.text("eventType"), parameters.optional_object("eventData")
        heard = self._core.announce(device.id, event_type, event_data)
        if not heard and not self._core.settings.event_without_home_taken:
            raise RefusedError(self._core.settings.not_member)
        return answer(204)

    # What it looks like -------------------------------------------------------------------------------------------

    def _token_refusal(self, problem: TokenError) -> Refusal:
        match problem.why:
            case "unknown":
                return self._core.settings.token_unknown
            case "expired":
                return self._core.settings.token_expired
            case "used":
                return self._core.settings.token_used
            case other:
                assert_never(other)

    def _claim_refusal(self, problem: ClaimError) -> Refusal:
        match problem.why:
            case "unknown":
                return self._core.settings.claim_code_unknown
            case "in home":
                return self._core.settings.claim_in_home
            case "not claimable":
                return self._core.settings.claim_not_possible
            case other:
                assert_never(other)

    def _device_json(self, device: Device, *, seen_by: Caller | None = None) -> dict[str, Any]:
        content: dict[str, Any] = {
            "id": device.id,
            "projectId": device.project_id,
            "creationTime": self._core.time(device.creation_ns),
            "name": device.name,
            "tag": device.tag,
            "deviceClass": device.device_class,
            "homeId": device.home_id,
            "claimTime": device.claim_ns,
            "claimExpirationTime": device.claim_expires_ns if device.is_claimable(self._core.clock()) else None,
            "isConnected": self._core.commands.sockets(device.id) > 0,
            "lastConnectTime": device.connect_ns,
            "lastDisconnectTime": device.disconnect_ns,
        }
        for name in ("claimTime", "claimExpirationTime", "lastConnectTime", "lastDisconnectTime"):
            if content[name] is not None:
                content[name] = self._core.time(content[name])
        if isinstance(seen_by, ProjectKey):
            content |= {"apiKey": device.api_key, "claimCode": device.claim_code}
        # What does not apply is left out, as MODE's own examples show.
        return {name: value for name, value in content.items() if value is not None}
