"""MODE's endpoints about homes."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bletoken.sim.cloud.access import Access
from bletoken.sim.cloud.answers import RefusedError, answer
from bletoken.sim.cloud.body import Parameters, query_id
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.records import Device, Home, ProjectKey, Session


class HomeApi:
    """The handlers of `/homes`."""

    def __init__(self, core: Core, access: Access) -> None:
        self._core = core
        self._access = access

    def routes(self) -> list[BaseRoute]:
        """The endpoints."""
        return [
            Route("/homes", self.list_homes, methods=["GET"]),
            Route("/homes", self.make_home, methods=["POST"]),
            Route("/homes/{id}", self.get_home, methods=["GET"]),
            Route("/homes/{id}", self.rename_home, methods=["PATCH"]),
            Route("/homes/{id}", self.delete_home, methods=["DELETE"]),
            Route("/homes/{id}/deviceProvisioning", self.issue_token, methods=["POST"]),
        ]

    async def list_homes(self, request: Request) -> Response:
        """`GET /homes?userId=`, the user's own homes, or `?projectId=`, the project's, for its key."""
        match self._access.caller(request):
            case Session(user_id=user_id) if query_id(request, "userId") == user_id:
                homes = self._core.store.homes_of(user_id)
            case ProjectKey(project_id=project_id) if query_id(request, "projectId") == project_id:
                homes = self._core.store.homes_of_project(project_id)
            case _:
                raise RefusedError(self._core.settings.key_unsuitable)
        return answer(200, [self._home_json(home) for home in homes])

    async def make_home(self, request: Request) -> Response:
        """`POST /homes`: a home that belongs to the user; with the project's key it belongs to nobody yet."""
        caller = self._access.caller(request)
        if isinstance(caller, Device):
            raise RefusedError(self._core.settings.key_unsuitable)
        name = (await Parameters.of(request)).text("name")
        owner_id = caller.user_id if isinstance(caller, Session) else None
        if owner_id is not None and len(self._core.store.homes_of(owner_id)) >= self._core.settings.homes_of_user:
            raise RefusedError(self._core.settings.homes_exceeded)
        home = self._core.store.make_home(caller.project_id, name, owner_id=owner_id, now_ns=self._core.clock())
        return answer(self._core.settings.home_status, self._home_json(home))

    async def get_home(self, request: Request) -> Response:
        """`GET /homes/{id}`."""
        return answer(200, self._home_json(self._access.home_in_path(request, for_project=True)))

    async def rename_home(self, request: Request) -> Response:
        """`PATCH /homes/{id}`: set the name."""
        home = self._access.home_in_path(request)
        self._core.store.rename_home(home.id, (await Parameters.of(request)).text("name"))
        return answer(204)

    async def delete_home(self, request: Request) -> Response:
        """`DELETE /homes/{id}`, for its owners: the home is gone for all members, and its devices are removed."""
        home, member = self._access.membership(request)
        if member.role != "owner":
            raise RefusedError(self._core.settings.owners_only)
        devices = self._core.store.devices(home.id)
        self._core.store.delete_home(home.id, keep=self._core.settings.removed_device_kept)
        for device in devices:
            self._core.commands.disconnect(device.id)
        return answer(204)

    async def issue_token(self, request: Request) -> Response:
        """`POST /homes/{id}/deviceProvisioning`: a provisioning token. No device is made yet."""
        home = self._access.home_in_path(request)
        parameters = await Parameters.of(request)
        device_class = parameters.text("deviceClass")
        tag = parameters.optional_text("deviceTag") or ""
        settings, store = self._core.settings, self._core.store
        project = store.project(home.project_id)
        if project is None or not project.on_demand:
            raise RefusedError(settings.on_demand_refused)
        if not store.has_class(home.project_id, device_class):
            raise RefusedError(settings.class_unknown)
        expires_ns = self._core.later(settings.token_lifetime_s)
        token = store.issue_token(home.id, device_class, tag, length=settings.token_length, expires_ns=expires_ns)
        return answer(settings.provisioning_status, {"token": token, "expirationTime": self._core.time(expires_ns)})

    def _home_json(self, home: Home) -> dict[str, Any]:
        return {
            "id": home.id,
            "projectId": home.project_id,
            "creationTime": self._core.time(home.creation_ns),
            "name": home.name,
            "deactivated": False,
        }
