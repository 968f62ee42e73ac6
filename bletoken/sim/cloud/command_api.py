"""MODE's endpoints about commands: how users send them, and how devices get them."""

import asyncio
import contextlib
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bletoken.sim.cloud.access import Access
from bletoken.sim.cloud.answers import RefusedError, answer, to_json
from bletoken.sim.cloud.body import Parameters
from bletoken.sim.cloud.commands import END, Inbox
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.records import Device

CHECK_S: Final = 1.0
"""How soon a socket closes after another process took its device away, for instance `bletoken-sim cloud device`."""


class CommandApi:
    """The handlers of `/devices/{id}/command`."""

    def __init__(self, core: Core, access: Access) -> None:
        self._core = core
        self._access = access

    def routes(self) -> list[BaseRoute]:
        """The endpoints."""
        return [
            Route("/devices/{id}/command", self.send, methods=["PUT"]),
            WebSocketRoute("/devices/{id}/command", self.wait),
        ]

    async def send(self, request: Request) -> Response:
        """`PUT /devices/{id}/command`: tell a device that is connected to do something."""
        _, device = self._access.device_in_path(request, for_users=True)
        parameters = await Parameters.of(request)
        command = {
            "action": parameters.text("action"),
            "parameters": parameters.optional_object("parameters") or {},
        }
        if not self._core.commands.send(device.id, to_json(command)):
            raise RefusedError(self._core.settings.device_offline)
        return answer(204)

    async def wait(self, websocket: WebSocket) -> None:
        """`GET /devices/{id}/command`: the device's commands, until either side closes.

        A device counts as connected while it has one such socket or more, and its home hears when that changes.
        """
        _, device = self._access.device_in_path(websocket, for_itself=True)
        if self._core.commands.sockets(device.id) >= self._core.settings.connections_of_device:
            raise RefusedError(self._core.settings.connections_refused)
        with self._core.commands.connected(device.id) as inbox:
            try:
                await websocket.accept()
                self._tell(device, "_deviceConnected_", first_or_last=self._core.commands.sockets(device.id) == 1)
                self._core.store.note_connection(device.id, connect_ns=self._core.clock())
                async with asyncio.TaskGroup() as tasks:
                    forwarding = tasks.create_task(self._forward(inbox, websocket, device))
                    while (await websocket.receive())["type"] != "websocket.disconnect":
                        pass
                    forwarding.cancel()
            finally:
                self._core.store.note_connection(device.id, disconnect_ns=self._core.clock())
        self._tell(device, "_deviceDisconnected_", first_or_last=self._core.commands.sockets(device.id) == 0)

    async def _forward(self, inbox: Inbox, websocket: WebSocket, device: Device) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                try:
                    async with asyncio.timeout(CHECK_S):
                        command = await inbox.get()
                except TimeoutError:
                    if self._is_removed(device):
                        command = END
                    else:
                        continue
                if command is END:
                    # Then the other end closes, too, and that is what the handler waits for.
                    await websocket.close(1008)
                    return
                await websocket.send_text(command)

    def _is_removed(self, device: Device) -> bool:
        now = self._core.store.device(device.id)
        return now is None or (now.home_id is None and device.home_id is not None)

    def _tell(self, device: Device, event_type: str, *, first_or_last: bool) -> None:
        if first_or_last or self._core.settings.connection_events_of_each:
            self._core.announce(device.id, event_type)
