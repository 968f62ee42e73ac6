"""MODE's endpoints about keys and who has them; the events of users' homes, too, because they end with a session."""

import asyncio
import contextlib
from typing import Any, assert_never

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bletoken.sim.cloud.access import Access
from bletoken.sim.cloud.answers import RefusedError, answer
from bletoken.sim.cloud.body import Parameters
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.records import Device, ProjectKey, Session


class SessionApi:
    """The handlers of `/auth` and `/userSession`."""

    def __init__(self, core: Core, access: Access) -> None:
        self._core = core
        self._access = access

    def routes(self) -> list[BaseRoute]:
        """The endpoints."""
        return [
            Route("/auth/user", self.sign_in, methods=["POST"]),
            Route("/auth", self.who_am_i, methods=["GET"]),
            WebSocketRoute("/userSession/websocket", self.listen),
        ]

    async def sign_in(self, request: Request) -> Response:
        """`POST /auth/user`: a session key for an email and password."""
        parameters = await Parameters.of(request)
        session = self._core.store.sign_in(
            parameters.id("projectId"),
            parameters.text("appId"),
            parameters.text("email"),
            parameters.text("password"),
            expires_ns=self._core.later(self._core.settings.session_lifetime_s),
        )
        if session is None:
            raise RefusedError(self._core.settings.login_refused)
        expiration_time = self._core.time(session.expires_ns)
        return answer(200, {"token": session.key, "userId": session.user_id, "expirationTime": expiration_time})

    async def who_am_i(self, request: Request) -> Response:
        """`GET /auth`: what kind of key this is. A bad key, or none, is 200 and `nobody`."""
        match self._access.identify(request):
            case Session() as user:
                content: dict[str, Any] = {
                    "userId": user.user_id,
                    "projectId": user.project_id,
                    "appId": user.app_id,
                    "type": "user",
                }
            case Device() as device:
                content = {"deviceId": device.id, "projectId": device.project_id, "type": "device"}
            case ProjectKey() as project:
                content = {"projectId": project.project_id, "type": "project key"}
            case None:
                content = {"type": "nobody"}
            case other:
                assert_never(other)
        return answer(200, content)

    async def listen(self, websocket: WebSocket) -> None:
        """`GET /userSession/websocket`: the events of the user's homes, until either side closes."""
        with self._core.events.listening(self._access.user(websocket).user_id) as inbox:
            # Listening begins before the client learns that it does, so nothing is lost in between.
            await websocket.accept()
            async with asyncio.TaskGroup() as tasks:
                forwarding = tasks.create_task(_forward(inbox, websocket))
                while (await websocket.receive())["type"] != "websocket.disconnect":
                    pass
                forwarding.cancel()


async def _forward(inbox: asyncio.Queue[str], websocket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.send_text(await inbox.get())
