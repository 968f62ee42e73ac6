"""MODE's endpoints about the members of a home."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bletoken.sim.cloud.access import Access
from bletoken.sim.cloud.answers import RefusedError, answer, invalid
from bletoken.sim.cloud.body import Parameters, parse_id
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.records import Home, Member, MemberError, Role


class MemberApi:
    """The handlers of `/homes/{id}/members`."""

    def __init__(self, core: Core, access: Access) -> None:
        self._core = core
        self._access = access

    def routes(self) -> list[BaseRoute]:
        """The endpoints."""
        return [
            Route("/homes/{id}/members", self.list_members, methods=["GET"]),
            Route("/homes/{id}/members", self.add_member, methods=["POST"]),
            Route("/homes/{id}/members/{userId}", self.change_member, methods=["PATCH"]),
            Route("/homes/{id}/members/{userId}", self.remove_member, methods=["DELETE"]),
        ]

    async def list_members(self, request: Request) -> Response:
        """`GET /homes/{id}/members`."""
        home = self._access.home_in_path(request)
        return answer(200, [self._member_json(member) for member in self._core.store.members(home.id).values()])

    async def add_member(self, request: Request) -> Response:
        """`POST /homes/{id}/members`, for owners: another user of the project joins, named by email address."""
        home = self._owned_home(request)
        parameters = await Parameters.of(request)
        email, role = parameters.text("email"), _role(parameters.optional_text("role") or "member")
        user = self._core.store.user_by_email(home.project_id, email)
        if user is None:
            raise RefusedError(self._core.settings.member_unknown)
        if user.id in self._core.store.members(home.id):
            raise RefusedError(self._core.settings.member_exists)
        self._core.store.set_member(home.id, user.id, role, now_ns=self._core.clock())
        member = self._core.store.members(home.id)[user.id]
        return answer(self._core.settings.member_status, self._member_json(member))

    async def change_member(self, request: Request) -> Response:
        """`PATCH /homes/{id}/members/{userId}`, for owners: set the role."""
        home = self._owned_home(request)
        user_id = self._member_in_path(request, home)
        role = _role((await Parameters.of(request)).text("role"))
        try:
            self._core.store.set_member(home.id, user_id, role, now_ns=self._core.clock())
        except MemberError as e:
            raise RefusedError(self._core.settings.last_owner) from e
        return answer(204)

    async def remove_member(self, request: Request) -> Response:
        """`DELETE /homes/{id}/members/{userId}`, for owners, and for a member who leaves."""
        home, member = self._access.membership(request)
        user_id = self._member_in_path(request, home)
        if member.role != "owner" and member.user_id != user_id:
            raise RefusedError(self._core.settings.owners_only)
        try:
            self._core.store.remove_member(home.id, user_id)
        except MemberError as e:
            raise RefusedError(self._core.settings.last_owner) from e
        return answer(204)

    def _owned_home(self, request: Request) -> Home:
        home, member = self._access.membership(request)
        if member.role != "owner":
            raise RefusedError(self._core.settings.owners_only)
        return home

    def _member_in_path(self, request: Request, home: Home) -> int:
        user_id = parse_id(request.path_params["userId"])
        if user_id not in self._core.store.members(home.id):
            raise RefusedError(self._core.settings.not_found)
        return user_id

    def _member_json(self, member: Member) -> dict[str, Any]:
        return {
            "userId": member.user_id,
            "creationTime": self._core.time(member.creation_ns),
            "name": member.name,
            "email": member.email,
            "verified": True,
            "role": member.role,
        }


def _role(text: str) -> Role:
    roles: dict[str, Role] = {"owner": "owner", "member": "member"}
    if text not in roles:
        raise invalid()
    return roles[text]
