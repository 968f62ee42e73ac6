"""MODE's endpoints about homes."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bletoken.sim.cloud.access import Access
from bletoken.sim.cloud.answers import RefusedError, answer
from bletoken.sim.cloud.body import Parameters, query_id
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.records import Home


class HomeApi:
    """The handlers of `/homes`."""

    def __init__(self, core: Core, access: Access) -> None:
        self._core = core
        self._access = access

    def routes(self) -> list[BaseRoute]:
        """The endpoints."""
        return [
            Route("/homes", self.list_homes, methods=["GET"]),
            Route("/homes/{id}", self.get_home, methods=["GET"]),
            Route("/homes/{id}/deviceProvisioning", self.issue_token, methods=["POST"]),
        ]

    async def list_homes(self, request: Request) -> Response:
        """`GET /homes?userId=`: the user's own homes."""
        user = self._access.user(request)
        if query_id(request, "userId") != user.user_id:
            raise RefusedError(self._core.settings.key_unsuitable)
        return answer(200, [self._home_json(home) for home in self._core.store.homes_of(user.user_id)])

    async def get_home(self, request: Request) -> Response:
        """`GET /homes/{id}`."""
        return answer(200, self._home_json(self._access.home_in_path(request)))

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
